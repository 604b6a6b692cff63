"""One training at a time works in a run's folder, and a killed one leaves it open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sdtune.core.lock import NAME, lock
from sdtune.errors import OutputError

HOLDS = """
import sys, time
from pathlib import Path
from sdtune.core.lock import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def _holder(run: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


@pytest.mark.parametrize("ends", ["kill", "end"])
def test_a_second_training_is_refused_and_the_process_named_until_the_first_is_gone(tmp_path: Path, ends: str) -> None:
    with _holder(tmp_path) as holder:
        for _ in range(2):  # the first who is refused leaves what the second reads
            with (
                pytest.raises(OutputError, match=rf"another training \(process {holder.pid}\) is at work"),
                lock(tmp_path),
            ):
                pass
        assert (tmp_path / NAME).read_text() == f"{holder.pid}\n"
        if ends == "kill":
            holder.send_signal(signal.SIGKILL)
        else:
            assert holder.stdin is not None
            holder.stdin.close()
        holder.wait()
        with lock(tmp_path):
            assert (tmp_path / NAME).read_text() == f"{os.getpid()}\n"


def test_of_two_in_one_process_the_second_is_refused_too(tmp_path: Path) -> None:
    with lock(tmp_path):
        with pytest.raises(OutputError, match=f"process {os.getpid()}"), lock(tmp_path):
            pass
        assert (tmp_path / NAME).exists()
    assert not (tmp_path / NAME).exists()
    with lock(tmp_path):
        pass


def test_an_error_in_the_training_leaves_the_folder_open(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock(tmp_path):
        raise ZeroDivisionError
    with lock(tmp_path):
        pass


@pytest.mark.parametrize("text", [b"", b"no number", b"\x1b[31m 12", b"9" * 1000])
def test_what_is_no_process_number_is_not_told(tmp_path: Path, text: bytes) -> None:
    with _holder(tmp_path) as holder:
        (tmp_path / NAME).write_bytes(text)
        with pytest.raises(OutputError, match="another training is at work"), lock(tmp_path):
            pass
        holder.kill()


def test_a_folder_that_cannot_be_locked_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be locked"), lock(tmp_path / "file"):
        pass
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="cannot be locked"), lock(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()
