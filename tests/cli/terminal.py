"""A terminal of a width for the processes of tests, and what they write to it."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path


def shown(columns: int, script: str, *words: str, out: Path | None = None) -> tuple[bytes, list[str]]:
    """What a Python script writes to a terminal of so many columns, and its lines without colours.

    `out` is the file that its standard output goes to, where that is not the terminal.
    """
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    known = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
    with out.open("w") if out else open(os.dup(follower), "w") as target:
        process = subprocess.Popen([sys.executable, "-c", script, *words], stdout=target, stderr=follower, env=known)
    with process:
        os.close(follower)
        written = b""
        while select.select([leader], [], [], 60)[0]:
            try:
                written += os.read(leader, 65536)
            except OSError:  # all who could write have gone
                break
        assert process.wait() == 0
    os.close(leader)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    return written, [line.rstrip() for line in re.split(r"[\r\n]+", text)]
