"""What is saved comes back bit for bit, the newest whole one is found, and nothing that is broken is trained on."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdtune.core.checkpoint import Checkpoints
from sdtune.core.checkpoint_folder import as_files, read
from sdtune.core.state import State
from sdtune.errors import InputError, TrainingError
from tools.torture.disk import Shim, failing, instead, same, state_of

DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.bool, torch.float8_e4m3fn,
)  # fmt: skip
FLOATS = [dtype for dtype in DTYPES if dtype.is_floating_point]
SHAPES = ((), (0,), (3, 0, 2), (1,), (7,), (2, 3, 5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_type_and_shape_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"unet.{n}/state": (torch.randn(shape, generator=generator) * 50).abs().to(dtype)
        for n, shape in enumerate(SHAPES)
    }
    state = State(3, {"adapter": tensors, "optimizer": {}, "ema": dict(reversed(tensors.items()))}, {})
    Checkpoints(tmp_path).save(state, 1)
    assert same(Checkpoints(tmp_path).newest()[0], state)


def test_views_tied_and_trained_tensors_come_back_whole(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "a": whole,
        "b": whole.T,
        "c": whole[::2, 1:3],
        "d": torch.nn.Parameter(whole),
        "e": whole[0].expand(3, 6),
    }
    state = State(1, {"adapter": tensors}, {})
    Checkpoints(tmp_path).save(state, 1)
    found, _ = Checkpoints(tmp_path).newest()
    assert found is not None
    assert all(torch.equal(found.tensors["adapter"][name], value) for name, value in tensors.items())


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(told=st.dictionaries(st.text(), PLAIN, max_size=5))
@settings(max_examples=60, deadline=None)
def test_what_is_told_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, told: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("told") / "step-000005"
    folder.mkdir()
    for name, data in as_files(State(5, {"adapter": {}}, told)).items():
        (folder / name).write_bytes(data)
    found = read(folder).told
    assert found == told
    assert json.dumps(found) == json.dumps(told)  # -0.0, the order, and True for what is not 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_is_no_number_is_never_saved(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    weight = torch.tensor([1.0, value, 2.0]).to(dtype)
    if dtype.itemsize == 1:  # this one has no infinity
        weight = torch.tensor([1.0, float("nan"), 2.0]).to(dtype)
    for file in ("adapter", "optimizer", "ema"):
        state = State(4, {"adapter": {"a": torch.ones(2)}, file: {"unet.x/exp_avg": weight}}, {})
        with pytest.raises(
            TrainingError, match=rf"step 4 is not saved, as unet.x/exp_avg \({file}\) holds what is no number"
        ):
            checkpoints.save(state, 2)
    with pytest.raises(TrainingError, match=r"as told\.losses\.1 holds what is no number"):
        checkpoints.save(State(4, {}, {"losses": [1.0, value]}), 2)
    assert not checkpoints.folder.exists()


def test_the_newest_are_kept_and_latest_names_the_last(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.newest() == (None, [])
    assert checkpoints.clean() == []
    for step in range(5, 31, 5):
        assert checkpoints.save(state_of(step), 3) == checkpoints.folder / f"step-{step:06d}"
    names = sorted(path.name for path in checkpoints.folder.iterdir())
    assert names == ["latest", "step-000020", "step-000025", "step-000030"]
    assert (checkpoints.folder / "latest").read_text() == "step-000030\n"
    assert sorted(path.name for path in (checkpoints.folder / "step-000030").iterdir()) == [
        "adapter.safetensors", "manifest.json", "optimizer.safetensors", "state.json",
    ]  # fmt: skip


def test_a_past_that_was_given_up_is_never_gone_on_from(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (10, 20, 30):
        checkpoints.save(state_of(step), 3)
    checkpoints.save(state_of(15, past=1), 3)  # gone on from step 10 with other settings
    assert same(checkpoints.newest()[0], state_of(15, past=1))
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000010", "step-000015", "step-000030"]
    checkpoints.save(state_of(30, past=1), 3)
    assert same(checkpoints.newest()[0], state_of(30, past=1))


def test_the_same_state_is_written_once(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    before = checkpoints.save(state_of(1), 2).stat().st_ino
    assert checkpoints.save(state_of(1), 2).stat().st_ino == before
    assert checkpoints.save(state_of(1, past=1), 2).stat().st_ino != before
    assert same(checkpoints.newest()[0], state_of(1, past=1))


@pytest.mark.parametrize("latest", [None, b"", b"step-000007\n", b"../step-000002", b"\xff", b"x" * 10**6, b"step-2"])
def test_without_a_latest_that_says_so_the_highest_step_is_taken(tmp_path: Path, latest: bytes | None) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(state_of(step), 2)
    (tmp_path / "latest").unlink() if latest is None else (tmp_path / "latest").write_bytes(latest)
    found, lines = checkpoints.newest()
    assert same(found, state_of(2))
    assert len(lines) == (latest is not None)
    assert (tmp_path / "latest").read_text() == "step-000002\n"
    assert checkpoints.newest()[1] == []


def test_all_broken_ones_are_told_and_none_is_used(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for turn in (1, 2):
        for step in (1, 2):
            (checkpoints.save(state_of(step), 2) / "adapter.safetensors").write_bytes(b"x")
        found, lines = checkpoints.newest()
        assert found is None
        assert [
            f"step-00000{step}: adapter.safetensors is not as it was written; moved to" in line
            for step, line in zip((2, 1), lines, strict=True)
        ] == [True, True]
        assert (tmp_path / "quarantine" / f"step-000002-{turn}").is_dir()


def test_one_of_a_newer_sdtune_is_told_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(1), 2)
    with monkeypatch.context() as newer:
        newer.setattr("sdtune.core.checkpoint_folder.FORMAT", 2)
        newer.setattr("sdtune.core.checkpoint_folder.__version__", "9.1")
        checkpoints.save(state_of(2), 2)
    with pytest.raises(InputError, match=r"step-000002: made by a newer sdtune \('9.1'\); update sdtune"):
        checkpoints.newest()
    assert (tmp_path / "step-000002").is_dir()


def _handmade(folder: Path, state: State, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose manifest is right, and whose state.json says something else."""
    import sdtune.core.checkpoint_folder as made

    real = made._json
    with monkeypatch.context() as changed:
        changed.setattr(made, "_json", lambda value: real({**value, **changes} if "format" in value else value))
        return Checkpoints(folder).save(state, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 0}, {"format": True}, {"format": "1"}, {"step": 3}, {"step": 2.0}, {"step": "2"}, {"files": []},
        {"files": ["adapter.safetensors"]}, {"told": []}, {"told": None},
        {"told": {"a": json.loads("[" * 40 + "]" * 40)}},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_right_manifest_covers_is_checked_too(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(1), 2)
    _handmade(tmp_path, state_of(2), changes, monkeypatch)
    found, lines = checkpoints.newest()
    assert same(found, state_of(1))
    assert len(lines) == 1


