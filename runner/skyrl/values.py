"""Values of SkyRL's configuration: taken for what their key holds, and written as a command line has them.

`${…}` is OmegaConf's in both versions: it is passed on, and `\\${` is how it is taken as it is written.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from runner.skyrl.versions import Kind

FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?inf|nan")
EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
WORD = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")  # what is text without quotes, to Hydra and to YAML
SPECIAL = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "inf", "nan"}
UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")
EXPECTED = {"number": "a number", "truth": "true or false", "text": "text", "list": "a list",
            "mapping": "a mapping"}  # fmt: skip


def taken(value: Any, kind: Kind) -> Any:
    """The value as its key wants it; ValueError with what was expected instead.

    Text that is a number or a truth is taken as one where its key holds such: 1e-6 is text to YAML 1.1.
    """
    if value is None or (isinstance(value, str) and "${" in value):
        return value
    if kind in ("number", "truth"):
        return _simple(value, kind)
    if kind == "text":
        if isinstance(value, bool | dict):
            raise ValueError(f"{EXPECTED[kind]} (in quotes)")
        return value if isinstance(value, str | list) else str(value)
    if (kind == "list" and not isinstance(value, list)) or (
        kind == "mapping" and not isinstance(value, dict)
    ):
        raise ValueError(EXPECTED[kind])
    return plain(value)


def plain(value: Any) -> Any:
    """A value whose key says nothing of it. Only `1e-6`, which is text to YAML 1.1, becomes a number,
    and what JSON has not, as a date, becomes text."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, str):
        return float(value) if EXPONENT.fullmatch(value) else value
    return value if value is None or isinstance(value, int | float) else str(value)


def _simple(value: Any, kind: Kind) -> Any:
    if isinstance(value, str):
        lower = value.strip().lower()
        if lower in ("none", "null"):
            return None
        if lower in ("true", "false") and kind == "truth":
            return lower == "true"
        if kind == "number" and FLOAT.fullmatch(lower):
            return int(lower) if re.fullmatch(r"[-+]?\d+", lower) else float(lower)
        raise ValueError(EXPECTED[kind])
    # Some keys of either version take a number for true: fsdp_config.reshard_after_forward.
    if not isinstance(value, int | float) or (isinstance(value, bool) and kind == "number"):
        raise ValueError(EXPECTED[kind])
    return value


def hydra(value: Any) -> str:
    """A value as Hydra's command line has it (hydra.cc, advanced/override_grammar)."""
    if isinstance(value, list):
        return f"[{','.join(map(hydra, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{hydra(each)}' for key, each in value.items())}}}"
    if isinstance(value, str):
        return value if _bare(value) else _quoted(value)
    return _scalar(value, "")


def dotlist(value: Any) -> str:
    """A value as OmegaConf's dotlist has it: JSON, which is YAML; words that are plain stay so."""
    if isinstance(value, list):
        return f"[{', '.join(map(dotlist, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(str(key))}: {dotlist(each)}' for key, each in value.items())}}}"
    if isinstance(value, str):
        if _bare(value):
            return value
        return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
    return _scalar(value, ".")


def _bare(text: str) -> bool:
    return bool(WORD.fullmatch(text)) and text.lower() not in SPECIAL


def _quoted(text: str) -> str:
    """In single quotes: of backslashes only those before a quote, and the last ones, are escaped."""
    doubled = re.sub(r"(\\+)(?='|$(?!\n))", r"\1\1", text)
    return "'" + doubled.replace("'", "\\'") + "'"


def _scalar(value: Any, dot: str) -> str:
    """dot: what stands before inf and nan."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return f"{'-' if value < 0 else ''}{dot}{'nan' if math.isnan(value) else 'inf'}"
    return repr(value)
