"""One image goes in, and what training can use comes out: its shape, mask, thumbnail and measures."""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from sdtune.core.data.buckets import bucket_for, bucket_sizes
from sdtune.core.data.images import open_image
from sdtune.core.intake.facts import Job, Measured
from sdtune.core.intake.one import handle, target
from sdtune.core.intake.whole_file import PART
from sdtune.errors import DataError, OutputError, SdtuneError
from tests import handmade, pictures
from tests.core.data.test_images import decibels, detailed
from tests.ugly import encoded, plain

TURN = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}  # what the camera did


def prepared(data: bytes, place: Path, mask: bytes | None = None, **options: Any) -> Measured:
    """Handled out of an archive, to place / "a"."""
    return handle(Job(name="a", path=None, stem=os.fspath(place / "a"), **options), data, mask)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def refused(data: bytes, place: Path, mask: bytes | None = None, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepared(data, place, mask, **options)
    (line,) = caught.value.problems
    return line


def test_a_small_image_comes_out_as_it_is_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    path = tmp_path / "source" / "a picture.png"
    path.parent.mkdir()
    path.write_bytes(handmade.png(plain(), 2))
    job = Job(name="source/a picture.png", path=os.fspath(path), stem=os.fspath(tmp_path / "out" / "deep" / "a"))
    measured = handle(job)
    assert (pictures.pixels(target(job)) == plain()).all()
    assert measured.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert measured.bytes == path.stat().st_size
    assert (measured.kind, measured.width, measured.height) == ("PNG", 48, 32)
    assert (measured.prepared, measured.border, measured.mask, measured.notices) == ((48, 32), None, None, ())
    assert measured.written == target(job).stat().st_size
    assert measured.made == hashlib.sha256(target(job).read_bytes()).hexdigest()
    assert sorted(found.name for found in target(job).parent.iterdir()) == ["a-thumb.jpg", "a.png"]
    assert handle(Job(name="x", path=None, stem=None), path.read_bytes()) == Measured(
        **{**vars(measured), "written": 0, "made": ""}
    )


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_each_form_holds_the_image_and_no_metadata(form: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = exif[0x9C9C] = "a secret"
    exif.get_ifd(0x8825)[1] = "a secret"
    options = {"exif": exif, "icc_profile": handmade.swapped_profile(), "comment": b"a secret", "dpi": (7, 7)}
    for size in ((300, 200), (900, 700)):  # as it is, and scaled
        source = encoded(detailed(*size), "JPEG", quality=95, **options)
        prepared(source, tmp_path, form=form, resolution=512)
        path = target(Job(name="a", path=None, stem=os.fspath(tmp_path / "a"), form=form))
        image = opened(path)
        assert image.format == form.upper()
        assert not {"exif", "icc_profile", "comment", "dpi", "xmp"} & set(image.info)
        for written in (path, tmp_path / "a-thumb.jpg"):
            assert b"secret" not in written.read_bytes()
            assert b"swap" not in written.read_bytes().replace(b"\0", b"")
    exact = prepared(handmade.png(plain(), 2), tmp_path, form=form)
    assert abs(pictures.pixels(path) - plain()).max() <= (8 if form == "jpeg" else 0)
    assert exact.written == path.stat().st_size


@pytest.mark.parametrize(
    "size", [(1000, 1000), (1600, 900), (900, 1600), (515, 516), (2000, 120), (120, 2000), (500, 400), (1234, 777)]
)
@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_the_image_just_covers_its_bucket_and_is_never_enlarged(size: tuple[int, int], resolution: int) -> None:
    measured = handle(
        Job(name="a", path=None, stem=None, resolution=resolution), encoded(Image.new("RGB", size), "PNG")
    )
    width, height = measured.prepared
    bucket = bucket_for(*size, resolution)
    assert bucket in bucket_sizes(resolution)
    if size[0] <= bucket[0] or size[1] <= bucket[1]:
        assert measured.prepared == size
    else:
        assert width >= bucket[0]
        assert height >= bucket[1]
        assert width == bucket[0] or height == bucket[1]
        assert math.log(width / height) == pytest.approx(math.log(size[0] / size[1]), abs=1 / min(width, height))


def test_scaling_is_by_lanczos_and_a_large_jpeg_comes_out_as_if_decoded_whole(tmp_path: Path) -> None:
    image = detailed(1600, 1200)
    measured = prepared(encoded(image, "PNG", compress_level=1), tmp_path, resolution=256)
    assert opened(tmp_path / "a.png").tobytes() == image.resize(measured.prepared, Image.Resampling.LANCZOS).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = encoded(image.transpose(TURN[6]), "JPEG", quality=95, exif=exif)
    again = prepared(photo, tmp_path, resolution=256)
    assert (again.width, again.height, again.prepared) == (1600, 1200, measured.prepared)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(photo)))
    assert decibels(opened(tmp_path / "a.png"), upright.resize(again.prepared, Image.Resampling.LANCZOS)) > 40
    assert again.sharpness == pytest.approx(measured.sharpness, rel=0.1)


