"""Bad LoRA files: refused in one line, at once, with nothing written; what is accepted is sound by a second opinion."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdtune.cli.app import main
from sdtune.core import lora_file
from sdtune.core.header import Header, read_header
from sdtune.errors import LoraError
from tests import tiny
from tests.bad_loras import all_files, joined, parted, sound

FILES = all_files()
MOST = 1.0
"""seconds of processor time for any of them; the slowest takes a fifth of that"""
FUZZED = 20_000
SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2} | (
    dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1)
)


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < MOST


def test_there_are_enough_of_them() -> None:
    assert len(FILES) >= 120


@pytest.mark.parametrize("what", FILES)
def test_each_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(FILES[what])
    with in_time(), pytest.raises(LoraError) as told:
        lora_file.read(path)
    (line,) = told.value.problems
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    assert len(line.removeprefix(str(path))) < 400
    assert "; " in line, "what to do is missing"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved("sd1", tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("command", ["inspect", "convert", "resize", "merge", "merge model", "sample", "diff"])
def test_no_command_leaves_anything(
    command: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every seventh of them by each command, another seventh each time."""
    monkeypatch.chdir(tmp_path)
    commands = {
        "inspect": ["lora", "inspect", "--weights", "bad.safetensors"],
        "convert": ["lora", "convert", "bad.safetensors", "--out", "out.safetensors"],
        "resize": ["lora", "resize", "bad.safetensors", "--rank", "2", "--out", "out.safetensors"],
        "merge": ["merge", "bad.safetensors", "good.safetensors", "--out", "out.safetensors"],
        "merge model": ["merge", str(model), "bad.safetensors", "--out", "out"],
        "sample": ["sample", "--prompt", "x", "--model", str(model), "--lora", "bad.safetensors"],
        "diff": ["lora", "diff", "good.safetensors", "bad.safetensors"],
    }
    Path("good.safetensors").write_bytes(sound())
    for what in list(FILES)[list(commands).index(command) :: len(commands)]:
        Path("bad.safetensors").write_bytes(FILES[what])
        code = main(commands[command])
        out, err = capsys.readouterr()
        assert code == 2, (what, out, err)
        assert "Traceback" not in err
        assert "bad.safetensors" in err.splitlines()[-1], what
        assert "\x1b" not in err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.safetensors", "good.safetensors"], what


# ---- fuzzed headers


def mutated(draw: random.Random) -> bytes:
    """A sound file with some of it changed: bytes, numbers, names, or whole entries."""
    content = sound(**{"modelspec.title": "cats"})
    header, data = parted(content)
    kind = draw.randrange(4)
    if kind == 0:
        changed = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(min(len(changed), 8 + 300))] = draw.randrange(256)
        return bytes(changed)
    if kind == 1:
        text = bytearray(json.dumps(header).encode())
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(text))
            text[place : place + draw.randint(0, 3)] = draw.choice(
                [b"", b'"', b"}", b",", b"9" * 20, b"-", b"null", b"\\u0000"]
            )
        return joined(bytes(text), data)
    name = draw.choice([name for name in header if name != "__metadata__"])
    values: list[Any] = [0, -1, 1, 2**31, 2**63, 2**70, 1.5, True, None, "x", [], {}, [0, 2**40], [4, 8], "F16", "BF16"]
    if kind == 2:
        header[name][draw.choice(["dtype", "shape", "data_offsets", "more"])] = draw.choice(values)
    else:
        header[draw.choice([name, name + "x", "../" + name, "__metadata__"])] = draw.choice([header[name], *values])
    return joined(header, data[: draw.choice([len(data), len(data), len(data) - 4, 0])])


def is_sound(content: bytes) -> bool:
    """What a safetensors file has to be, by its published rules and ours, written down a second time."""
    length = struct.unpack("<Q", content[:8])[0]
    body, data = content[8 : 8 + length], content[8 + length :]

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    header = json.loads(body, object_pairs_hook=once)
    metadata = header.pop("__metadata__", {})
    assert all(type(value) is str for value in metadata.values())
    end = 0
    for begin, after, entry in sorted((*one["data_offsets"], name) for name, one in header.items()):
        one, count = header[entry], 1
        for side in one["shape"]:
            assert type(side) is int
            assert side >= 0
            count *= side
        assert type(begin) is int
        assert type(after) is int
        assert (begin, after) == (end, end + count * SIZES[one["dtype"]])
        end = after
    return end == len(data)


def test_twenty_thousand_fuzzed_headers(tmp_path: Path) -> None:
    draw, path = random.Random(0), tmp_path / "fuzzed.safetensors"
    accepted = refused = 0
    for _ in range(FUZZED):
        content = mutated(draw)
        path.write_bytes(content)
        try:
            with in_time():
                header = read_header(path, LoraError)
        except LoraError as told:
            (line,) = told.problems
            assert line.isprintable()
            refused += 1
            continue
        assert isinstance(header, Header)
        assert is_sound(content)
        accepted += 1
    assert refused > FUZZED // 2
    assert accepted > FUZZED // 100, "some changes do no harm"
