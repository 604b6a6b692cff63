"""Real processes and real signals: what a hostile file can do to its reader, and what its reader leaves behind."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from sdtune.core.intake.facts import Job, Measured
from sdtune.core.intake.workers import Workers
from sdtune.errors import OutputError, SdtuneError
from sdtune.tables import Limits

HANDLERS = """
import ctypes, hashlib, os, signal, sys, time
from sdtune.core.intake.facts import Measured
from sdtune.errors import DataError, OutputError, SdtuneError

calls = 0

def handle(job, payload, mask_payload):
    global calls
    calls += 1
    data = payload or b""
    words = job.name.split()
    notices = ("plain", repr(job.mask_path), repr(mask_payload), str(os.getpid()), str(calls))
    match words[0]:
        case "spin":
            while True:
                pass
        case "sleep":
            time.sleep(float(words[1]))
        case "allocate":
            found = bytearray(int(words[1]) * 2**20)
            found[::4096] = b"x" * len(found[::4096])
        case "crash":
            ctypes.string_at(0)
        case "second-crash":
            if calls > 1:
                ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "garble":
            for number in range(3, 20):
                try:
                    os.write(number, b"nonsense that is no message at all, and goes on for a while")
                except OSError:
                    pass
        case "print":
            print("to standard output", flush=True)
            os.write(1, b"and to its descriptor")
            os.system("echo and from a child of it; cat")
            print(sys.stdin.read(), file=sys.stderr)
        case "refuse":
            raise DataError(f"{job.name}: is empty")
        case "unwritable":
            raise OutputError("out: no space left; make room")
        case "full":
            raise SdtuneError("out: the disk is full; free some space")
        case "bug":
            raise ZeroDivisionError("by zero")
        case "modules":
            notices = (*sorted(sys.modules),)
        case "where":
            import json
            notices = (json.__file__, os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"])
    return Measured(
        sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), kind="PNG", width=3, height=2, border=(1, 2, 3, 4),
        prepared=(3, 2), sharpness=0.1 + 0.2, contrast=2.5, fingerprint="00ff", tints="00", notices=notices,
    )
