"""Whatever goes wrong while a checkpoint is saved, what was there before or what was saved is there, whole.

A sample of what `python -m tools.torture` does in full.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sdtune.core.checkpoint import Checkpoints
from sdtune.core.state import State
from sdtune.errors import Paused, TrainingError
from tools.torture import corrupt, disk

ROOT = Path(__file__).parents[2]


MEMORY = Path("/dev/shm")
"""a disk that flushes at once, where there is one; its calls are the same"""


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder for hundreds of saves."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


def test_a_fault_at_any_call_to_the_system_leaves_a_whole_checkpoint(quick: Path) -> None:
    outcome = disk.faults(quick / "run", every=17)
    assert outcome.tried > 200
    assert not outcome.problems


def test_a_cut_of_power_before_any_call_leaves_a_whole_checkpoint(quick: Path) -> None:
    outcome = disk.power_cuts(quick / "run", every=3)
    assert outcome.tried > 200
    assert not outcome.problems


def test_a_process_killed_while_it_saves_leaves_a_whole_checkpoint(quick: Path) -> None:
    """In an interpreter of one thread, since forks of others may hang."""
    program = "import json, pathlib, sys; from tools.torture import disk\n"
    program += "told = disk.kills(pathlib.Path(sys.argv[1]), 13, 20); print(json.dumps([told.tried, told.problems]))"
    place = str(quick / "run")
    done = subprocess.run([sys.executable, "-c", program, place], cwd=ROOT, capture_output=True, text=True, check=True)
    tried, problems = json.loads(done.stdout.splitlines()[-1])
    assert tried > 60
    assert not problems


def test_every_damage_is_found_out_and_the_one_before_is_used(quick: Path) -> None:
    outcome = corrupt.corruptions(quick / "run", 66)
    assert outcome.tried == 66
    assert not outcome.problems


def test_a_full_disk_pauses_and_tells_what_to_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(disk.state_of(step), 9)
    large = State(4, {"adapter": {"weight": torch.zeros(3 * 2**18)}}, {})  # 3 MB, of which 6 are needed
    monkeypatch.setattr("sdtune.core.disk.free", lambda _: 5 * 2**20)
    with pytest.raises(
        Paused, match=r"7 MB are needed and 5 MB are free; that of step 3 is there; free .* --resume"
    ) as told:
        checkpoints.save(large, 9)
    assert told.value.exit_code == 75
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-000003"]  # older ones went for room
    found, lines = checkpoints.newest()
    assert disk.same(found, disk.state_of(3))
    assert not lines


def test_room_that_older_checkpoints_took_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(disk.state_of(step), 9)
    monkeypatch.setattr("sdtune.core.disk.free", lambda _: 0 if (tmp_path / "step-000001").exists() else 2**30)
    checkpoints.save(disk.state_of(4), 9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-000003", "step-000004"]
    assert disk.same(checkpoints.newest()[0], disk.state_of(4))


def test_a_place_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(TrainingError, match=r"checkpoints: step 1 could not be saved \(.*\); there is none"):
        Checkpoints(tmp_path / "checkpoints").save(disk.state_of(1), 2)
