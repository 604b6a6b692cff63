"""Every kind of image file is decoded as it should look, or refused with the reason."""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageCms

from sdtune.core.data.images import SMALLEST, decode, open_image, suffixes_shown
from sdtune.errors import DataError
from tests.handmade import ftyp, ink_profile, swapped_profile

WIDTH, HEIGHT = 40, 24


def picture() -> Image.Image:
    """Every corner and every place differs, and colours are smooth."""
    x, y = numpy.meshgrid(numpy.arange(WIDTH), numpy.arange(HEIGHT))
    return Image.fromarray(numpy.stack([x * 6, y * 10, 255 - x * 3 - y * 2], axis=2).astype(numpy.uint8))


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any value."""
    assert one.size == other.size
    assert one.mode == other.mode == "RGB"
    return int(abs(numpy.asarray(one).astype(int) - numpy.asarray(other).astype(int)).max())


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def refused(path: Path) -> str:
    """The one line of its refusal, without the path."""
    with pytest.raises(DataError) as caught:
        open_image(path)
    (line,) = caught.value.problems
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


LOSSLESS = {
    "png": {},
    "bmp": {},
    "tiff": {},
    "tif": {"compression": "tiff_lzw"},
    "webp": {"lossless": True},
}


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_files_are_exact(suffix: str, tmp_path: Path) -> None:
    assert difference(open_image(saved(picture(), tmp_path / f"a.{suffix}", **LOSSLESS[suffix])), picture()) == 0


@pytest.mark.parametrize(("suffix", "most"), [("jpg", 12), ("avif", 40), ("gif", 60)])
def test_lossy_files_are_near(suffix: str, most: int, tmp_path: Path) -> None:
    path = saved(picture(), tmp_path / f"a.{suffix}", **({"quality": 95} if suffix != "gif" else {}))
    assert difference(open_image(path), picture()) <= most


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "A.PNG"
    picture().save(path, format="BMP")
    assert difference(open_image(path), picture()) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_exif_orientation_turns_the_image_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    turned = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    path = saved(picture(), tmp_path / f"a.{suffix}", exif=exif, **options)
    upright = picture() if turned is None else picture().transpose(turned)
    opened = open_image(path)
    assert opened.size == upright.size
    assert difference(opened, upright) <= (8 if suffix == "jpg" else 0)


def test_broken_exif_is_not_heeded(tmp_path: Path) -> None:
    path = saved(picture(), tmp_path / "a.png", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff\x01\x12")
    assert difference(open_image(path), picture()) == 0


def test_transparent_parts_are_white_and_hidden_colours_stay_hidden(tmp_path: Path) -> None:
    image = picture().convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 20, HEIGHT))
    alpha.paste(128, (20, 0, 30, HEIGHT))
    image.putalpha(alpha)
    opened = numpy.asarray(open_image(saved(image, tmp_path / "a.png"))).astype(int)
    plain = numpy.asarray(picture()).astype(int)
    assert (opened[:, :20] == 255).all()
    assert abs(opened[:, 20:30] - (plain[:, 20:30] * 128 + 255 * 127) / 255).max() <= 1
    assert (opened[:, 30:] == plain[:, 30:]).all()


def test_a_palette_may_have_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([200, 10, 10, 10, 10, 200])
    image.paste(1, (16, 0, 32, 32))
    opened = open_image(saved(image, tmp_path / "a.png", transparency=0))
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((20, 0)) == (10, 10, 200)


def test_grey_with_alpha_and_one_bit(tmp_path: Path) -> None:
    grey = Image.merge("LA", [Image.new("L", (20, 20), 100), Image.new("L", (20, 20), 0)])
    assert open_image(saved(grey, tmp_path / "grey.png")).getpixel((3, 3)) == (255, 255, 255)
    bits = Image.new("1", (20, 20), 0)
    bits.paste(1, (0, 0, 10, 20))
    opened = open_image(saved(bits, tmp_path / "bits.png"))
    assert [opened.getpixel((x, 5)) for x in (5, 15)] == [(255, 255, 255), (0, 0, 0)]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_by_their_range(suffix: str, tmp_path: Path) -> None:
    ramp = numpy.tile(numpy.linspace(0, 65535, 256).astype(numpy.uint16), (20, 1))
    path = saved(Image.fromarray(ramp), tmp_path / f"a.{suffix}")
    opened = numpy.asarray(open_image(path))
    assert (opened[0, :, 0] == numpy.arange(256)).all()
    assert decode(path, str(path)).notices


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_floats_are_scaled_by_their_range(white: float, tmp_path: Path) -> None:
    ramp = numpy.tile(numpy.linspace(0, white, 256, dtype=numpy.float32), (20, 1))
    opened = numpy.asarray(open_image(saved(Image.fromarray(ramp), tmp_path / "a.tiff")))
    assert (abs(opened[0, :, 0].astype(int) - numpy.arange(256)) <= 1).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_floats_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    pixels = numpy.full((20, 20), 0.5, numpy.float32)
    pixels[3, 4] = value
    assert "no numbers" in refused(saved(Image.fromarray(pixels), tmp_path / "a.tiff"))


def test_cmyk_and_lab_look_as_they_should(tmp_path: Path) -> None:
    for suffix in ("jpg", "tiff"):
        options = {"quality": 100} if suffix == "jpg" else {}
        opened = open_image(saved(picture().convert("CMYK"), tmp_path / f"cmyk.{suffix}", **options))
        assert difference(opened, picture()) <= 14
    muted = Image.blend(picture(), Image.new("RGB", picture().size, "grey"), 0.6)
    lab = ImageCms.profileToProfile(
        muted, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    assert difference(open_image(saved(lab, tmp_path / "lab.tiff")), muted) <= 6


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk_goes_through_its_profile(suffix: str, tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    options = {"quality": 100} if suffix == "jpg" else {}
    path = saved(cyan, tmp_path / f"a.{suffix}", icc_profile=ink_profile(), **options)
    red, green, blue = open_image(path).getpixel((5, 5))
    assert red > 100
    assert max(green, blue) < 40


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_a_profile_is_converted_to_srgb(suffix: str, tmp_path: Path) -> None:
    blue = Image.new("RGB", (32, 32), (0, 0, 255))
    options: dict[str, object] = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {}
    path = saved(blue, tmp_path / f"a.{suffix}", icc_profile=swapped_profile(), **options)
    assert difference(open_image(path), Image.new("RGB", (32, 32), (255, 0, 0))) <= 6


def test_the_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert difference(open_image(saved(picture(), tmp_path / "a.png", icc_profile=profile)), picture()) == 0


@pytest.mark.parametrize("profile", [b"nonsense", b"\0" * 128, b"x"])
def test_a_corrupt_profile_is_not_heeded(profile: bytes, tmp_path: Path) -> None:
    assert difference(open_image(saved(picture(), tmp_path / "a.png", icc_profile=profile)), picture()) == 0


def test_a_profile_for_other_colours_is_not_heeded(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert difference(open_image(saved(picture(), tmp_path / "a.png", icc_profile=lab)), picture()) == 0


def test_of_an_animation_the_first_frame_is_used(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
    for suffix in ("gif", "webp", "png"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(
            path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {})
        )
        assert open_image(path).getpixel((5, 5)) == (255, 0, 0)
        assert "first frame" in "".join(decode(path, str(path)).notices)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff", "avif"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(suffix: str, share: float, tmp_path: Path) -> None:
    noise = Image.fromarray(numpy.random.default_rng(0).integers(0, 255, (64, 64, 3), numpy.uint8))
    whole = saved(noise, tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert refused(path)


DISGUISES: dict[str, bytes] = {
    "text": b"this is no picture",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n",
    "psd": b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + bytes(64),
    "pdf": b"%PDF-1.4\n",
    "zeros": bytes(500),
    "empty": b"",
}


@pytest.mark.parametrize("kind", DISGUISES)
def test_what_is_no_picture_is_refused_whatever_its_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(DISGUISES[kind])
    assert ("empty" if kind == "empty" else "not an image") in refused(path)


def claiming(width: int, height: int) -> bytes:
    """A small PNG whose header says that it is large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_000, 14_000, 100_000])
