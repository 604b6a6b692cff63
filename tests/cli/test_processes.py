"""Real processes: signals at any moment, pipes that break, terminals and the lack of them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests import pictures

IN_ORDER = "left in order\n"
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)]

WORK = """
import os, sys, time
from pathlib import Path
from sdtune.cli import app, commands
from sdtune.cli.following import follow
from sdtune.core.reports import Drawn, Note, Progress, Pulse, Step, Warned
from sdtune.errors import Paused, Stopped

def work(plan):
    try:
        parts = [part.partition("*") for part in plan.split()]
        for word in [word for word, _, times in parts for _ in range(int(times or 1))]:
            if word == "note": yield Note("noted")
            elif word == "warned": yield Warned("beware")
            elif word == "progress": yield Progress("reading", 1, 2)
            elif word == "step": yield Step(1, 9, 0.5, 0.5, 1e-4, 2.0, 1.0)
            elif word == "pulse": yield Pulse()
            elif word == "paused": raise Paused("the time is up; saved after step 1", resume="sdtune on")
            elif word == "drawn": yield Drawn(Path("a.png"), "x", 0, 1.0)
            elif word == "wait":
                for _ in range(200): time.sleep(0.1)
            elif word == "nap":
                for _ in range(30): time.sleep(0.1)
            elif word == "swallow":
                try: time.sleep(20)
                except Exception: pass
    except GeneratorExit:
        print("left in order", file=sys.stderr, flush=True)
        raise
    except Stopped:
        print("left in order", file=sys.stderr, flush=True)
        yield Note("saving")
        raise Stopped("stopped after step 1", resume="sdtune on") from None

def sample(config, as_json):
    "Words."
    follow(work(config.prompt[0]), as_json)

