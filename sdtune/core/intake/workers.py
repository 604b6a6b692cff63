"""Worker processes: each handles one file at a time within limits, so that a hang or a crash costs that file only."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import sdtune
from sdtune.core.intake import worker
from sdtune.core.intake.facts import Job, Measured
from sdtune.errors import OutputError, SdtuneError

if TYPE_CHECKING:
    from sdtune.tables import Limits

Key = TypeVar("Key")
HANDLER = "sdtune.core.intake.one:handle"
CLOCK = 4  # times the CPU seconds that a file may take by the clock
START_SECONDS = 120.0  # for a worker to be ready, on a machine that has much else to do
TICK = 0.1  # seconds between looks at the clock
PATIENCE = 2.0  # seconds in which a process that has hung up must have ended
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# sdtune comes from where the parent has it, whatever else is installed.
START = """
import json, sys
sys.path[:], root, handler, parent, seconds, megabytes = json.loads(sys.argv[1])
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("sdtune", root)
sys.modules["sdtune"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["sdtune"])
from sdtune.core.intake.worker import main
main(handler, parent, seconds, megabytes)
"""


class Workers:
    """As many processes as there are cores to use and jobs to do; to be closed, best by `with`."""

    def __init__(self, limits: Limits, handler: str = HANDLER) -> None:
        self._limits, self._handler = limits, handler
        self._count = limits.workers or _cores()
        self._results: queue.SimpleQueue[tuple[_Worker, Any]] = queue.SimpleQueue()
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, Any] = {}
        self._clock: _Clock | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, whatever they do."""
        everyone = [*self._idle, *self._busy]
        self._idle, self._busy, self._results = [], {}, queue.SimpleQueue()
        if self._clock is not None:
            self._clock.stop.set()
            self._clock = None
        for one in everyone:
            one.end()
        for one in everyone:
            one.join()

    def each(self, work: Iterator[tuple[Key, Job, bytes | None, bytes | None]]) -> Iterator[tuple[Key, Measured | str]]:
        """What was found of each job, or the reason why its file cannot be used; in the order in which they are done.

        Takes the next job only when a process is free for it. Closing the generator ends what is under way. Raises
        OutputError where what a worker makes cannot be written, and SdtuneError where the disk is full or no worker can
        be started, since that is no fault of one file.
        """
        assert not self._busy, "the workers are at other work: one `each` at a time"
        try:
            more = True
            while more or self._busy:
                while more and len(self._busy) < self._count:
                    more = self._hand_out(work)
                if self._busy:
                    key, found = self._take_in()
                    more = more and self._hand_out(work)  # now, since the caller may take its time
                    yield key, found
        finally:
            if self._busy:  # left half way
                self.close()

    def _hand_out(self, work: Iterator[tuple[Any, Job, bytes | None, bytes | None]]) -> bool:
        """Give the next job to a process; False where there is none left."""
        task = next(work, None)
        if task is None:
            return False
        if self._clock is None:
            self._clock = _Clock()
        key, job, payload, mask_payload = task
        one = self._idle.pop() if self._idle else _Worker(self._limits, self._handler, self._results, self._clock)
        self._busy[one] = key
        one.jobs.put((job, payload, mask_payload))
        return True

    def _take_in(self) -> tuple[Any, Measured | str]:
        one, found = self._results.get()
        key = self._busy.pop(one)
        self._idle.append(one)
        if isinstance(found, BaseException):
            raise found
        return key, found


@dataclasses.dataclass(frozen=True)
class _Doubtful:
    """A reason that may be another file's doing: what went before can leave a process damaged or short of memory."""

    reason: str


