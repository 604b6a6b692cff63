"""The example data sets keep what examples/README.md promises."""

from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAINING, HELD_OUT = EXAMPLES / "fluent-3d", EXAMPLES / "fluent-3d-held-out"
PICTURES = sorted([*TRAINING.glob("*.png"), *HELD_OUT.glob("*.png")])


def codes(folder: Path, suffix: str = ".png") -> set[str]:
    return {file.stem for file in folder.glob(f"*{suffix}")}


def test_there_are_as_many_as_said() -> None:
    assert len(codes(TRAINING)) == 56
    assert len(codes(HELD_OUT)) == 20
    for folder in (TRAINING, HELD_OUT):
        assert codes(folder) == codes(folder, ".txt")
        assert (folder / "LICENSE").is_file()


def test_no_held_out_subject_is_trained_on() -> None:
    assert not codes(TRAINING) & codes(HELD_OUT)
    captions = [{file.read_text(encoding="utf-8") for file in f.glob("*.txt")} for f in (TRAINING, HELD_OUT)]
    assert not captions[0] & captions[1]
    assert "1f34e" in codes(HELD_OUT)  # the red apple of README's commands


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_picture_and_caption(picture: Path) -> None:
    assert all(chr(int(point, 16)).isprintable() for point in picture.stem.split("-"))  # a known code point
    caption = picture.with_suffix(".txt").read_text(encoding="utf-8")
    subject, style = caption.removesuffix("\n").split(", ")
    assert subject == subject.strip().lower()
    assert subject.isascii()
    assert style == "fluent3d style"
    with Image.open(picture) as image:
        assert (image.mode, image.size) == ("RGB", (256, 256))
        assert {image.getpixel((x, y)) for x in (0, 255) for y in (0, 255)} == {(255, 255, 255)}
