"""What clients of the sandbox server send and read, as both of OpenHands' clients have it on the wire.

The older client and the SDK's `APIRemoteWorkspace` read one record of a sandbox, each other fields of it.
"""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from runner.sandboxes import commands, wished
from runner.sandboxes.host import Counts
from runner.sandboxes.nouns import Phase, Pull, Session, Wish

MOST = 1 << 20
"""Characters of a text that a client may send."""
DEEPEST = 4096
"""Characters of a path."""
NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.~:@=+-]{0,199}$"
IMAGE = r"^[A-Za-z0-9/._~][^\x00-\x1f\x7f]*$"
TEXT = r"^[^\x00]*$"
Text = Annotated[str, Field(max_length=MOST, pattern=TEXT)]
LINE = r"""^(?:[^'"\\\x00]|\\[^\x00]|'[^'\x00]*'|"(?:[^"\\\x00]|\\[^\x00])*")*$"""
"""Words as sh writes them: every quote has its end. Who splits them says better what is wrong."""
Line = Annotated[Text, WithJsonSchema({"type": "string", "maxLength": MOST, "pattern": LINE})]
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
Variable = Annotated[str, Field(pattern=VARIABLE)]


def folder(said: str) -> str:
    if len(said) > DEEPEST or not re.fullmatch(wished.FOLDER, said):
        raise ValueError(wished.NO_FOLDER)
    return said


def variables(env: dict[str, str]) -> dict[str, str]:
    if found := wished.wrong(env):
        raise ValueError(found)
    return env


Folder = Annotated[
    str,
    AfterValidator(folder),
    WithJsonSchema({"type": "string", "maxLength": DEEPEST, "pattern": wished.FOLDER}),
]
"""These two say in words what they miss, where a pattern would only be shown."""
Environment = Annotated[
    dict[Variable, Annotated[str, Field(max_length=MOST)]],
    AfterValidator(variables),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": VARIABLE},
            "properties": {wished.HOME: {"type": "string", "maxLength": MOST, "pattern": wished.FOLDER}},
            "additionalProperties": {"type": "string", "maxLength": MOST, "pattern": wished.VALUE},
        }
    ),
]
"""Said in full: of the names' pattern pydantic makes one that lets any other name pass."""

Status = Literal["pending", "running", "paused", "stopped", "failed"]
Pod = Literal["pending", "running", "ready", "paused", "failed"]
STATUS: dict[Phase, Status] = {
    "queued": "pending", "starting": "pending", "ready": "running", "paused": "paused", "failed": "failed",
    "stopped": "stopped",
}  # fmt: skip


def whole(value: object) -> object:
    """In JSON 3.0 is 3; in Python it is no int."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class StartRequest(BaseModel):
    """A sandbox that is wanted. Fields that other servers know (fs_group, runtime_class) are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)

    image: Annotated[str, Field(max_length=4096, pattern=IMAGE)]
    session_id: Annotated[str, Field(pattern=NAME)] | None = Field(
        None, description="by which the sandbox is found again; made up if there is none"
    )
    command: Line | list[Text] | None = Field(
        None, description="words, or one line of them; empty: the agent-server's own start"
    )
    working_dir: Folder | None = Field(
        None, description="an absolute path in the sandbox, without `..` and colons; made if it is missing"
    )
    environment: Environment | None = Field(
        None, description="no value has a line break; HOME is a path as working_dir is"
    )
    run_as_user: Annotated[int, Field(ge=0, lt=1 << 32), BeforeValidator(whole)] | None = Field(
        None, description="not followed: a sandbox runs as the own user of its image"
    )
    image_pull_policy: Pull = "IfNotPresent"
    resource_factor: Annotated[Literal[1, 2, 4, 8], BeforeValidator(whole)] = 1

    def wish(self) -> Wish:
        return Wish(
            session=self.session_id or f"sandbox-{secrets.token_hex(8)}",
            image=self.image,
            command=commands.words(self.command),
            env=dict(self.environment or {}),
            workdir=self.working_dir or None,
            user=self.run_as_user,
            pull=self.image_pull_policy,
            factor=self.resource_factor,
        )