class _Worker(threading.Thread):
    """The thread that speaks with one process, and with a new one where that has died."""

    def __init__(
        self, limits: Limits, handler: str, results: queue.SimpleQueue[tuple[_Worker, Any]], clock: _Clock
    ) -> None:
        super().__init__(name="sdtune-worker", daemon=True)
        self.jobs: queue.SimpleQueue[tuple[Job, bytes | None, bytes | None] | None] = queue.SimpleQueue()
        self._limits, self._handler, self._results, self._clock = limits, handler, results, clock
        self._process: _Process | None = None
        self._lock = threading.Lock()
        self._ended = False
        _start(self)

    def run(self) -> None:
        """Answer one job after another, until there is None."""
        while (task := self.jobs.get()) is not None:
            try:
                found: Measured | str | BaseException = self._handle(*task)
            except BaseException as error:  # to be raised where the answer is waited for
                found = error
            del task
            self._results.put((self, found))
        self._drop()

    def end(self) -> None:
        """Kill the process and let the thread end; from any thread."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()
        self.jobs.put(None)

    def _handle(self, job: Job, *payloads: bytes | None) -> Measured | str:
        fresh = self._process is None
        found = self._ask(job, *payloads)
        if isinstance(found, _Doubtful) and not fresh:
            self._drop()
            found = self._ask(job, *payloads)
        return found.reason if isinstance(found, _Doubtful) else found

    def _ask(self, job: Job, *payloads: bytes | None) -> Measured | str | _Doubtful:
        with self._lock:
            if self._ended:
                return "not looked at"  # nobody waits for this answer
            if self._process is None:
                self._process = _Process(self._limits, self._handler)
            process = self._process
        try:
            with self._clock.watching(process):
                return process.ask(job, *payloads)
        except _Died:
            process.bury(PATIENCE)
            self._drop()
            return process.cause()

    def _drop(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.bury()


class _Died(Exception):  # noqa: N818 (an event)
    """The process has ended, or speaks no sense."""


class _Process:
    """One worker process, from its start to its end."""

    def __init__(self, limits: Limits, handler: str) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._killed = self._overdue = self._ready = False
        self._seconds = START_SECONDS  # left by the clock
        told = [_safe_path(), sdtune.__file__, handler, os.getpid(), limits.seconds, limits.megabytes]
        debug = bool(os.environ.get("SDTUNE_DEBUG"))
        own_group: dict[str, Any] = {"process_group": 0}  # Ctrl-C is for the parent alone, even while this one starts
        if sys.platform == "win32":
            own_group = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
        try:
            self._popen = subprocess.Popen(  # noqa: S603 (this Python, and no word of the user's)
                [sys.executable, "-P", "-X", f"utf8={sys.flags.utf8_mode}", "-c", START, json.dumps(told)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if debug else subprocess.DEVNULL,
                env=_environment(),
                **own_group,
            )
        except OSError as error:
            open_files = error.errno in (errno.EMFILE, errno.ENFILE)
            remedy = "raise the limit of open files, as in: ulimit -n 1024" if open_files else "give fewer --workers"
            raise SdtuneError(f"no process for reading images can be started ({error.strerror}); {remedy}") from None
        self._jobs = cast("BinaryIO", self._popen.stdin)
        self._answers = cast("BinaryIO", self._popen.stdout)

    def ask(self, job: Job, *payloads: bytes | None) -> Measured | str | _Doubtful:
        """The worker's answer; raises _Died where there is none."""
        try:
            if not self._ready:
                self._greet()
            self._allow(CLOCK * self._limits.seconds)
            worker.send(self._jobs, {"job": dataclasses.asdict(job)}, *payloads)
            answer, _ = worker.receive(self._answers)
            self._allow(math.inf)
            if "measured" in answer:
                values = answer["measured"].items()
                told: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in values}
                return Measured(**told)
            if "unwritable" in answer:
                raise OutputError(*answer["unwritable"])
            if "stopped" in answer:
                raise SdtuneError(*answer["stopped"])
            if "memory" in answer:
                megabytes = self._limits.megabytes
                return _Doubtful(f"needs more than {megabytes} MB; save it smaller, or raise --limits.megabytes")
            return str(answer["reason"])
        except (OSError, EOFError):
            raise _Died from None
        except (ValueError, KeyError, TypeError, AttributeError):  # not what a worker says
            self.kill()
            raise _Died from None

    def _greet(self) -> None:
        """Wait until it is ready."""
        try:
            answer, _ = worker.receive(self._answers)
        except EOFError:
            answer = {"failed": "SDTUNE_DEBUG=1 shows why"}
        if "failed" in answer:
            told = answer["failed"]
            raise SdtuneError(f"the process that reads images does not start ({told}); install sdtune anew")
        self._ready = True

    def _allow(self, seconds: float) -> None:
        with self._lock:
            if self._overdue:
                raise _Died
            self._seconds = seconds

    def cause(self) -> str | _Doubtful:
        """Why it died, after it was buried."""
        code, seconds = self._popen.returncode, self._limits.seconds
        if self._overdue:
            return f"took over {CLOCK * seconds:g} s by the clock; copy it to a local disk, or raise --limits.seconds"
        if sys.platform != "win32" and code == -signal.SIGPROF:
            return f"took over {seconds:g} s of work; save it anew in an image editor, or raise --limits.seconds"
        if sys.platform != "win32" and code == -signal.SIGKILL and not self._killed:
            return _Doubtful("the system ended its reader, as it does where memory runs out; give fewer --workers")
        how = "it answered nonsense" if self._killed else f"signal {-code}" if code < 0 else f"exit code {code}"
        return _Doubtful(f"the decoder crashed ({how}); save it anew in an image editor")

    def tick(self, seconds: float) -> None:
        """So much time has passed."""
        with self._lock:
            self._seconds -= seconds
            if self._seconds < 0 and not self._overdue:
                self._overdue = True
                self._popen.kill()

    def kill(self) -> None:
        """End it now, whatever it does."""
        self._killed = True
        self._popen.kill()

    def bury(self, patience: float = 0.0) -> None:
        """See that it ends, by itself within these seconds or killed, and leave nothing of it behind."""
        try:
            self._popen.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            self._popen.wait()
        for pipe in (self._jobs, self._answers):
            with contextlib.suppress(OSError):  # what it did not read
                pipe.close()


