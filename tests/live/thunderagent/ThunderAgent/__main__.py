"""`python -m ThunderAgent` as its users call it: the words of the real one, and its `GET /health`, which says
by what it was started. It is ready a little after it has begun, as the real one is.
"""

from __future__ import annotations

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def parser() -> argparse.ArgumentParser:
    """Options and choices of ThunderAgent/__main__.py, read in 2026-11, with `skyrl` of its SkyRL example."""
    made = argparse.ArgumentParser(prog="python -m ThunderAgent", allow_abbrev=False)
    made.add_argument("--host", default="0.0.0.0")
    made.add_argument("--port", type=int, default=8300)
    made.add_argument("--log-level", default="info")
    made.add_argument("--backends", default="http://localhost:8000")
    made.add_argument("--router", default="tr", choices=["default", "tr"])
    made.add_argument("--backend-type", default="vllm", choices=["vllm", "sglang", "skyrl"])
    made.add_argument("--profile", action="store_true")
    made.add_argument("--profile-dir", default="/tmp/thunderagent_profiles")
    made.add_argument("--metrics", action="store_true")
    made.add_argument("--metrics-interval", type=float, default=5.0)
    made.add_argument("--scheduler-interval", type=float, default=5.0)
    made.add_argument("--acting-token-weight", type=float, default=1.0)
    return made


def main() -> None:
    said = parser().parse_args()
    health = {
        "status": "ok",
        "router_mode": said.router,
        "scheduling_enabled": said.router == "tr",
        "backends": said.backends.split(","),
        "acting_token_weight": said.acting_token_weight,
        "profile_enabled": said.profile,
    }

    class Router(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(health).encode()
            self.send_response(200 if self.path == "/health" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    time.sleep(1)  # what does not wait for it until it is ready finds nobody
    print(f"Router mode: {said.router}", flush=True)  # noqa: T201
    ThreadingHTTPServer((said.host, said.port), Router).serve_forever()


if __name__ == "__main__":
    main()
