"""Features: each picture once, kept by its content, the same however the work was cut up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest
from PIL import Image

from sdtune.core.data.cache import Store
from sdtune.core.evaluation.encoders import encoder_named
from sdtune.core.evaluation.encoders.base import Encoder
from sdtune.core.evaluation.features import features_of, texts_of
from sdtune.core.evaluation.intervals import Array
from sdtune.core.reports import Progress, Report
from sdtune.errors import DataError, SdtuneError
from sdtune.tables import Machine

ROOM = 2**20


@pytest.fixture(scope="module")
def mini() -> Encoder:
    return encoder_named("mini", builtin_model=True, machine=Machine(device="cpu"))


class Counting(Encoder):
    """mini, telling how many pictures it looked at."""

    name = "counting"
    reads_texts = True

    def __init__(self, encoder: Encoder, at_once: int = 1) -> None:
        self.encoder, self.at_once = encoder, at_once
        self.label, self.fingerprint, self.width = encoder.label, encoder.fingerprint, encoder.width
        self.calls: list[int] = []
        self.read: list[str] = []

    def images(self, images: Sequence[Image.Image]) -> Array:
        self.calls.append(len(images))
        return self.encoder.images(images)

    def texts(self, texts: Sequence[str]) -> Array:
        self.read += texts
        return self.encoder.texts(texts)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Seven files, of which the fourth is the first again."""
    random = numpy.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for path in paths:
        coarse = Image.fromarray(random.integers(0, 256, (4, 6, 3), dtype=numpy.uint8))
        coarse.resize((48, 32), Image.Resampling.BILINEAR).save(path)
    shutil.copy(paths[0], paths[3])
    return paths


def followed(pictures: Sequence[Path], encoder: Encoder, store: Store) -> tuple[Array, list[Report]]:
    work, reports = features_of(pictures, encoder, store), []
    while True:
        try:
            reports.append(next(work))
        except StopIteration as end:
            return end.value, reports


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_in_order_and_each_picture_once(pictures: list[Path], mini: Encoder, at_once: int) -> None:
    encoder = Counting(mini, at_once)
    found, reports = followed(pictures, encoder, Store(None, ROOM))
    assert sum(encoder.calls) == 6
    assert max(encoder.calls) == min(at_once, 6)
    assert found.dtype == numpy.float64
    assert (found == mini.images([Image.open(path) for path in pictures])).all()
    assert (found[3] == found[0]).all()
    assert len(reports) == 7
    assert reports[-1] == Progress("looking at pictures", 7, 7)


def test_a_second_time_nothing_is_looked_at(pictures: list[Path], mini: Encoder, tmp_path: Path) -> None:
    first, _ = followed(pictures, mini, Store(tmp_path / "cache", 0))
    again = Counting(mini)
    moved = [Path(shutil.copy(path, tmp_path / f"moved-{path.name}")) for path in pictures[::-1]]
    found, reports = followed(moved, again, Store(tmp_path / "cache", 0))
    assert again.calls == []
    assert (found == first[::-1]).all()
    assert len(reports) == 7


def test_a_damaged_entry_is_made_again(pictures: list[Path], mini: Encoder, tmp_path: Path) -> None:
    first, _ = followed(pictures, mini, Store(tmp_path / "cache", 0))
    entries = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(entries) == 6
    data = bytearray(entries[2].read_bytes())
    data[-3] ^= 1
    entries[2].write_bytes(data)
    entries[4].write_bytes(b"")
    again = Counting(mini)
    found, _ = followed(pictures, again, Store(tmp_path / "cache", 0))
    assert sum(again.calls) == 2
    assert (found == first).all()


def test_what_was_stopped_goes_on(pictures: list[Path], mini: Encoder, tmp_path: Path) -> None:
    whole, _ = followed(pictures, mini, Store(None, ROOM))
    stopped = Counting(mini, 2)
    work = features_of(pictures, stopped, Store(tmp_path / "cache", 0))
    for _ in range(3):
        next(work)
    with pytest.raises(KeyboardInterrupt):
        work.throw(KeyboardInterrupt())
    assert sum(stopped.calls) == 2
    rest = Counting(mini, 2)
    found, _ = followed(pictures, rest, Store(tmp_path / "cache", 0))
    assert sum(rest.calls) == 4
    assert (found == whole).all()


def test_other_encoders_have_other_entries(pictures: list[Path], mini: Encoder, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", 0)
    followed(pictures, mini, store)
    other = Counting(mini)
    other.fingerprint = "of another one"
    followed(pictures, other, store)
    assert sum(other.calls) == 6


def test_pictures_are_read_upright_and_on_white(mini: Encoder, tmp_path: Path) -> None:
    image = Image.fromarray(numpy.random.default_rng(3).integers(0, 256, (40, 24, 3), dtype=numpy.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    image.save(tmp_path / "upright.png")
    see_through = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    see_through.save(tmp_path / "alpha.png")
    Image.new("RGB", (32, 32), "white").save(tmp_path / "white.png")
    names = ["turned.png", "upright.png", "alpha.png", "white.png"]
    found, _ = followed([tmp_path / name for name in names], mini, Store(None, ROOM))
    assert (found[0] == found[1]).all()
    assert (found[2] == found[3]).all()


def test_unreadable_files_are_told_in_one_line(pictures: list[Path], mini: Encoder, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(pictures[0].read_bytes()[:100])
    Image.new("RGB", (4, 4)).save(tmp_path / "small.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    told = {
        "text.png": "its content is not an image",
        "empty.png": "is empty",
        "cut.png": "damaged or cut short",
        "small.png": "too small",
        "pipe.png": "is not a file",
        "folder.png": "is not a file",
    }
    for name, reason in told.items():
        with pytest.raises(DataError) as error:
            followed([*pictures, tmp_path / name], mini, Store(None, ROOM))
        assert str(error.value).startswith(f"{tmp_path / name}: ")
        assert reason in str(error.value)
        assert "\n" not in str(error.value)


def test_pictures_that_are_gone_meanwhile_are_no_mistake_of_what_was_given(mini: Encoder, tmp_path: Path) -> None:
    with pytest.raises(SdtuneError, match="is gone, though it was there; put it back, or run it again") as error:
        followed([tmp_path / "nowhere.png"], mini, Store(None, ROOM))
    assert error.value.exit_code == 1


def test_texts_are_read_once_each(mini: Encoder) -> None:
    encoder = Counting(mini)
    found = texts_of(["a cat", "a dog", "a cat"], encoder)
    assert encoder.read == ["a cat", "a dog"]
    assert (found == mini.texts(["a cat", "a dog", "a cat"])).all()


def test_nothing_is_looked_at(mini: Encoder) -> None:
    found, reports = followed([], mini, Store(None, ROOM))
    assert found.shape == texts_of([], mini).shape == (0, mini.width)
    assert reports == []
