"""The recommended strength goes into a file's metadata: every tensor, every hash and everything else stays."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdtune.core import lora_file, lora_strength
from sdtune.core.header import MAX_VALUE, read_header
from sdtune.core.inspect_lora import inspect_lora
from sdtune.core.lora import Lora
from sdtune.core.lora_metadata import HASHES, STRENGTH
from sdtune.core.lora_reports import Inspected
from sdtune.core.lora_strength import EVALUATED, HINT, check_writable, write_strength
from sdtune.errors import LoraError, OutputError, SdtuneError
from sdtune.inspect_config import LoraInspect
from tests.core.loras import trained

FOUND = {"encoder": "CLIP of mini", "concept_f1": "0.81 (0.70 to 0.90)"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "cats.safetensors"
    lora_file.write(path, Lora(trained("sd1")[0].modules, "sd1", {"modelspec.title": "Cätze", "ss_steps": "3"}))
    return path


@pytest.fixture
def lora(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "cats.safetensors"))


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def data(path: Path) -> bytes:
    """All after the header."""
    whole = path.read_bytes()
    return whole[8 + int.from_bytes(whole[:8], "little") :]


def test_tensors_hashes_and_all_else_stay(lora: Path) -> None:
    before, tensors, said = data(lora), load_file(lora), metadata(lora)
    lora.chmod(0o640)
    write_strength(lora, 0.8, FOUND)
    now = metadata(lora)
    assert data(lora) == before
    assert now.pop(STRENGTH) == "0.8"
    assert now.pop(HINT) == "recommended strength 0.8 (sdtune eval)"
    assert json.loads(now.pop(EVALUATED)) == {"strength": "0.8"} | FOUND
    assert now == said
    assert set(HASHES) <= set(now)
    assert now["sshs_model_hash"] == hashlib.sha256(before).hexdigest()
    again = load_file(lora)
    assert list(again) == list(tensors)
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)
    assert lora.stat().st_mode & 0o777 == 0o640
    assert (8 + int.from_bytes(lora.read_bytes()[:8], "little")) % 8 == 0
    (told,) = (one for one in inspect_lora(LoraInspect(lora=lora, weights=True)) if isinstance(one, Inspected))
    assert (told.trained["strength"], told.hash_holds) == ("0.8 (recommended)", True)
    assert os.listdir(lora.parent) == [lora.name]


def test_written_once_more_it_is_the_last_that_counts(lora: Path) -> None:
    write_strength(lora, 0.8, FOUND)
    once = lora.read_bytes()
    write_strength(lora, 0.5, {})
    assert (metadata(lora)[STRENGTH], metadata(lora)[HINT]) == ("0.5", "recommended strength 0.5 (sdtune eval)")
    write_strength(lora, 0.8, FOUND)
    assert lora.read_bytes() == once


def test_what_people_wrote_stays_and_places_are_not_told(tmp_path: Path) -> None:
    """Of a stranger's file, whose header is in an order of its own and not padded."""
    path = tmp_path / "cats.safetensors"
    tensors = {"b": torch.arange(3, dtype=torch.uint8), "a": torch.ones(2)}
    save_file(tensors, path, {HINT: "wide shots; strength 2", "x": "y"})
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    bare = whole[8 : 8 + length].rstrip() + b"\n" * 3
    path.write_bytes(len(bare).to_bytes(8, "little") + bare + whole[8 + length :])
    write_strength(path, 1.0, {"reference": "/home/me/cats", "name": "\udcff"})
    write_strength(path, 0.75, {"reference": "/home/me/cats", "name": "\udcff"})
    assert metadata(path)[HINT] == "wide shots; strength 2; recommended strength 0.75 (sdtune eval)"
    assert json.loads(metadata(path)[EVALUATED]) == {"strength": "0.75", "reference": "cats", "name": "?"}
    assert metadata(path)["x"] == "y"
    assert all(torch.equal(load_file(path)[name], value) for name, value in tensors.items())


def test_of_a_link_the_file_is_replaced_and_other_names_keep_theirs(lora: Path, tmp_path: Path) -> None:
    link, other = tmp_path / "run" / "link.safetensors", tmp_path / "other.safetensors"
    link.parent.mkdir()
    link.symlink_to("../cats.safetensors")
    os.link(lora, other)
    whole = lora.read_bytes()
    write_strength(link, 0.8, {})
    assert link.is_symlink()
    assert metadata(lora)[STRENGTH] == "0.8"
    assert other.read_bytes() == whole
    assert os.listdir(link.parent) == ["link.safetensors"]


def test_what_cannot_be_written_is_told_in_one_line(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lora.read_bytes()
    lora.chmod(0o444)
    with pytest.raises(OutputError, match=r"cats\.safetensors: is read-only; make it writable, or leave"):
        check_writable(lora)
    lora.chmod(0o644)
    check_writable(lora)
    for number, told in ((errno.ENOSPC, "the disk is full"), (errno.EPERM, "Operation not permitted")):
        error = OSError(number, os.strerror(number))
        monkeypatch.setattr(shutil, "copyfileobj", lambda *_, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(SdtuneError, match=told) as caught:
            write_strength(lora, 0.8, {})
        assert str(caught.value).startswith(f"{lora}: ")
        assert "\n" not in str(caught.value)
    monkeypatch.undo()
    with pytest.raises(LoraError, match="cannot be read"):
        write_strength(lora.with_name("none.safetensors"), 0.8, {})
    assert lora.read_bytes() == whole
    assert os.listdir(lora.parent) == [lora.name]


def test_a_file_that_another_program_changes_is_left_to_it(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, read = lora_strength._copy, read_header(lora, LoraError)

    def meanwhile(*given: object) -> None:
        copy(*given)  # type: ignore[arg-type]
        lora.write_bytes(lora.read_bytes() + b" ")

    monkeypatch.setattr(lora_strength, "_copy", meanwhile)
    with pytest.raises(SdtuneError, match="another program has changed it meanwhile"):
        write_strength(lora, 0.8, {})
    assert lora.read_bytes().endswith(b" ")
    lora.write_bytes(lora.read_bytes()[:-1])
    assert read_header(lora, LoraError) == read


def test_metadata_without_room_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "cats.safetensors"
    save_file({"a": torch.ones(2)}, path, {HINT: "x" * MAX_VALUE})
    whole = path.read_bytes()
    with pytest.raises(SdtuneError, match="leave no room for more"):
        write_strength(path, 0.8, {})
    assert path.read_bytes() == whole


def test_killed_in_the_middle_the_file_is_as_it_was(lora: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from sdtune.core import lora_strength
copy = lora_strength._copy
def killed(*given):
    copy(*given)
    os.kill(os.getpid(), signal.SIGKILL)
lora_strength._copy = killed
lora_strength.write_strength(Path(sys.argv[1]), 0.8, {})
"""
    whole = lora.read_bytes()
    ended = subprocess.run([sys.executable, "-c", script, str(lora)], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL
    assert lora.read_bytes() == whole