"""


@pytest.fixture
def handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "handlers"
    folder.mkdir()
    (folder / "stand_in.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(folder)
    return "stand_in:handle"


def limits(seconds: float = 5.0, megabytes: int = 1000, workers: int = 1) -> Limits:
    return Limits(seconds=seconds, megabytes=megabytes, workers=workers)


def jobs(*names: str) -> Iterator[tuple[str, Job, bytes | None, bytes | None]]:
    for name in names:
        yield name, Job(name, None, None), b"bytes of " + name.encode("utf-8", "surrogatepass"), None


def found(workers: Workers, *names: str) -> dict[str, Measured | str]:
    return dict(workers.each(jobs(*names)))


def the_pid(measured: Measured | str) -> int:
    assert isinstance(measured, Measured), measured
    return int(measured.notices[3])


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def gone(*pids: int, within: float = 3.0) -> bool:
    end = time.monotonic() + within
    while any(alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_what_goes_in_comes_out(handler: str) -> None:
    names = ["plain", "ünï 日本 \u202e \x1b[31m", "plain \udcff"]
    big = os.urandom(9 * 2**20)
    with Workers(limits(), handler) as workers:
        told = found(workers, *names)
        ((key, large),) = workers.each(iter([((1, "any key"), Job("plain", None, None, "a mask"), big, b"mask")]))
        ((_, empty),) = workers.each(iter([(None, Job("plain", None, None), b"", b"")]))
        ((_, none),) = workers.each(iter([(None, Job("plain", None, None), None, None)]))
        assert list(workers.each(iter(()))) == []
    assert list(told) == names
    for one in told.values():
        assert isinstance(one, Measured)
        assert (one.border, one.prepared, one.sharpness, one.mask) == ((1, 2, 3, 4), (3, 2), 0.1 + 0.2, None)
    assert key == (1, "any key")
    assert isinstance(large, Measured)
    assert large.bytes == len(big)
    assert large.notices[:3] == ("plain", "'a mask'", "b'mask'")
    assert isinstance(empty, Measured)
    assert empty.notices[2] == "b''"
    assert isinstance(none, Measured)
    assert none.notices[2] == "None"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("spin", "took over 0.3 s of work; save it anew in an image editor, or raise --limits.seconds"),
        ("sleep 60", "took over 1.2 s by the clock; copy it to a local disk, or raise --limits.seconds"),
        ("allocate 400", "needs more than 200 MB; save it smaller, or raise --limits.megabytes"),
        ("crash", "the decoder crashed (signal 11); save it anew in an image editor"),
        ("exit", "the decoder crashed (exit code 3); save it anew in an image editor"),
        ("killed", "the system ended its reader, as it does where memory runs out; give fewer --workers"),
        ("garble", "the decoder crashed (it answered nonsense); save it anew in an image editor"),
        ("refuse", "is empty"),
        ("bug", "sdtune failed on it (ZeroDivisionError: by zero); please report this with the file"),
    ],
)
def test_a_bad_file_costs_itself_only(handler: str, name: str, reason: str) -> None:
    with Workers(limits(seconds=0.3, megabytes=200), handler) as workers:
        told = found(workers, "plain a", name, "plain b", "allocate 20")
        assert told.pop(name) == reason
        assert all(isinstance(one, Measured) for one in told.values())
        assert found(workers, name) == {name: reason}


def test_memory_that_runs_out_costs_no_process(handler: str) -> None:
    with Workers(limits(megabytes=200), handler) as workers:
        told = found(workers, "allocate 400", "plain")
    assert isinstance(told["plain"], Measured)
    assert told["plain"].notices[4] == "2"


def test_no_file_is_blamed_for_the_one_before_it(handler: str) -> None:
    with Workers(limits(), handler) as workers:
        told = found(workers, "plain", "second-crash", "second-crash again")
    assert all(isinstance(one, Measured) for one in told.values()), told


def test_an_idle_process_that_dies_is_replaced(handler: str) -> None:
    with Workers(limits(), handler) as workers:
        pid = the_pid(found(workers, "plain")["plain"])
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        assert the_pid(found(workers, "plain")["plain"]) != pid


def test_each_file_has_the_whole_time(handler: str) -> None:
    """The limit is a file's, and waiting for a slow caller is nobody's work."""
    with Workers(limits(seconds=0.25), handler) as workers:
        for name, one in workers.each(jobs(*(f"sleep 0.2 {number}" for number in range(8)))):
            assert isinstance(one, Measured), (name, one)
            if name.endswith(" 0"):
                time.sleep(1.5)


def test_what_a_decoder_prints_or_reads_disturbs_nothing(handler: str, capfd: pytest.CaptureFixture[str]) -> None:
    with Workers(limits(), handler) as workers:
        told = found(workers, "print", "plain")
    assert all(isinstance(one, Measured) for one in told.values()), told
    assert capfd.readouterr() == ("", "")


def test_debugging_shows_what_a_decoder_prints(
    handler: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDTUNE_DEBUG", "1")
    with Workers(limits(), handler) as workers:
        assert found(workers, "crash", "print")
    assert "\n" in capfd.readouterr().err


def test_many_small_jobs_are_quick_and_no_more_are_taken_than_can_be_worked_on(handler: str) -> None:
    taken, done = 0, 0

    def work() -> Iterator[tuple[int, Job, bytes | None, bytes | None]]:
        nonlocal taken
        for number in range(2000):
            taken += 1
            yield number, Job("plain", None, None), b"x", None

    start, seen = time.monotonic(), set()
    with Workers(limits(workers=2), handler) as workers:
        for key, one in workers.each(work()):
            assert isinstance(one, Measured)
            done += 1
            seen.add(key)
            assert taken == min(2000, done + 2)
    assert seen == set(range(2000))
    assert time.monotonic() - start < 60


def test_processes_are_started_when_they_are_needed_and_used_again(handler: str) -> None:
    before = set(psutil.Process().children())
    with Workers(limits(workers=4), handler) as workers:
        assert set(psutil.Process().children()) == before
        pids = {the_pid(one) for one in found(workers, *(f"sleep 0.3 {number}" for number in range(8))).values()}
        assert len(pids) == 4
        assert the_pid(found(workers, "plain")["plain"]) in pids
        assert os.getpgrp() not in map(os.getpgid, pids)  # Ctrl-C passes them by, even before they could ignore it
    assert gone(*pids, within=5)
    with Workers(limits(workers=4), handler) as workers:
        found(workers, "plain", "plain b")
        assert len(set(psutil.Process().children()) - before) <= 2
    assert set(psutil.Process().children()) == before


def test_closed_half_way_nothing_goes_on(handler: str) -> None:
    with Workers(limits(workers=2), handler) as workers:
        with closing(workers.each(jobs("plain", "spin", "plain b", "spin b"))) as results:  # type: ignore[type-var]
            pid = the_pid(next(results)[1])
            start = time.monotonic()
        assert time.monotonic() - start < 10
        assert not psutil.Process().children()
        assert gone(pid)
        assert isinstance(found(workers, "plain")["plain"], Measured)  # and it can be used again
    gc.collect()  # nothing is left open; a ResourceWarning would fail


def test_what_the_work_raises_is_raised_and_nothing_goes_on(handler: str) -> None:
    def work() -> Iterator[tuple[str, Job, bytes | None, bytes | None]]:
        yield from jobs("plain", "spin", "plain b")
        raise OSError("the archive ends here")

    with Workers(limits(workers=2), handler) as workers:
        with pytest.raises(OSError, match="the archive ends here"):
            list(workers.each(work()))
        assert not psutil.Process().children()


def test_what_cannot_be_written_is_no_fault_of_the_file(handler: str) -> None:
    with Workers(limits(workers=2), handler) as workers:
        with pytest.raises(OutputError, match=r"^out: no space left; make room$"):
            found(workers, "plain", "unwritable", "spin")
        assert not psutil.Process().children()


def test_a_full_disk_is_no_fault_of_the_file_nor_of_what_was_given(handler: str) -> None:
    full = r"^out: the disk is full; free some space$"
    with Workers(limits(), handler) as workers, pytest.raises(SdtuneError, match=full) as caught:
        found(workers, "plain", "full")
    assert caught.value.exit_code == 1


def test_workers_that_cannot_start_are_no_fault_of_the_files() -> None:
    with Workers(limits(), "no_such_module:handle") as workers, pytest.raises(SdtuneError, match="no_such_module"):
        found(workers, "plain")


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EMFILE, "ulimit -n 1024"), (errno.EAGAIN, "give fewer --workers")]
)
def test_what_keeps_a_process_from_starting_is_told(
    number: int, remedy: str, handler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with Workers(limits(), handler) as workers, pytest.raises(SdtuneError) as caught:
        found(workers, "plain")
    assert os.strerror(number) in str(caught.value)
    assert str(caught.value).endswith(remedy)


@pytest.mark.parametrize("started", [0, 1, 2])
def test_threads_that_cannot_start_are_told_and_nothing_goes_on(
    started: int, handler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, left = threading.Thread.start, iter(range(started))

    def scarce(thread: threading.Thread) -> None:
        if thread.name.startswith("sdtune") and next(left, None) is None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    with Workers(limits(workers=2), handler) as workers:
        with pytest.raises(SdtuneError, match=r"can't start new thread\); give fewer --workers"):
            found(workers, "plain a", "plain b")
        assert not psutil.Process().children()


def test_more_memory_than_a_machine_has_is_all_of_it(handler: str) -> None:
    with Workers(limits(megabytes=10**6), handler) as workers:
        assert isinstance(found(workers, "plain")["plain"], Measured)


def test_nothing_is_imported_from_the_current_folder(
    handler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "pictures"
    trap.mkdir()
    for name in ("json", "PIL", "numpy", "struct", "sdtune", "sitecustomize"):
        (trap / f"{name}.py").write_text("import os; os._exit(66)")
    monkeypatch.chdir(trap)
    for path in ([*sys.path], ["", *sys.path], [str(trap), *sys.path]):
        monkeypatch.setattr(sys, "path", path)
        monkeypatch.setenv("PYTHONPATH", "." if path[0] else "")
        with Workers(limits(), handler) as workers:
            told = found(workers, "where")["where"]
        assert isinstance(told, Measured)
        assert Path(told.notices[0]).parent.name == "json"
        assert told.notices[1:] == ("1", "1")


def test_a_worker_is_light(handler: str) -> None:
    with Workers(limits(), handler) as workers:
        told = found(workers, "modules")["modules"]
    assert isinstance(told, Measured)
    assert not {"torch", "pydantic", "diffusers", "rich", "typer"} & set(told.notices)


PARENT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
from sdtune.tables import Limits
from sdtune.core.intake.facts import Job
from sdtune.core.intake.workers import Workers

def work():
    yield 1, Job("plain", None, None), None, None
    for number in range(9):
        yield 2, Job(sys.argv[2], None, None), None, None

with Workers(Limits(seconds=60, workers=2), "stand_in:handle") as workers:
    try:
        for _, one in workers.each(work()):
            print(one.notices[3], flush=True)
    except KeyboardInterrupt:
        print("told", flush=True)
print("over", flush=True)
"""