class RuntimeRequest(BaseModel):
    """A sandbox by its id."""

    model_config = ConfigDict(extra="ignore", strict=True)

    runtime_id: Annotated[str, Field(max_length=200)]


class Runtime(BaseModel):
    """A sandbox, as both clients read it. Times are seconds since 1970; 0: not yet."""

    runtime_id: str
    session_id: str
    url: str
    session_api_key: str
    status: Status
    pod_status: Pod
    phase: Phase
    why: str = Field(description="of one that failed, in one line")
    image: str
    resource_factor: int
    restart_count: int
    restart_reasons: list[str]
    work_hosts: dict[str, int]
    pod_logs: str = Field(description="of one that has ended: why, and the end of its log")
    began: float
    started: float
    ready: float
    used: float
    ended: float


class Listed(BaseModel):
    """Sandboxes that live, the oldest first; and the slots of this server."""

    total: int
    runtimes: list[Runtime]
    slots: int
    free: int
    waiting: int


class Health(BaseModel):
    """That the server answers, and how it holds sandboxes apart."""

    status: Literal["ok"]
    engine: str
    limits: dict[str, str]


class Prefix(BaseModel):
    registry_prefix: str


class Image(BaseModel):
    upload_time: str
    image_size_bytes: int


class ImageExists(BaseModel):
    exists: bool
    image: Image | None = None


class Problem(BaseModel):
    """What was wrong, in one line; error: its kind in a word."""

    error: str
    detail: str


def runtime(session: Session, logs: str = "") -> dict[str, Any]:
    """The record of a sandbox, as `Runtime` says. A dict: a list of a thousand is no pydantic's business."""
    wish = session.wish
    return {
        "runtime_id": session.id,
        "session_id": wish.session,
        "url": session.url,
        "session_api_key": session.key,
        "status": STATUS[session.phase],
        "pod_status": pod(session),
        "phase": session.phase,
        "why": session.why,
        "image": wish.image,
        "resource_factor": wish.factor,
        "restart_count": 0,
        "restart_reasons": [],
        "work_hosts": {},
        "pod_logs": logs if session.why in logs else "\n".join(filter(None, [session.why, logs])),
        "began": session.began,
        "started": session.started,
        "ready": session.ready,
        "used": session.used,
        "ended": session.ended,
    }


def session(record: dict[str, Any]) -> Session:
    """What a record tells of a sandbox: as much as clients are told of it."""
    wish = Wish(
        session=record["session_id"], image=record["image"], factor=record["resource_factor"]
    )  # fmt: skip
    same = {
        each: record[each] for each in ("phase", "why", "url", "began", "started", "ready", "used", "ended")
    }
    return Session(
        id=record["runtime_id"], wish=wish, key=record["session_api_key"], slots=wish.factor, **same
    )  # fmt: skip


def body(wish: Wish) -> dict[str, Any]:
    """What `StartRequest` reads as this wish."""
    return {
        "image": wish.image,
        "session_id": wish.session,
        "command": list(wish.command) or None,
        "environment": wish.env,
        "working_dir": wish.workdir,
        "run_as_user": wish.user,
        "image_pull_policy": wish.pull,
        "resource_factor": wish.factor,
    }


def pod(session: Session) -> Pod:
    """As Kubernetes would call it. A stopped one is failed: who still waits for it must not wait on."""
    match session.phase:
        case "ready":
            return "ready"
        case "paused":
            return "paused"
        case "starting" if session.started:
            return "running"
        case "queued" | "starting":
            return "pending"
    return "failed"


def listed(records: list[Any], counts: Counts) -> dict[str, Any]:
    """records: of the sandboxes, as `runtime` or already written."""
    return {
        "total": len(records),
        "runtimes": records,
        "slots": counts.slots,
        "free": counts.free,
        "waiting": counts.waiting,
    }
