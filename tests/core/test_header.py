"""The header of a safetensors file: limits that no sound file meets, told of at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from sdtune.core import header
from sdtune.core.header import read_header
from sdtune.errors import LoraError
from tests.bad_loras import ENTRY, joined

EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def saved(path: Path, entries: dict[str, Any], data: bytes = b"") -> Path:
    path.write_bytes(joined(entries, data))
    return path


def refusal(path: Path, entries: dict[str, Any], data: bytes = b"") -> str:
    with pytest.raises(LoraError) as told:
        read_header(saved(path, entries, data), LoraError)
    return str(told.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.safetensors"


def test_what_it_tells_is_what_the_library_reads(path: Path) -> None:
    entries = {
        "b": {"dtype": "F16", "shape": [2, 2], "data_offsets": [4, 12]},
        "__metadata__": {"a": "cät"},
        "a": {"dtype": "U8", "shape": [], "data_offsets": [12, 13]},
        "c": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "d": {"dtype": "BF16", "shape": [0, 3], "data_offsets": [4, 4]},
    }
    told = read_header(saved(path, entries, bytes(range(13))), LoraError)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == told.metadata
        assert set(file.keys()) == told.shapes.keys()
        for key in told.shapes:
            assert tuple(file.get_slice(key).get_shape()) == told.shapes[key]
            assert file.get_slice(key).get_dtype() == told.dtypes[key]
    assert path.read_bytes()[told.offsets["a"] :] == bytes([12])
    assert path.read_bytes()[told.offsets["c"] :][:4] == bytes(range(4))


def test_as_many_tensors_as_a_header_may_have(path: Path) -> None:
    entries = {f"t{n}": EMPTY for n in range(header.MAX_TENSORS)}
    assert len(read_header(saved(path, entries), LoraError).shapes) == header.MAX_TENSORS
    assert "more than 32768 tensors" in refusal(path, entries | {"more": EMPTY})


def test_as_much_metadata_as_a_header_may_have(path: Path) -> None:
    usual = {str(n): "ä" * (header.MAX_VALUE // 2 - 1) for n in range(4)}
    entries = {"__metadata__": usual}
    assert read_header(saved(path, entries), LoraError).metadata == usual
    assert "more than 4 MB of metadata" in refusal(path, {"__metadata__": usual | {"more": "some"}})
    assert "'a' in its metadata has more than 1 MB" in refusal(path, {"__metadata__": {"a": "ä" * 2**19 + "x"}})
    assert "not as safetensors" in refusal(path, {"__metadata__": {"a": "\ud800"}})


@pytest.mark.parametrize("inside", ["1,", "{},", '"",', "[],", '{"a":1},'])
def test_headers_that_would_take_long_are_not_read(inside: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(joined(b'{"a":[' + inside.encode() * (header.MAX_COMMAS + 1) + b"1]}"))
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(LoraError, match="more in its header than tensors and metadata take"):
        read_header(path, LoraError)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [([0, 4], [0, 4], "b lies in another tensor"), ([0, 4], [8, 12], "b begins after a hole"),
     ([4, 8], [8, 12], "a begins after a hole")],
)  # fmt: skip
def test_tensors_lie_side_by_side(first: list[int], second: list[int], told: str, path: Path) -> None:
    entries = {"a": {**ENTRY, "data_offsets": first}, "b": {**ENTRY, "data_offsets": second}}
    assert told in refusal(path, entries, bytes(second[1]))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shape": [True]}, "a has an impossible shape"),
        ({"shape": [1.0]}, "a has an impossible shape"),
        ({"shape": [2**37]}, "a has an impossible shape"),
        ({"data_offsets": [False, 4]}, "a lies at an impossible place"),
        ({"data_offsets": [-4, 0]}, "a lies at an impossible place"),
        ({"data_offsets": [0, 4.0]}, "a lies at an impossible place"),
        ({"data_offsets": [0, 5]}, "a takes 5 bytes, which its shape does not"),
    ],
)
def test_numbers_of_a_tensor(change: dict[str, Any], told: str, path: Path) -> None:
    assert told in refusal(path, {"a": ENTRY | change}, bytes(4 if "5" not in told else 5))


@pytest.mark.parametrize(
    ("name", "is_fine"),
    [
        ("bundle_emb.<my cat (2)>.string_to_param.*", True),
        ("bundle_emb.cat.clip_l", True),
        ("bundle_emb.cat\x1b.clip_l", False),
        ("bundle_emb.cat..clip_l", False),
        ("a*", False),
        ("a b", False),
        ("a/b", True),
        ("../a", False),
    ],
)
def test_names(name: str, is_fine: bool, path: Path) -> None:
    if is_fine:
        assert list(read_header(saved(path, {name: EMPTY}), LoraError).shapes) == [name]
    else:
        assert "the tensor name" in refusal(path, {name: EMPTY})