def start_parent(tmp_path: Path, busy: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A program with two workers, one of them busy, in a process group of its own as under a terminal."""
    (tmp_path / "parent.py").write_text(textwrap.dedent(PARENT))
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "handlers"), busy],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert parent.stdout
    parent.stdout.readline()
    time.sleep(0.5)
    return parent, [child.pid for child in psutil.Process(parent.pid).children(recursive=True)]


@pytest.mark.usefixtures("handler")
@pytest.mark.parametrize("busy", ["spin", "sleep 60"])
def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path, busy: str) -> None:
    parent, children = start_parent(tmp_path, busy)
    with parent:
        assert len(children) == 2
        parent.kill()
        assert gone(*children, within=2)


@pytest.mark.usefixtures("handler")
def test_ctrl_c_is_the_parents_to_heed(tmp_path: Path) -> None:
    parent, children = start_parent(tmp_path, "sleep 60")
    with parent:
        assert len(children) == 2
        for child in children:
            os.kill(child, signal.SIGINT)  # as a terminal might
        time.sleep(0.3)
        assert all(alive(child) for child in children)
        os.killpg(parent.pid, signal.SIGINT)
        out, _ = parent.communicate(timeout=10)
    assert out.splitlines()[-2:] == ["told", "over"]
    assert gone(*children)
