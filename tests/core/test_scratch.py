"""Scratch folders: gone with their process, however that ends."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sdtune.core.scratch import scratch_folder
from sdtune.errors import OutputError

AT_WORK = """
import sys
from sdtune.core.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "inside").touch()
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the system keeps what is temporary."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_folder_is_there_for_its_own_process_alone(there: Path) -> None:
    with scratch_folder() as folder:
        (folder / "deep").mkdir()
        (folder / "deep/file").touch()
        assert (folder.parent, folder.stat().st_mode & 0o777) == (there, 0o700)
        with scratch_folder() as other:
            assert other != folder
        assert (folder / "deep/file").exists()
    with pytest.raises(KeyError), scratch_folder() as folder:
        raise KeyError
    assert not list(there.iterdir())


def test_what_a_killed_process_left_goes_with_the_next_and_what_is_in_use_stays(there: Path) -> None:
    (there / "sdtune-scratch-of-mine").mkdir()
    (there / "sdtune-scratch-begun.lock").touch()
    with subprocess.Popen([sys.executable, "-c", AT_WORK], stdin=-1, stdout=-1, text=True) as work:
        assert work.stdin
        assert work.stdout
        left = Path(work.stdout.readline().strip())
        with scratch_folder():
            assert (left / "inside").exists()
        work.kill()
        work.wait()
        assert (left / "inside").exists()
        with scratch_folder() as folder:
            assert sorted(there.iterdir()) == sorted(
                [folder, folder.with_suffix(".lock"), there / "sdtune-scratch-of-mine"]
            )


def test_links_lead_nowhere(there: Path) -> None:
    (there / "mine").mkdir()
    (there / "mine/file").touch()
    (there / "sdtune-scratch-a").symlink_to(there / "mine")
    (there / "sdtune-scratch-a.lock").symlink_to(there / "mine/file")
    (there / "sdtune-scratch-b").symlink_to(there / "mine")
    (there / "sdtune-scratch-b.lock").touch()
    with scratch_folder():
        assert (there / "mine/file").exists()


def test_no_room_for_it_is_told(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(there / "nowhere"))
    with pytest.raises(OutputError, match="name a folder for it in TMPDIR"), scratch_folder():
        pass
