"""Places of files that are to be made: good ones pass, bad ones are refused in a line, and nothing is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdtune.core.identity import Identity
from sdtune.core.out_file import check_models_stay, check_out
from sdtune.errors import OutputError


def test_a_new_place_passes_and_is_not_made(tmp_path: Path) -> None:
    check_out(tmp_path / "new" / "lora.safetensors", False, tmp_path / "source.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_where_that_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    file.write_bytes(b"x")
    check_out(file, True, file)
    with pytest.raises(OutputError, match=r"is there already; give another place with --out, or .* --overwrite"):
        check_out(file, False, tmp_path / "other.safetensors")
    (tmp_path / "link.safetensors").symlink_to(file)
    with pytest.raises(OutputError, match="is what the work begins with"):
        check_out(tmp_path / "link.safetensors", False, file)
    assert file.read_bytes() == b"x"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("folder.safetensors", "is a folder"),
        ("lora.ckpt", "does not end in .safetensors"),
        ("lora", "does not end in .safetensors"),
        ("pipe.safetensors", "not a regular file"),
        ("nowhere.safetensors", "a link that leads nowhere"),
        ("file/lora.safetensors", "does not allow it"),
        ("x" * 300 + ".safetensors", "File name too long"),
        ("bad\x1b[31m\n", "does not end in .safetensors"),
    ],
)
def test_a_place_where_no_file_can_be_is_refused(name: str, told: str, overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "nowhere.safetensors").symlink_to(tmp_path / "gone.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(OutputError, match=told) as problem:
        check_out(tmp_path / name, overwrite)
    assert str(problem.value).isprintable()


def test_files_of_models_that_are_read_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "base" / "unet").mkdir(parents=True)
    weights, single = tmp_path / "base/unet/weights.safetensors", tmp_path / "single.safetensors"
    for file in (weights, single, tmp_path / "lora.safetensors"):
        file.touch()
    (tmp_path / "link.safetensors").symlink_to(single)
    os.link(single, tmp_path / "same.safetensors")
    (tmp_path / "folder").symlink_to("base")
    folder, file = (
        Identity("a", kind, str(tmp_path / name), "sd1") for kind, name in (("folder", "base"), ("file", single))
    )  # type: ignore[arg-type]
    for out in (
        weights,
        single,
        tmp_path / "link.safetensors",
        tmp_path / "same.safetensors",
        tmp_path / "folder/unet/weights.safetensors",
    ):
        with pytest.raises(OutputError, match="is of the model a, which stays; give another place with --out"):
            check_models_stay(out, None, folder, file)
    check_models_stay(tmp_path / "lora.safetensors", folder, file)
    check_models_stay(tmp_path / "base" / "new.safetensors", folder, Identity("b", "hub", "a/b", "sd1"))