def test_decompression_bombs_are_refused_by_their_header(side: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(claiming(side, side))
    assert "64 megapixels" in refused(path)


def test_files_over_64_mb_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    assert "64 MB" in refused(path)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (SMALLEST - 1, 300)])
def test_images_without_room_for_anything_are_refused(size: tuple[int, int], tmp_path: Path) -> None:
    assert "too small" in refused(saved(Image.new("RGB", size), tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "is not a file"),
        (os.mkdir, "is not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a file"),
        (lambda path: path.symlink_to("nowhere.png"), "leads nowhere"),
    ],
)
def test_what_is_no_file_is_refused_and_does_not_hang(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    make(path)
    assert words in refused(path)


def test_text_bombs_in_chunks_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    data = buffer.getvalue()
    body = b"Comment\0\0" + zlib.compress(bytes(80 * 2**20))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    path = tmp_path / "a.png"
    path.write_bytes(data[:33] + chunk + data[33:])
    assert refused(path)


def detailed(width: int, height: int) -> Image.Image:
    """As natural pictures are: amplitude falls with frequency, at all places and in all colours; with hard edges."""
    rng = numpy.random.default_rng(0)
    frequency = numpy.hypot(numpy.fft.fftfreq(height)[:, None], numpy.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    planes = []
    for _ in range(3):
        spectrum = numpy.fft.rfft2(rng.normal(size=(height, width))) / frequency
        plane = numpy.fft.irfft2(spectrum, s=(height, width))
        planes.append(plane / plane.std() * 40 + 128)
    pixels = numpy.stack(planes, axis=2)
    pixels[height // 3 : height // 2, width // 4 : width // 2] += 60
    return Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8))


def decibels(one: Image.Image, other: Image.Image) -> float:
    """PSNR."""
    difference = numpy.asarray(one).astype(float) - numpy.asarray(other).astype(float)
    return float(10 * numpy.log10(255**2 / max((difference**2).mean(), 1e-9)))


@pytest.mark.parametrize(("needed", "reduced"), [((484, 363), 2), ((200, 150), 4), ((100, 75), 8), ((500, 375), 1)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_may_be_decoded_smaller_and_looks_the_same_once_scaled(
    needed: tuple[int, int], reduced: int, orientation: int
) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    detailed(1600, 1200).save(buffer, "JPEG", quality=92, exif=exif)
    turned = orientation == 6
    size = needed[::-1] if turned else needed
    decoded = decode(buffer.getvalue(), "a.jpg", at_least=lambda *_: size)
    whole = decode(buffer.getvalue(), "a.jpg")
    assert decoded.reduced == reduced
    assert (decoded.width, decoded.height) == whole.image.size == ((1200, 1600) if turned else (1600, 1200))
    assert decoded.image.size == (whole.width // reduced, whole.height // reduced)
    if reduced > 1:
        scaled = decoded.image.resize(size, Image.Resampling.LANCZOS)
        assert decibels(scaled, whole.image.resize(size, Image.Resampling.LANCZOS)) > 40


def test_alpha_is_kept_beside_the_image_on_its_background(tmp_path: Path) -> None:
    image = picture().convert("RGBA")
    alpha = Image.linear_gradient("L").resize(image.size)
    image.putalpha(alpha)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(image, tmp_path / "a.png", exif=exif)
    decoded = decode(path, "a.png", background="#0080ff")
    assert decoded.alpha is not None
    assert decoded.alpha.tobytes() == alpha.transpose(Image.Transpose.ROTATE_270).tobytes()
    on_blue = Image.composite(picture(), Image.new("RGB", image.size, (0, 128, 255)), alpha)
    assert difference(decoded.image, on_blue.transpose(Image.Transpose.ROTATE_270)) <= 1
    assert decode(saved(picture().convert("RGBA"), tmp_path / "opaque.png"), "opaque.png").alpha is None


def test_heic_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brands in ((b"heic", b"mif1"), (b"mif1", b"mif1", b"heic"), (b"hevc", b"hevc")):
        with pytest.raises(DataError, match=r"^a\.heic: HEIC needs one more package: pip install pillow-heif$"):
            decode(ftyp(*brands) + bytes(99), "a.heic")


def test_heic_is_named_among_what_can_be_read_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    for there in (True, False):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, there=there: (there or None) if name == "pillow_heif" else find(name),
        )
        assert (".heic, .heif, .jpeg" in suffixes_shown()) == there
        assert (".gif, .jpeg" in suffixes_shown()) != there


def test_no_metadata_come_with_the_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    path = saved(picture(), tmp_path / "a.jpg", exif=exif, icc_profile=swapped_profile(), comment=b"a secret")
    assert not open_image(path).info


def test_what_a_worker_reads_is_named_as_the_user_knows_it() -> None:
    with pytest.raises(DataError, match=r"^photos\.zip: a\.png: is empty; "):
        decode(b"", "photos.zip: a.png")
