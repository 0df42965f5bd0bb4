"""Programs that fail, hang or attack: what a model writes in a million tries."""

from __future__ import annotations

FAILING = {
    "it is no Python": "def f(:",
    "it raises": "1 / 0",
    "it exits": "import sys; sys.exit(0)",
    "it leaves at once": "import os; os._exit(0)",
    "it ends its group": "import os; os.killpg(0, 9)",
    "it crashes": "import ctypes; ctypes.string_at(0)",
    "it sleeps": "import time; time.sleep(7654)",
    "it computes for ever": "while True: pass",
    "it nests": "f = lambda n: f(n + 1); f(0)",
    "it takes memory": "held = []\nwhile True: held.append(bytearray(50_000_000))",
    "it writes for ever": "while True: print('x' * 100_000)",
    "it cannot be interrupted": """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
""",
    "its children take memory": """
import os, time
for _ in range(8): os.fork()
held = bytearray(120_000_000)
time.sleep(99)
""",
    "it is a fork bomb": """
import os
while True:
    try: os.fork()
    except OSError: pass
""",
    "it makes threads": """
import threading, time
while True: threading.Thread(target=time.sleep, args=(9,)).start()
""",
    "it fills the disk": """
import os
for number in range(10**9):
    with open(os.path.expanduser(f"~/{number}"), "wb") as file: file.write(bytes(5_000_000))
""",
    "it fills one file": """
import os
with open(os.path.expanduser("~/one"), "wb") as file:
    while True: file.write(bytes(1_000_000))
""",
    "it makes files": """
import os
for number in range(10**9): open(os.path.expanduser(f"~/{number}"), "w").close()
""",
    "it says that it passed": """
import os
for stream in range(3, 60):
    for words in (b"L" + bytes(16) + b"0.1", b'{"passed": 1, "seconds": 0.1}\\n'):
        try: os.write(stream, words)
        except OSError: pass
os._exit(0)
""",
    "it says so for the judge": """
import os
for stream in range(60):
    try:
        with open(f"/proc/{os.getppid()}/fd/{stream}", "w") as file:
            file.write('{"passed": 1, "seconds": 0.1}\\n')
    except OSError: pass
os._exit(0)
""",
}
"""None of them passes any test."""

ATTACKING = {
    "it ends all that it may": "import os; os.kill(-1, 9)",
    "it ends its parent": "import os; os.kill(os.getppid(), 9)",
    "it stops its parent": "import os, time; os.kill(os.getppid(), 19); time.sleep(9)",
    "it ends the first processes": """
import os
for pid in range(1, 40):
    try: os.kill(pid, 9)
    except OSError: pass
1 / 0
""",
}
"""The same, and they would hit others of their user's, where nothing keeps them."""

DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: os.execvp("sleep", ["sleep", "7654.321"])
    os._exit(0)
time.sleep(0.2)
1 / 0
"""
"""What it has started wants to stay."""

SPY = """
import glob, os, socket
found = set()
for path in [{home!r} + "/key", *glob.glob("/proc/*/environ"), *glob.glob("/slipworks-run/*")]:
    try:
        if {key!r} in open(path, errors="replace").read(): found.add("key")
    except OSError: pass
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=5)
    found.add("network")
except OSError: pass
try:
    os.kill({pid}, 0)
    found.add("signals")
except OSError: pass
print(*sorted(found))
"""
"""Looks for the server's key, and for what else there is outside."""
