"""Fingerprints follow what is in the files, and not where they are."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.core.families import family_named
from sdtune.core.identity import Identity
from sdtune.core.model import identify
from sdtune.core.reports import Progress, Report
from sdtune.core.sampling import fingerprint, hash_memo
from sdtune.core.sampling.fingerprint import of_file, of_model
from sdtune.errors import DataError, LoraError, ModelError
from tests import original, tiny

FILES = ("*/*.safetensors", "*/config.json", "tokenizer*/*.json", "tokenizer*/*.txt", "scheduler/*.json")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, in which hashes of all files are kept at once."""
    monkeypatch.setenv("SDTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_memo, "SETTLED", -1.0)
    monkeypatch.setattr(hash_memo, "LARGE", 1)
    return tmp_path / "cache"


def followed(work: Iterator[Report]) -> tuple[str, list[Report]]:
    told: list[Report] = []
    while True:
        try:
            told.append(next(work))
        except StopIteration as end:
            return end.value, told


def told_of(identity: Identity) -> str:
    return followed(of_model(identity))[0]


def changed(path: Path, place: int) -> None:
    """One byte of a file."""
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def single(path: Path, numbers: int) -> Identity:
    """A file of so many numbers; what they say of a model is of no account here."""
    save_file({"a": torch.arange(numbers, dtype=torch.int32)}, path)
    return Identity(path.stem, "file", str(path), "sd1")


def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no file can be read through."""

    def fail(*_: Any) -> Iterator[memoryview]:
        raise AssertionError("is read again")

    monkeypatch.setattr(fingerprint, "_read", fail)


def test_every_file_counts_wherever_a_folder_lies(
    family_name: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    told = told_of(identify(str(tiny_models[family_name])))
    assert len(told) == 64
    assert int(told, 16)
    copy = tmp_path / "another name"
    shutil.copytree(tiny_models[family_name], copy)
    (copy / "unet.txt").write_text("a note")
    (copy / "tokenizer" / ".hidden.json").write_text("{}")
    assert told_of(identify(str(copy))) == told
    family, seen = family_named(family_name), {told}
    files = [file for pattern in FILES for file in copy.glob(pattern) if not file.name.startswith(".")]
    assert len(files) >= 2 * (2 + len(family.clips)) + 2 * len(family.clips) + 1
    for file in files:
        whole = file.read_bytes()
        if file.suffix == ".json":
            file.write_text(json.dumps(json.loads(whole) | {"more": 1}))
        else:
            changed(file, len(whole) // 2 if file.suffix == ".txt" else len(whole) - 1)
        seen.add(told_of(identify(str(copy))))
        file.write_bytes(whole)
    assert len(seen) == len(files) + 1
    assert told_of(identify(str(copy))) == told


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
    seen = {told_of(identify(str(folder)))}
    for shard in shards:
        changed(folder / "unet" / shard, (folder / "unet" / shard).stat().st_size - 1)
        seen.add(told_of(identify(str(folder))))
    assert len(seen) == 3


def test_a_single_file_is_told_by_its_sha_256(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    original.save(tiny.pipeline("sd1"), "sd1", file, {})
    told = told_of(identify(str(file)))
    assert told == hashlib.sha256(file.read_bytes()).hexdigest()
    assert told_of(identify(str(file.rename(tmp_path / "b.safetensors")))) == told
    original.save(tiny.pipeline("sd1", seed=1), "sd1", file, {})
    assert told_of(identify(str(file))) != told


def test_a_change_anywhere_in_a_large_file_is_seen_at_once(tmp_path: Path) -> None:
    one = single(tmp_path / "a.safetensors", 2**20)
    file, seen = Path(one.location), {told_of(one)}
    places = [0, 8, 90_000, 2**20 + 5, 2**21 - 1, 2**22]
    for place in places:
        changed(file, place)
        seen.add(told_of(one))
        changed(file, place)
    assert len(seen) == len(places) + 1


def test_a_file_is_read_through_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, folder = single(tmp_path / "a.safetensors", 1000), identify(str(tiny.saved("sd1", tmp_path / "model")))
    told = told_of(one), told_of(folder)
    kept = [path.read_text() for path in cache.rglob("*.json")]
    assert len(kept) >= 9
    assert str(tmp_path) not in "".join(kept)
    with monkeypatch.context() as patch:
        unread(patch)
        assert (told_of(one), told_of(folder)) == told
    before = Path(one.location).stat()
    changed(Path(one.location), 4000)
    os.utime(one.location, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert told_of(one) != told[0], "though its size and its time are what they were"


def test_a_kept_hash_that_is_damaged_is_made_again(cache: Path, tmp_path: Path) -> None:
    one = single(tmp_path / "a.safetensors", 1000)
    told = told_of(one)
    (place,) = cache.rglob("*.json")
    whole = place.read_text()
    digit = "0" if told[5] != "0" else "1"
    for damaged in ("", "{", "[]", "null", whole[:-9], whole.replace(told, told[:5] + digit + told[6:]), " " * 2000):
        place.write_text(damaged)
        assert told_of(one) == told
        assert place.read_text() == whole


def test_the_hash_of_a_file_that_was_just_written_is_not_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_memo, "SETTLED", 3600.0)
    told_of(single(tmp_path / "a.safetensors", 1000))
    monkeypatch.setattr(hash_memo, "SETTLED", -1.0)
    monkeypatch.setattr(hash_memo, "LARGE", 10**4)
    told_of(single(tmp_path / "a.safetensors", 1000))
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_done_without(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = single(tmp_path / "a.safetensors", 1000)
    told = told_of(one)
    shutil.rmtree(cache)
    cache.touch()
    assert told_of(one) == told
    monkeypatch.delenv("SDTUNE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert told_of(one) == told


def test_hashing_that_takes_long_is_told(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = single(tmp_path / "a.safetensors", 5 * 2**18)
    assert not followed(of_model(one))[1]
    shutil.rmtree(cache)
    monkeypatch.setattr(fingerprint, "TOLD", 10**6)
    monkeypatch.setattr(fingerprint, "UNIT", 2**20)
    _, told = followed(of_model(one))
    assert told == [Progress("hashing the model", number, 5) for number in range(1, 6)]
    assert not followed(of_model(one))[1]


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
        told_of(Identity("none", "file", str(tmp_path / "none"), "sd1"))
    folder = tiny.saved("sd1", tmp_path / "model")
    identity = identify(str(folder))
    for broken in ("scheduler/scheduler_config.json", "vae/diffusion_pytorch_model.safetensors", "unet/config.json"):
        (folder / broken).unlink()
        with pytest.raises(ModelError):
            told_of(identity)
