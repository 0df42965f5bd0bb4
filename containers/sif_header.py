"""What a SIF says of the moment in which it was made, replaced by what is the same each time.

Apptainer 1.4 writes a random id and the current time into a SIF's header, and that time into the table
of what it holds, whatever SOURCE_DATE_EPOCH says. Both are there for people alone: nothing is found by them.
The layout is version 01's, the only one there is (github.com/apptainer/sif, docs/).
"""

from __future__ import annotations

import struct
from pathlib import Path

from kit import say

# launch line, magic, version, architecture, id, made, changed; free, total, offset and size of the table; …
HEADER = struct.Struct("<32s10s3s3s16s2q6q")
ID = 48  # where the id begins, with the two times after it
MAGIC, VERSION = b"SIF_MAGIC\0", b"01\0"
ENTRY, USED, TIMES = 585, 4, 41  # size of one entry of the table; where in it "used" and the two times stand


def steady(path: Path, when: int) -> None:
    """Sets the id to zeros and all times to `when` (seconds since 1970), in place. Idempotent.

    A file of another layout is left as it is, and that is said.
    """
    with path.open("r+b") as file:
        raw = file.read(HEADER.size)
        if len(raw) < HEADER.size or (found := HEADER.unpack(raw))[1:3] != (MAGIC, VERSION):
            say.once(f"note: {path.name} is no SIF of version 01: its times are left in it")
            return
        total, offset = found[8], found[9]
        times = struct.pack("<2q", when, when)
        file.seek(ID)
        file.write(bytes(16) + times)
        for number in range(total):
            entry = offset + number * ENTRY
            file.seek(entry + USED)
            if file.read(1) == b"\1":
                file.seek(entry + TIMES)
                file.write(times)