class _Clock(threading.Thread):
    """Tells processes how time passes; an hour in which the machine slept, or this program stood still, is no time."""

    def __init__(self) -> None:
        super().__init__(name="sdtune-clock", daemon=True)
        self.stop = threading.Event()
        self._watched: set[_Process] = set()
        self._lock = threading.Lock()
        _start(self)

    def run(self) -> None:
        """Tick until stopped."""
        last = time.monotonic()
        while not self.stop.wait(TICK):
            now = time.monotonic()
            with self._lock:
                watched = list(self._watched)
            for process in watched:
                process.tick(min(now - last, 5 * TICK))
            last = now

    @contextlib.contextmanager
    def watching(self, process: _Process) -> Iterator[None]:
        """Tell this one."""
        with self._lock:
            self._watched.add(process)
        try:
            yield
        finally:
            with self._lock:
                self._watched.discard(process)


def _start(thread: threading.Thread) -> None:
    try:
        thread.start()
    except RuntimeError as error:
        remedy = "give fewer --workers, or raise the limit of processes (ulimit -u)"
        raise SdtuneError(f"no process for reading images can be started ({error}); {remedy}") from None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _safe_path() -> list[str]:
    """Where this process imports from, without the current folder, in which anything may be called PIL.py."""
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # it was removed
        return [str(folder) for folder in sys.path if folder]
    installed = here.startswith((os.path.realpath(sys.prefix) + os.sep, os.path.realpath(sys.base_prefix) + os.sep))
    return [str(folder) for folder in sys.path if folder and (installed or os.path.realpath(folder) != here)]


def _environment() -> dict[str, str]:
    """One thread each, and no PYTHONPATH, since the path is told."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | dict.fromkeys(THREADS, "1")
