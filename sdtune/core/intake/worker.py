"""A worker process: jobs come on standard input, answers leave on standard output, and only one file is at stake.

Both directions speak messages: four bytes with the length of a head in JSON, the head, and the raw bytes it tells of.
This file imports neither torch nor settings, so that a worker is there at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from sdtune.core.intake.facts import Job, Measured
from sdtune.errors import DataError, OutputError, SdtuneError

HEAD_BYTES = 16 * 2**20  # a head over this is no message of ours
Handler = Callable[[Job, bytes | None, bytes | None], Measured]


def send(stream: BinaryIO, head: dict[str, Any], *payloads: bytes | None) -> None:
    """One message, out at once."""
    sizes = [None if payload is None else len(payload) for payload in payloads]
    text = json.dumps({**head, "sizes": sizes}).encode()
    stream.write(struct.pack(">I", len(text)) + text)
    for payload in payloads:
        stream.write(payload or b"")
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], list[bytes | None]]:
    """The next message; raises EOFError where there is no whole one."""
    (length,) = struct.unpack(">I", _exactly(stream, 4))
    if length > HEAD_BYTES:
        raise ValueError("no message of ours")
    head = json.loads(_exactly(stream, length))
    return head, [None if size is None else _exactly(stream, size) for size in head.pop("sizes")]


def main(handler: str, parent: int, seconds: float, megabytes: int) -> None:
    """Handle jobs until standard input ends; `handler` is module:function."""
    _die_with(parent)
    jobs, answers = _own_streams()
    try:
        module, name = handler.split(":")
        handle: Handler = getattr(importlib.import_module(module), name)
    except Exception as error:
        send(answers, {"failed": f"{type(error).__name__}: {error}"})
        return
    _limit_memory(megabytes)
    send(answers, {"ready": True})
    while True:
        try:
            head, (payload, mask_payload) = receive(jobs)
        except EOFError:
            return
        except MemoryError:  # the bytes themselves are too many; what is left of them cannot be told from a head
            send(answers, {"memory": True, "last": True})
            return
        with _cpu_limit(seconds):
            answer = _answer(handle, Job(**head["job"]), payload, mask_payload)
        del payload, mask_payload
        try:
            send(answers, answer)
        except BrokenPipeError:
            return


def _answer(handle: Handler, job: Job, payload: bytes | None, mask_payload: bytes | None) -> dict[str, Any]:
    try:
        return {"measured": dataclasses.asdict(handle(job, payload, mask_payload))}
    except DataError as error:
        return {"reason": str(error).removeprefix(f"{job.name}: ")}
    except OutputError as error:
        return {"unwritable": error.problems}
    except SdtuneError as error:
        return {"stopped": error.problems}
    except MemoryError:
        return {"memory": True}
    except Exception as error:  # whatever is wrong, it costs this file only
        return {"reason": f"sdtune failed on it ({type(error).__name__}: {error}); please report this with the file"}


def _exactly(stream: BinaryIO, count: int) -> bytes:
    found = stream.read(count)
    if len(found) < count:
        raise EOFError
    return found


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to the parent, moved to where no decoder that reads or prints comes upon them."""
    jobs, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    return jobs, answers


def _die_with(parent: int) -> None:
    """End when the parent ends, however it ends; else a worker would first finish its file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)
        if os.getppid() != parent:
            os._exit(1)


def _limit_memory(megabytes: int) -> None:
    if sys.platform != "win32":
        import resource

        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no file of 1 GB in the user's folder
        wanted, (_, hard) = megabytes * 2**20, resource.getrlimit(resource.RLIMIT_DATA)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))


@contextlib.contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    """SIGPROF ends the process after this much work, even inside a decoder; RLIMIT_CPU knows whole seconds only."""
    if sys.platform == "win32":
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