def test_tensors_that_are_no_numbers_or_no_safetensors_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sdtune.core.checkpoint_folder as made

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(1), 2)
    with monkeypatch.context() as changed:
        changed.setattr(made, "_finite", lambda _: True)
        checkpoints.save(State(2, {"adapter": {"a": torch.tensor([float("nan")])}}, {}), 2)
    for data in (b"", b"\x80\x04K\x01.", b"PK\x03\x04", b"\xff" * 100, (2).to_bytes(8, "little") + b"{}x"):
        with monkeypatch.context() as changed:
            changed.setattr(made, "save", lambda _, data=data: data)
            checkpoints.save(state_of(3), 9)
        found, lines = checkpoints.newest()
        assert same(found, state_of(1))
        assert all("step-00000" in line for line in lines)
    assert not list(tmp_path.glob("step-000003"))


def test_one_that_may_not_be_looked_at_is_neither_set_aside_nor_passed_over(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(state_of(step), 2)
    with instead(Shim()) as shim:
        checkpoints.newest()
    told = []
    for at in range(shim.count):
        with instead(Shim(failing(errno.EACCES), at)):
            try:
                assert same(checkpoints.newest()[0], state_of(2))
            except InputError as error:
                told.append(str(error))
        assert not (tmp_path / "quarantine").exists()
        assert same(checkpoints.newest()[0], state_of(2))
    assert len(told) > 10
    assert all("cannot be read" in line for line in told)


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(1), 2)
    stays = {"step-000001", "latest", "notes.txt", "step-000009.tmp-x", "quarantine", "step-1.tmp-3"}
    (tmp_path / "notes.txt").touch()
    for name in ("step-000009.tmp-x", "step-1.tmp-3", "quarantine", "step-000002.tmp-999/sub", "step-000001.old-5"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "latest.tmp-4").touch()
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "kept").touch()
    (tmp_path / "step-000003.tmp-7").symlink_to(outside)
    lines = checkpoints.clean()
    assert {path.name for path in tmp_path.iterdir()} == stays
    assert (outside / "kept").exists()
    assert len(lines) == 4
    assert same(checkpoints.newest()[0], state_of(1))


def test_one_that_was_to_be_replaced_is_found_when_the_process_was_killed_between(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(1), 2).rename(tmp_path / "step-000001.old-77")
    assert same(checkpoints.newest()[0], state_of(1))
    (tmp_path / "step-000001").rename(tmp_path / "step-000001.old-77")
    assert checkpoints.clean() == []
    assert same(checkpoints.newest()[0], state_of(1))


def test_of_two_pasts_of_a_step_the_whole_one_is_taken(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(1), 2).rename(tmp_path / "step-000001.old-77")
    (tmp_path / "latest").unlink()
    (tmp_path / "step-000001").mkdir()
    assert checkpoints.clean() == []
    found, lines = checkpoints.newest()
    assert same(found, state_of(1))
    assert len(lines) == 1
