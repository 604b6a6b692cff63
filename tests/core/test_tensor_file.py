"""Files written one tensor at a time: what safetensors itself reads, whole or not at all."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from sdtune.core.header import read_header
from sdtune.core.tensor_file import TORCH_DTYPES, Slot, TensorFile, writing
from sdtune.errors import ModelError, SdtuneError

TENSORS = {
    "b.weight": torch.arange(6.0).reshape(2, 3),
    "a.weight": torch.arange(5.0),
    "a.half": torch.arange(4).half(),
    "scale": torch.tensor(2.5),
    "nothing": torch.zeros(0, dtype=torch.bfloat16),
}


def slots_of(tensors: dict[str, Tensor]) -> dict[str, Slot]:
    names = {dtype: name for name, dtype in TORCH_DTYPES.items()}
    return {key: Slot(names[value.dtype], tuple(value.shape)) for key, value in tensors.items()}


def write(path: Path, tensors: dict[str, Tensor], order: list[str] | None = None, **metadata: str) -> Path:
    with writing(path, slots_of(tensors), metadata) as file:
        for key in order or list(tensors):
            file.add(key, tensors[key])
    return path


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.dtype == other[key].dtype
        assert torch.equal(value, other[key])


def test_what_is_written_is_read_whatever_the_order(tmp_path: Path) -> None:
    files = []
    for number in range(4):
        order = random.Random(number).sample(list(TENSORS), len(TENSORS))
        files.append(write(tmp_path / f"{number}.safetensors", TENSORS, order, z="1", a="ü"))
        same(load_file(files[-1]), TENSORS)
    assert len({file.read_bytes() for file in files}) == 1
    header = read_header(files[0], ModelError)
    assert header.metadata == {"a": "ü", "z": "1"}
    assert header.shapes == {key: tuple(value.shape) for key, value in TENSORS.items()}
    with safe_open(files[0], "pt") as file:
        assert file.metadata() == {"a": "ü", "z": "1"}


def test_tensors_lie_as_safetensors_itself_lays_them(tmp_path: Path) -> None:
    """Larger numbers first, so that each begins where its kind may, then by name."""
    tensors = {key: value for key, value in TENSORS.items() if value.dtype != torch.bfloat16}
    path = write(tmp_path / "one.safetensors", tensors)
    theirs = save(tensors)
    start = 8 + int.from_bytes(theirs[:8], "little")
    assert path.read_bytes()[-(len(theirs) - start) :] == theirs[start:]
    assert min(read_header(path, ModelError).offsets.values()) % 8 == 0


@pytest.mark.parametrize("name", TORCH_DTYPES)
def test_every_precision(name: str, tmp_path: Path) -> None:
    value = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(TORCH_DTYPES[name])
    path = tmp_path / "one.safetensors"
    with writing(path, {"x": Slot(name, (2, 3))}, {}) as file:
        file.add("x", value.T.contiguous().T)
    read = load_file(path)["x"]
    assert read.dtype == value.dtype
    assert torch.equal(read.to(torch.float64), value.to(torch.float64))
    assert read_header(path, ModelError).dtypes == {"x": name}


@pytest.mark.parametrize("name", ["F16", "BF16", "F32", "F8_E4M3"])
def test_a_tensor_takes_the_precision_of_its_slot(name: str, tmp_path: Path) -> None:
    value = torch.linspace(-3, 3, 50)
    path = tmp_path / "one.safetensors"
    with writing(path, {"x": Slot(name, (50,))}, {}) as file:
        file.add("x", value)
    assert torch.equal(load_file(path)["x"].float(), value.to(TORCH_DTYPES[name]).float())


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("F16", 1e5, r"values too large for F16; give --dtype bf16 or fp32"),
        ("BF16", 3.4e38, r"values too large for BF16; give --dtype fp32"),
        ("F16", float("nan"), "no number"),
        ("F32", float("inf"), "no number"),
    ],
)
def test_what_a_precision_cannot_hold_is_refused(name: str, value: float, told: str, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    with (
        pytest.raises(SdtuneError, match=f"one.safetensors: not written, as the.key .*{told}") as problem,
        writing(path, {"the.key": Slot(name, (2,))}, {}) as file,
    ):
        file.add("the.key", torch.tensor([1.0, value]))
    assert len(str(problem.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_is_carried_over_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    value = torch.tensor([1.0, float("inf"), float("nan")])
    with writing(path, {"sigmas": Slot("F32", (3,))}, {}) as file:
        file.add("sigmas", value, as_is=True)
    assert load_file(path)["sigmas"].numpy().tobytes() == value.numpy().tobytes()


# ---- whole or not at all


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("end", ["missing", "error", "interrupt"])
def test_nothing_half_written_is_left(there: bool, end: str, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    if there:
        write(path, {"old": torch.ones(3)})
    before = path.read_bytes() if there else b""
    kind = {"missing": AssertionError, "error": ValueError, "interrupt": KeyboardInterrupt}[end]

    def begin() -> None:
        with writing(path, slots_of(TENSORS), {}) as file:
            file.add("scale", TENSORS["scale"])
            if end != "missing":
                raise kind

    with pytest.raises(kind):
        begin()
    assert list(tmp_path.iterdir()) == ([path] if there else [])
    assert not there or path.read_bytes() == before


def test_a_mistake_in_adding_is_ours(tmp_path: Path) -> None:
    def add(*pairs: tuple[str, Tensor], as_is: bool = False) -> None:
        with writing(tmp_path / "x.safetensors", slots_of(TENSORS), {}) as file:
            for key, value in pairs:
                file.add(key, value, as_is=as_is)

    scale = ("scale", TENSORS["scale"])
    with pytest.raises(AssertionError, match="scale: added twice"):
        add(scale, scale)
    with pytest.raises(AssertionError, match=r"never added: .*b.weight"):
        add(scale)
    with pytest.raises(AssertionError, match=r"a.weight: \(1,\)"):
        add(("a.weight", torch.ones(1)))
    with pytest.raises(AssertionError, match=r"a.half: .* as it is"):
        add(("a.half", torch.ones(4)), as_is=True)


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENOSPC, "the disk is full; free some space"), (errno.EIO, r"cannot be written \(Input")]
)
def test_a_disk_that_fails_is_told_in_a_line(
    number: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "one.safetensors", {"old": torch.ones(3)})
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SdtuneError, match=f"one.safetensors: {told}") as problem:
        write(path, TENSORS)
    assert len(str(problem.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_file_too_large_for_the_place_is_told_in_a_line(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "one.safetensors"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(SdtuneError, match=r"one.safetensors: cannot be written"):
            write(path, {"x": torch.ones(1000), "y": torch.ones(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_one_tensor_at_a_time_is_kept(tmp_path: Path) -> None:
    """The bytes of a tensor are in the file, or on their way there, before the next is given."""
    slots = {str(number): Slot("F32", (2**18,)) for number in range(8)}
    with writing(tmp_path / "one.safetensors", slots, {}) as file:
        assert isinstance(file, TensorFile)
        for number in range(8):
            file.add(str(number), torch.full((2**18,), float(number)))
            (made,) = tmp_path.iterdir()
            assert made.stat().st_size >= (number + 1) * 2**20


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"long": "x" * (2**20 + 1)}, "'long' in its metadata has more than 1 MB"),
        ({f"many{n}": "x" * 2**20 for n in range(4)}, "more than 4 MB of metadata"),
    ],
)
def test_what_would_be_refused_is_not_written(metadata: dict[str, str], told: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", TENSORS)
    before = path.read_bytes()
    with pytest.raises(SdtuneError, match=rf"a.safetensors: not written, .*{told}"):
        write(path, TENSORS, **metadata)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("shorter", [True, False])
def test_what_the_disk_has_changed_is_not_kept(shorter: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"before")
    work = writing(path, slots_of(TENSORS), {"title": "cats"})
    file = work.__enter__()
    for key, value in TENSORS.items():
        file.add(key, value)
    (temporary,) = (one for one in tmp_path.iterdir() if one != path)
    file._file.flush()
    data = bytearray(temporary.read_bytes())
    if shorter:
        os.truncate(temporary, len(data) - 1)
    else:
        start = data.index(b"cats")
        with temporary.open("rb+") as on_disk:
            on_disk.seek(start)
            on_disk.write(b"dogs")
    with pytest.raises(SdtuneError, match=r"a.safetensors: not written, as it does not read back"):
        work.__exit__(None, None, None)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
