"""Fingerprints follow what is in the files, and not where they are."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.core.families import family_named
from sdtune.core.identity import Identity
from sdtune.core.model import identify
from sdtune.core.sampling.fingerprint import BLOCK, BLOCKS, of_file, of_model
from sdtune.errors import DataError, LoraError, ModelError
from tests import original, tiny


def changed(path: Path, place: int) -> None:
    """One byte of a file."""
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def single(path: Path, numbers: int) -> tuple[Identity, int]:
    """A file of so many bytes of numbers, and where they begin; what they say of a model is of no account here."""
    save_file({"a": torch.arange(numbers // 4, dtype=torch.int32)}, path)
    return Identity(path.stem, "file", str(path), "sd1"), path.stat().st_size - numbers


def test_wherever_a_folder_lies(family_name: str, tiny_models: dict[str, Path], tmp_path: Path) -> None:
    told = of_model(identify(str(tiny_models[family_name])))
    assert len(told) == 64
    assert int(told, 16)
    copy = tmp_path / "another name"
    shutil.copytree(tiny_models[family_name], copy)
    assert of_model(identify(str(copy))) == told
    family, seen = family_named(family_name), {told}
    files = [*copy.glob("*/*.safetensors"), *copy.glob("*/config.json"), copy / "scheduler" / "scheduler_config.json"]
    assert len(files) >= 2 * (2 + len(family.clips)) + 1
    for file in files:
        whole = file.read_bytes()
        if file.suffix == ".json":
            file.write_text(json.dumps(json.loads(whole) | {"more": 1}))
        else:
            changed(file, len(whole) - 1)
        seen.add(of_model(identify(str(copy))))
        file.write_bytes(whole)
    assert len(seen) == len(files) + 1
    assert of_model(identify(str(copy))) == told


def test_shards_count_each(tmp_path: Path) -> None:
    folder = tiny.saved("sd1", tmp_path / "model")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    file.unlink()
    names = sorted(weights)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for shard, some in shards.items():
        save_file({name: weights[name] for name in some}, folder / "unet" / shard)
    told = {"metadata": {}, "weight_map": {name: shard for shard, some in shards.items() for name in some}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(told))
    seen = {of_model(identify(str(folder)))}
    for shard in shards:
        changed(folder / "unet" / shard, (folder / "unet" / shard).stat().st_size - 1)
        seen.add(of_model(identify(str(folder))))
    assert len(seen) == 3


def test_a_single_file(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    original.save(tiny.pipeline("sd1"), "sd1", file, {})
    told = of_model(identify(str(file)))
    assert of_model(identify(str(file.rename(tmp_path / "b.safetensors")))) == told
    original.save(tiny.pipeline("sd1", seed=1), "sd1", file, {})
    assert of_model(identify(str(file))) != told


def test_of_a_small_file_every_byte_counts(tmp_path: Path) -> None:
    one, start = single(tmp_path / "a.safetensors", BLOCKS * BLOCK)
    file, seen = Path(one.location), {of_model(one)}
    places = [0, 8, start - 1, start, start + BLOCK - 1, start + 3 * BLOCK + 5, start + BLOCKS * BLOCK - 1]
    for place in places:
        changed(file, place)
        seen.add(of_model(one))
        changed(file, place)
    assert len(seen) == len(places) + 1


def test_of_a_large_one_blocks_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    one, start = single(tmp_path / "a.safetensors", 4 * BLOCKS * BLOCK)
    file, told = Path(one.location), of_model(one)
    gap = (4 * BLOCKS - 1) * BLOCK // (BLOCKS - 1)
    for number in range(BLOCKS):
        for place in (start + number * gap + 10, start + number * gap + BLOCK - 10):
            changed(file, place)
            assert of_model(one) != told
            changed(file, place)
    changed(file, start + BLOCK + 10)  # between the first and the second
    assert of_model(one) == told, "so that it takes milliseconds"
    with file.open("ab") as more:
        more.write(b"\0")
    assert of_model(one) != told


def test_a_file_is_told_by_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    for data in (b"", b"x", bytes(range(256)) * 10_000):
        file.write_bytes(data)
        assert of_file(file) == hashlib.sha256(data).hexdigest()


def test_what_cannot_be_read_is_told_in_a_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / "a\0b", tmp_path / ("x" * 300)):
        for error in (DataError, LoraError):
            with pytest.raises(error, match=r"cannot be read \(.*\); check that it is there, and its permissions$"):
                of_file(path, error)
    with pytest.raises(ModelError, match=r"none: cannot be read \(No such file or directory\)"):
        of_model(Identity("none", "file", str(tmp_path / "none"), "sd1"))
    folder = tiny.saved("sd1", tmp_path / "model")
    identity = identify(str(folder))
    for broken in ("scheduler/scheduler_config.json", "vae/diffusion_pytorch_model.safetensors", "unet/config.json"):
        (folder / broken).unlink()
        with pytest.raises(ModelError):
            of_model(identity)
    one, _ = single(tmp_path / "a.safetensors", 400)
    Path(one.location).write_bytes(b"\xff" * 100)  # its header would be longer than all memory
    assert len(of_model(one)) == 64