def test_the_thumbnail_is_small_and_shows_the_prepared_image(tmp_path: Path) -> None:
    for size, side in (((600, 400), 192), ((100, 60), 100)):
        prepared(encoded(detailed(*size), "PNG"), tmp_path)
        thumbnail = opened(tmp_path / "a-thumb.jpg")
        assert thumbnail.format == "JPEG"
        assert max(thumbnail.size) == side
        same = opened(tmp_path / "a.png").resize(thumbnail.size, Image.Resampling.LANCZOS)
        assert decibels(thumbnail, same) > 20


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_border_is_told_and_cut_off_where_asked(form: str, tmp_path: Path) -> None:
    # Large enough for JPEG to be decoded smaller first, and of no size that halves evenly.
    image, border = detailed(1601, 1203), (0, 151, 0, 147)
    data = encoded(ImageOps.expand(image, border, "black"), form, **({"quality": 95} if form == "JPEG" else {}))
    told = prepared(data, tmp_path, resolution=256)
    cut = prepared(data, tmp_path, resolution=256, crop_borders=True)
    assert told.border is not None
    assert told.border == cut.border
    assert max(abs(found - true) for found, true in zip(cut.border or (), border, strict=True)) <= (
        0 if form == "PNG" else 8
    )
    assert told.prepared != cut.prepared
    assert decibels(opened(tmp_path / "a.png"), image.resize(cut.prepared, Image.Resampling.LANCZOS)) > 30


@pytest.mark.parametrize("colour", ["white", "#0080ff", "red"])
def test_transparent_parts_are_on_the_background(colour: str, tmp_path: Path) -> None:
    image = Image.fromarray(plain())
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    measured = prepared(encoded(image, "PNG"), tmp_path, background=colour)
    assert measured.mask is None
    expected = Image.alpha_composite(Image.new("RGBA", image.size, colour), image).convert("RGB")
    assert abs(pictures.pixels(tmp_path / "a.png") - numpy.asarray(expected, numpy.int64)).max() <= 1


def bright(image: Image.Image) -> Image.Image:
    """A mask that shows by its place where the picture is bright."""
    return image.convert("L").point(lambda value: 255 * (value > 128))


