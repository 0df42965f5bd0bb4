"""Values that a shell, sbatch or an engine could take for something else than text."""

from __future__ import annotations

import itertools
import os

ALONE = (
    "", " ", "  two  ends  ", "\t", "tab\there", "-", "--", "-n", "-e", "--attempt", "--rank=9", "-rf",
    "~", "~root", "*", "?", "[a-z]", "{a,b}", "!", "!!", "!$", "^x", "#", "# not a comment", "a#b",
    "a #b", "=", "a=b", "PATH=/nowhere", ":", ",", "a,b=c", ";", "&", "&&", "|", "||", "<", ">", "(", ")",
    "()", "{}", "[[", "]]", "@", "%", "%j", "%%", "%s%n", "100%", "\\", "\\\\", "\\n", "\\0", "a\\",
    "\\\\\\", "'", "''", "'''", '"', '""', '\'"\'"\'', "it's", 'say "x"', "`", "``", "$", "$$", "$0",
    "$1", "$@", "$*", "$HOME", "${HOME}", "${!x}", "${x:-y}", "$'\\n'", '$"x"', "$(", "$((1+1))",
    "$[1+1]", "é", "日本語", "🙂", "\u202e", "\ufeff", "\u2028", "\x1b[31m", "\x07", "\x08", "\x7f", "\x01",
    "\r", "\r\n", "a\rb", "\n", "\n\n", "a\nb", "a\n", "\na", "a\n#SBATCH --x\n", "EOF", "\nEOF\n",
    "<<EOF", "fi", "done", "}", "node", "{{ run }}", "{% raw %}", "{#", "$rank", '"$rank"', '"$cr"',
    "x" * 100_000, " " * 1000, "'" * 500, "\\" * 501,
)  # fmt: skip

BYTES = (
    b"\xff", b"\xfe\xff", b"caf\xe9", b"\x80abc", b"\xc3", b"\xc3'", b'\xe2\x82"', b"a\xff\nb",
    b"\xed\xa0\x80", bytes(range(1, 256)),
)  # fmt: skip

RUN = (
    "$(touch CANARY)", "`touch CANARY`", "; touch CANARY;", "| touch CANARY", "& touch CANARY &",
    "\ntouch CANARY\n", "<(touch CANARY)", "${x:=$(touch CANARY)}", "a[$(touch CANARY)]",
    "|| touch CANARY #",
)  # fmt: skip
WRAPS = ("{}", "'{}'", '"{}"', "'{}", '"{}', "\\{}", "\xe9{}", "a'{}'b", '$"{}"', "x=({})")


def values(canary: str) -> list[str]:
    """More than 200, none twice; what runs anything makes the file `canary`. Of any bytes but NUL."""
    running = [wrap.format(run.replace("CANARY", canary)) for run, wrap in itertools.product(RUN, WRAPS)]
    found = [*ALONE, *map(os.fsdecode, BYTES), *running]
    assert len(set(found)) == len(found) > 200
    return found
