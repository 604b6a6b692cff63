"""A nursery of processes: each runs the command line from its first line on, in an interpreter that has its libraries.

A training of the tiny model takes a second, and importing PyTorch and its like ten; so one process imports them, and
every other is its fork. What follows is as always: files, locks, signals, exit codes and memory are the process's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LONG = 600.0  # seconds, after which a process is taken to hang
GLANCE = 0.002  # seconds between two looks


@dataclass
class Process:
    """One that was started."""

    nursery: Nursery
    pid: int
    out: Path
    err: Path
    code: int | None = None
    _read: int = field(default=0, repr=False)

    def reports(self) -> list[dict[str, Any]]:
        """What it has told in whole lines of JSON since the last time that this was asked."""
        with self.out.open("rb") as file:
            file.seek(self._read)
            told = file.read()
        whole = told[: told.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]

    def kill(self, number: int) -> None:
        """Send a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Its exit code, minus the signal's number for one that was killed; None while it runs."""
        self.nursery.hear(0)
        return self.code

    def wait(self, seconds: float = LONG) -> int | None:
        """Its exit code; None where it does not end."""
        until = time.monotonic() + seconds
        while self.code is None and time.monotonic() < until:
            self.nursery.hear(0.05)
        return self.code

    def told(self) -> str:
        """What it said on standard error."""
        return self.err.read_text(encoding="utf-8", errors="replace")


class Nursery:
    """Starts processes."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._processes: dict[int, Process] = {}
        self._pids: dict[int, int] = {}
        self._number = 0
        self._mother = subprocess.Popen(
            [sys.executable, "-m", "tools.torture.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | environment,
        )

    def start(self, words: Sequence[str], **environment: str) -> Process:
        """A process of the command line with these words."""
        self._number += 1
        out, err = (self.folder / f"{self._number}.{kind}" for kind in ("out", "err"))
        for path in (out, err):
            path.touch()
        asked = {
            "number": self._number,
            "words": [*words],
            "out": str(out),
            "err": str(err),
            "environment": environment,
        }
        assert self._mother.stdin
        self._mother.stdin.write(json.dumps(asked).encode() + b"\n")
        self._mother.stdin.flush()
        number = self._number
        while number not in self._pids:
            self.hear(1.0)
        process = Process(self, self._pids[number], out, err)
        self._processes[process.pid] = process
        return process

    def hear(self, seconds: float) -> None:
        """Note what the mother says within so many seconds."""
        assert self._mother.stdout
        while select.select([self._mother.stdout], [], [], seconds)[0]:
            line = self._mother.stdout.readline()
            assert line, "the nursery has ended"
            told = json.loads(line)
            if "pid" in told:
                self._pids[told["number"]] = told["pid"]
            else:
                self._processes[told["ended"]].code = told["code"]
            seconds = 0

    def close(self) -> None:
        """End the mother; her children have ended."""
        assert self._mother.stdin
        assert self._mother.stdout
        self._mother.stdin.close()
        self._mother.stdout.close()
        self._mother.wait(30)


@contextlib.contextmanager
def nursery(folder: Path, **environment: str) -> Iterator[Nursery]:
    """A nursery that ends with the block."""
    open_nursery = Nursery(folder, environment)
    try:
        yield open_nursery
    finally:
        open_nursery.close()


def _mother() -> None:
    """Import what a training needs, then fork for every line that is asked."""
    from sdtune.cli.console import prepare_libraries

    prepare_libraries()
    import bitsandbytes  # noqa: F401
    import matplotlib.figure  # noqa: F401
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    import sdtune.core.train_lora  # noqa: F401

    children: set[int] = set()
    rest, over = b"", False
    while children or not over:
        if not over and select.select([0], [], [], GLANCE)[0]:
            told = os.read(0, 2**16)
            over = not told
            *lines, rest = (rest + told).split(b"\n")
            for line in lines:
                asked = json.loads(line)
                child = os.fork()
                if child == 0:
                    _child(asked)
                children.add(child)
                _say({"number": asked["number"], "pid": child})
        for child in [*children]:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                children.discard(child)
                _say({"ended": child, "code": os.waitstatus_to_exitcode(status)})
        if over:
            time.sleep(GLANCE)


def _say(told: dict[str, Any]) -> None:
    os.write(1, json.dumps(told).encode() + b"\n")


def _child(asked: dict[str, Any]) -> None:
    """The console script, from its first line on."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    for stream, path in ((1, asked["out"]), (2, asked["err"])):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, stream)
        os.close(opened)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.environ.update(asked["environment"])
    sys.argv = ["sdtune", *asked["words"]]
    from sdtune.cli.app import run

    code = 70
    try:
        run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _mother()