commands.COMMANDS["sample"] = (sample, "Sample")
app.run()
"""


@contextlib.contextmanager
def started(
    words: Sequence[str], *, script: str | None = WORK, stderr: int = subprocess.PIPE, **more: str
) -> Iterator[subprocess.Popen[str]]:
    """A process of the command line, which does not inherit that signals are ignored."""
    program = ["-c", script] if script else ["-m", "sdtune"]

    def heed_signals() -> None:
        for number, _ in SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    known = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "TERM")}
    with subprocess.Popen(
        [sys.executable, "-W", "error", *program, *words],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=known | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | more,
        preexec_fn=heed_signals,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until_heeded(process: int) -> None:
    """Wait for the process to have a handler for SIGTERM: the interpreter itself is up, and imports begin."""
    for _ in range(300):
        status = Path(f"/proc/{process}/status")
        told = re.search(r"SigCgt:\s*(\w+)", status.read_text()) if status.exists() else None
        if told is None or int(told[1], 16) >> (signal.SIGTERM - 1) & 1:
            break
        time.sleep(0.01)
    time.sleep(0.0 if told else 0.5)


def until(process: subprocess.Popen[str], words: str) -> str:
    """What standard error says up to a line with these words."""
    assert process.stderr is not None
    told = ""
    for line in process.stderr:
        told += line
        if words in line:
            return told
    raise AssertionError(told)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("plan", ["note wait", "note swallow"])
def test_a_signal_before_the_first_step_leaves_at_once(plan: str, number: int, code: int) -> None:
    with started(["sample", "--prompt", plan]) as process:
        until(process, "noted")
        began = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err.removeprefix(IN_ORDER)) == (code, "sdtune: interrupted\n")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_after_a_step_leaves_in_order_and_a_second_one_at_once(number: int, code: int) -> None:
    with started(["sample", "--prompt", "note step wait step"]) as process:
        until(process, "training 1/9")
        time.sleep(0.3)  # to be past what follows that line
        process.send_signal(number)
        until(process, "stopping after this step")
        assert process.poll() is None
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (code, "")

    with started(["sample", "--prompt", "step note*200000"]) as process:
        until(process, "training 1/9")
        time.sleep(0.3)  # to be past what follows that line
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err.endswith("left in order\nsaving\nsdtune: stopped after step 1; go on with: sdtune on\n")


@pytest.mark.parametrize("before", ["pulse", "step"])
def test_what_a_stop_keeps_and_how_it_goes_on_stands_in_the_last_report(before: str) -> None:
    with started(["sample", "--prompt", f"note {before} drawn nap note*200000", "--json"]) as process:
        assert process.stdout is not None
        while "drawn" not in (line := process.stdout.readline()):
            assert line, process.communicate()
        time.sleep(0.3)
        process.send_signal(signal.SIGUSR1)
        assert until(process, "stopping after this step")
        out, _ = process.communicate(timeout=40)
    told = "stopped after step 1; go on with: sdtune on"
    assert json.loads(out.splitlines()[-1]) == {
        "report": "error",
        "problems": [told],
        "exit_code": 138,
        "resume": "sdtune on",
    }
    assert '"saving"' in out.splitlines()[-2], "what is told while it is saved is shown"
    assert process.returncode == 138


def test_a_pause_says_how_it_goes_on() -> None:
    with started(["sample", "--prompt", "note step paused"]) as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert err.endswith("sdtune: the time is up; saved after step 1; go on with: sdtune on\n")


def test_work_that_ends_before_it_can_be_asked_has_ended_by_the_signal() -> None:
    with started(["sample", "--prompt", "step nap"]) as process:
        until(process, "training 1/9")
        time.sleep(0.3)  # to be past what follows that line
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=40)
    assert (process.returncode, err.splitlines()[-1]) == (143, "sdtune: interrupted; what was complete is kept")


def test_only_the_process_that_leads_speaks_and_heeds_signals() -> None:
    plan = "note step*3 nap drawn"
    with started(["sample", "--prompt", plan, "--json"], RANK="1", WORLD_SIZE="2", LOCAL_RANK="1") as process:
        until_heeded(process.pid)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_launcher_that_passes_on_what_the_terminal_said_is_not_a_second_signal() -> None:
    with started(["sample", "--prompt", "step wait step"], RANK="0", WORLD_SIZE="2") as process:
        until(process, "training 1/9")
        time.sleep(0.3)  # to be past what follows that line
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        until(process, "stopping after this step")
        time.sleep(0.5)
        assert process.poll() is None
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 143


def test_a_signal_while_libraries_are_imported_leaves_without_a_traceback(tmp_path: Path) -> None:
    data = pictures.folder(tmp_path / "discs", 1)
    for seconds, (number, code) in zip((0.0, 1.0, 0.5, 0.2), SIGNALS, strict=True):
        with started(["train-lora", str(data), "--out", str(tmp_path / "run")], script=None) as process:
            until_heeded(process.pid)
            time.sleep(seconds)
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (code, "", "sdtune: interrupted\n")
    assert not (tmp_path / "run").exists()


def test_a_real_training_is_silent_tells_json_and_keeps_what_it_learned(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    data, out = pictures.folder(tmp_path / "discs", 4), tmp_path / "run"
    words = ["train-lora", str(data), "--model", str(tiny_models["sd1"]), "--out", str(out), "--samples.off", "--json"]
    reports = []
    with started([*words, "--steps", "10000000"], script=None) as process:
        assert process.stdout is not None
        for line in process.stdout:
            reports.append(json.loads(line))
            if reports[-1]["report"] == "step" and reports[-1]["number"] == 3:
                process.send_signal(signal.SIGTERM)
        err = process.stderr.read() if process.stderr else ""
        assert process.wait(30) == 143, err
    last = max(report["number"] for report in reports if report["report"] == "step")
    again = f"sdtune train-lora --resume {out}"
    told = {"problems": [f"stopped after step {last}; go on with: {again}"], "exit_code": 143, "resume": again}
    assert reports[-1] == {"report": "error"} | told
    assert (out / f"discs-step-{last:06d}.safetensors").is_file()
    assert not list(out.glob(".*"))
    assert not re.search(r"\x1b|Traceback|[Ww]arning:|kernels-community|torchvision|transformers", err)
    assert err.splitlines()[0].startswith("model: ")


def test_a_pipe_that_breaks_is_silent() -> None:
    for words, codes in (
        (["train-lora", "--help-all"], (0, 1, 141)),
        (["sample", "--prompt", "drawn*50000"], (141,)),
        (["sample", "--prompt", "drawn*50000", "--json"], (141,)),
    ):
        with started(words) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.stdout.close()
            err = process.stderr.read() if process.stderr else ""
            assert process.wait(30) in codes
        assert err.removeprefix(IN_ORDER) == ""


@pytest.mark.parametrize(
    ("redirected", "code", "out", "err"),
    [
        (">&-", 0, "", "noted\n"),
        ("2>&-", 0, "a.png\n", ""),
        ("2>/dev/full", 0, "a.png\n", ""),
        (
            ">/dev/full",
            1,
            "",
            f"noted\n{IN_ORDER}sdtune: standard output: cannot be written (No space left on device); "
            "send it to another place\n",
        ),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_streams_may_be_closed_or_full(redirected: str, code: int, out: str, err: str, as_json: bool) -> None:
    words = [sys.executable, "-c", WORK, "sample", "--prompt", "note drawn", *(["--json"] if as_json else [])]
    done = subprocess.run(["sh", "-c", f'exec "$@" {redirected}', "sh", *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, err)
    shown = [json.loads(line)["report"] for line in done.stdout.splitlines()] if as_json else done.stdout
    assert shown == ((["note", "drawn"] if out else []) if as_json else out)


def test_help_that_cannot_be_written_is_told() -> None:
    for words in (["--help"], ["--version"], ["train-lora", "--help"]):
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-m", "sdtune", *words]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    command = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", sys.executable, "-P", "-c", WORK, "sample"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    line = "sdtune: the folder that you are in is gone; go to one that is there (cd)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def on_terminal(plan: str, **more: str) -> str:
    """What a terminal sees of standard error."""
    master, slave = pty.openpty()
    shown, seen = {"TERM": "xterm-256color", "COLUMNS": "80"} | more, b""
    with started(["sample", "--prompt", plan], stderr=slave, **shown) as process:
        os.close(slave)
        with contextlib.suppress(OSError):  # the other side is closed
            while data := os.read(master, 65536):
                seen += data
        process.communicate(timeout=30)
    os.close(master)
    assert process.returncode == 0
    return seen.decode()


def test_a_terminal_sees_a_bar_and_colours() -> None:
    seen = on_terminal("note progress warned step step")
    assert "1/9" in seen
    assert "loss 0.5000" in seen
    assert "2.0 images/s" in seen
    assert "\x1b[33mwarning: beware\x1b[0m" in seen
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h") >= 1  # the cursor comes back


def test_no_color_and_dumb_terminals_are_respected() -> None:
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", on_terminal("note progress warned step", NO_COLOR="1"))
    dumb = on_terminal("note progress warned step", TERM="dumb")
    assert "\x1b" not in dumb
    assert "training 1/9  loss 0.5000  2.0 images/s" in dumb


def test_without_a_terminal_there_are_lines() -> None:
    with started(["sample", "--prompt", "note progress warned step drawn"]) as process:
        out, err = process.communicate(timeout=30)
    assert out == "a.png\n"
    lines = ["noted", "reading 1/2", "warning: beware", "training 1/9  loss 0.5000  2.0 images/s"]
    assert err.splitlines() == lines


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_prepare_leaves_at_once_with_all_its_processes_and_goes_on(number: int, code: int, tmp_path: Path) -> None:
    folder = pictures.folder(tmp_path / "in", 300, ((256, 400),))
    command = [sys.executable, "-m", "sdtune", "prepare", str(folder), "--out", str(tmp_path / "out"), "--json"]
    command += ["--resolution", "256", "--workers", "2", "--judge.likeness", "0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # under nohup it would be ignored
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "preparing" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
        workers = {child.pid for child in psutil.Process(process.pid).children()}
        process.send_signal(number)
        _, told = process.communicate(timeout=20)
    assert process.returncode == code
    assert told.splitlines()[-1] == "sdtune: interrupted; the same command goes on where it stopped"
    assert "Traceback" not in told
    assert workers
    assert not any(psutil.pid_exists(worker) for worker in workers)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["report"], last["skipped"]) == ("prepared", 0)
    first = json.loads(next(line for line in done.stdout.splitlines() if '"progress"' in line))
    assert first["of"] < 300, "what was read before is not read again"