@pytest.mark.parametrize("source", ["file", "alpha"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_mask_gets_the_images_turn_crop_and_size(source: str, orientation: int, tmp_path: Path) -> None:
    image = ImageOps.expand(detailed(600, 400), (0, 60, 0, 44), "black")
    mask = bright(image)
    stored, options = image.copy(), {}
    if source == "alpha":
        stored.putalpha(mask)
        options = {"alpha_mask": True, "background": "black"}
    if orientation in TURN:
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = stored.transpose(TURN[orientation])
        data = encoded(stored, "PNG", exif=exif)
    else:
        data = encoded(stored, "PNG")
    file = encoded(mask, "PNG") if source == "file" else None
    measured = prepared(data, tmp_path, file, crop_borders=source == "file", resolution=256, **options)
    assert measured.mask == source
    assert not measured.notices
    found, shown = opened(tmp_path / "a-mask.png"), opened(tmp_path / "a.png")
    assert found.mode == "L"
    assert found.size == shown.size == measured.prepared
    box = (0, 60, 600, 460) if source == "file" else (0, 0, 600, 504)
    expected = mask.crop(box).resize(measured.prepared, Image.Resampling.LANCZOS)
    assert abs(numpy.asarray(found, int) - numpy.asarray(expected, int)).max() <= 1


def test_a_mask_drawn_on_the_image_as_it_lies_is_turned_with_it(tmp_path: Path) -> None:
    image, exif = Image.fromarray(plain()), Image.Exif()
    exif[0x0112] = 6
    lying = image.transpose(TURN[6])
    measured = prepared(encoded(lying, "PNG", exif=exif), tmp_path, encoded(bright(lying), "PNG"))
    assert opened(tmp_path / "a-mask.png").tobytes() == bright(image).tobytes()
    assert "turned as the image" in measured.notices[0]


@pytest.mark.parametrize(
    ("mask", "notice", "black_share"),
    [
        (Image.new("L", (24, 16), 0), "wholly black", 1.0),
        (Image.linear_gradient("L"), "256 x 256: scaled to the image", None),
        (Image.new("L", (48, 32), 1).point(lambda _: 1), "0 and 1", None),
        (Image.eval(Image.linear_gradient("L").resize((48, 32)), lambda value: value > 99), "0 and 1", None),
    ],
)
def test_odd_masks_are_told_of(mask: Image.Image, notice: str, black_share: float | None, tmp_path: Path) -> None:
    measured = prepared(handmade.png(plain(), 2), tmp_path, encoded(mask, "PNG"))
    if measured.mask is None:  # of ones throughout: as white
        assert mask.getextrema() == (1, 1)
        return
    assert any(notice in told for told in measured.notices)
    found = numpy.asarray(opened(tmp_path / "a-mask.png"))
    assert found.shape == (32, 48)
    assert found.max() > 200 or black_share == 1.0


@pytest.mark.parametrize(
    "mask",
    [Image.new("L", (48, 32), 255), Image.new("1", (9, 9), 1).resize((32, 32)), Image.new("RGB", (99, 99), "white")],
)
def test_a_mask_that_is_wholly_white_is_none(mask: Image.Image, tmp_path: Path) -> None:
    assert prepared(handmade.png(plain(), 2), tmp_path, encoded(mask, "PNG")).mask is None
    assert not (tmp_path / "a-mask.png").exists()


def test_opaque_alpha_is_no_mask_and_a_masks_own_transparency_is_black(tmp_path: Path) -> None:
    opaque = Image.fromarray(plain())
    opaque.putalpha(255)
    assert prepared(encoded(opaque, "PNG"), tmp_path, alpha_mask=True).mask is None
    drawn = Image.new("RGBA", (48, 32), (255, 255, 255, 0))
    drawn.paste("white", (0, 0, 24, 32))
    assert prepared(handmade.png(plain(), 2), tmp_path, encoded(drawn, "PNG")).mask == "file"
    assert numpy.asarray(opened(tmp_path / "a-mask.png"))[5, [3, 40]].tolist() == [255, 0]


def test_a_mask_that_cannot_be_read_is_told_with_the_image(tmp_path: Path) -> None:
    line = refused(handmade.png(plain(), 2), tmp_path, b"no picture at all")
    assert line.startswith("a: its mask: its content is not an image")
    missing = Job(name="a", path=None, stem=None, mask_path=os.fspath(tmp_path / "missing.png"))
    with pytest.raises(DataError, match=r"^a: its mask: .*; "):
        handle(missing, handmade.png(plain(), 2))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        prepared(handmade.png(plain(), 2), tmp_path / "file")
    (tmp_path / "taken" / "a.png").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"a\.png: cannot be written"):
        prepared(handmade.png(plain(), 2), tmp_path / "taken")
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(PART)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_elsewhere(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(SdtuneError, match="the disk is full; free some space") as caught:
        prepared(handmade.png(plain(), 2), tmp_path)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading image file")])
def test_memory_that_runs_out_in_a_decoder_is_the_workers_to_tell(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: object) -> None:
        raise error

    data = encoded(Image.new("RGB", (32, 32)), "PNG")
    monkeypatch.setattr(PngImageFile, "load", load)
    with pytest.raises(MemoryError):
        prepared(data, tmp_path)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match="takes more memory than there is"):
        open_image(tmp_path / "a.png")


def test_a_small_mask_is_scaled(tmp_path: Path) -> None:
    mask = Image.new("L", (8, 8))
    mask.paste(255, (4, 0, 8, 8))
    measured = prepared(encoded(Image.new("RGB", (64, 64)), "PNG"), tmp_path, encoded(mask, "PNG"))
    assert measured.notices == ("its mask is 8 x 8: scaled to the image",)
    assert opened(tmp_path / "a-mask.png").size == (64, 64)


def test_what_webp_cannot_hold_is_told(tmp_path: Path) -> None:
    long = encoded(Image.new("RGB", (17_000, 16)), "PNG")
    assert "too long for WebP; use --format png" in refused(long, tmp_path, form="webp")
    assert prepared(long, tmp_path).prepared == (17_000, 16)


def test_names_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    stem = tmp_path / ("語" * 81)  # with -thumb.jpg 253 bytes of 255
    handle(Job(name="a", path=None, stem=os.fspath(stem)), handmade.png(plain(), 2), None)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_worker_loads_neither_torch_nor_settings() -> None:
    code = (
        "import sys, sdtune.core.intake.one as one; assert one.handle; "
        "heavy = {'torch', 'scipy', 'pydantic', 'rich', 'typer', 'transformers', 'pillow_heif'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr == ""


LIMITED = """
import json, resource, sys
from sdtune.core.intake.facts import Job
from sdtune.core.intake.one import handle
resource.setrlimit(resource.RLIMIT_DATA, (1000 * 2**20, 1000 * 2**20))
job = Job(name="large", path=sys.argv[1], stem=sys.argv[2], alpha_mask=True)
measured = handle(job)
print(json.dumps([measured.width, measured.height, measured.prepared, measured.mask]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_DATA")
@pytest.mark.parametrize("kind", ["RGBA PNG", "CMYK JPEG"])
def test_64_megapixels_fit_into_1000_megabytes(kind: str, tmp_path: Path) -> None:
    path, side = tmp_path / "large", 8192
    if kind == "RGBA PNG":
        row = b"\0" + numpy.random.default_rng(0).integers(0, 255, (64, 4), numpy.uint8).tobytes() * (side // 64)
        deflate = zlib.compressobj(1)
        data = b"".join(deflate.compress(row) for _ in range(side)) + deflate.flush()
        chunks = [(b"IHDR", handmade.header(side, side, 8, 6)), (b"IDAT", data), (b"IEND", b"")]
        path.write_bytes(handmade.PNG + b"".join(handmade.chunk(*chunk) for chunk in chunks))
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("CMYK", (side, side), (9, 99, 200, 7)).save(path, "JPEG", exif=exif, progressive=True)
    stem = tmp_path / "small"
    command = [sys.executable, "-c", LIMITED, path, stem]
    alone = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
    assert ran.stderr == ""
    mask = '"alpha"' if kind == "RGBA PNG" else "null"
    assert ran.stdout.strip() == f"[8192, 8192, [1024, 1024], {mask}]"
