"""Animations: there and back, each value on its frame, for ever."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from sdtune.core.sampling import animation
from sdtune.core.sampling.animation import FRAME, HOLD, write_animation
from sdtune.core.sampling.layout import Shown
from sdtune.core.sheet import opened
from sdtune.errors import OutputError
from tests.core.sampling.test_sheets import HOSTILE, axis

COLOURS = ((255, 0, 0), (0, 160, 0), (0, 0, 255), (200, 200, 0))


def frames(folder: Path, size: tuple[int, int] = (64, 64), prompt: str = "a cat") -> list[Shown]:
    found = []
    for place, colour in enumerate(COLOURS):
        path = folder / f"{place}.png"
        Image.new("RGB", size, colour).save(path)
        found.append(Shown(path, prompt, 1, 1, (place,), ""))
    return found


STRENGTHS = axis("strength", "0", "0.3", "0.7", "1")


def near(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(abs(a - b) < 12 for a, b in zip(one[:3], other, strict=True))


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_frames_go_there_and_back_for_ever(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"moving{suffix}"
    write_animation(list(reversed(frames(tmp_path))), STRENGTHS, out)
    with Image.open(out) as moving:
        assert moving.n_frames == 6  # type: ignore[attr-defined]
        assert moving.info["loop"] == 0
        assert moving.size == (192, 192)
        order, times = [], []
        for frame in ImageSequence.Iterator(moving):
            shown = frame.convert("RGB")
            pixel = shown.getpixel((180, 10))
            assert isinstance(pixel, tuple)
            order.append(next(number for number, colour in enumerate(COLOURS) if near(pixel, colour)))
            times.append(frame.info["duration"])
            corner = shown.crop((0, 150, 96, 192)).convert("L").getextrema()
            assert corner[1] > 240  # white letters
        assert order == [0, 1, 2, 3, 2, 1]
        assert times == [HOLD, FRAME, FRAME, HOLD, FRAME, FRAME]


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_the_same_pictures_make_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    pictures = frames(tmp_path)
    for name in ("a", "b"):
        write_animation(pictures, STRENGTHS, tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize(("suffix", "size"), [(".webp", (1024, 768)), (".gif", (640, 480))])
def test_large_pictures_are_scaled_down(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    write_animation(frames(tmp_path, (1600, 1200))[:2], STRENGTHS, tmp_path / f"moving{suffix}")
    with Image.open(tmp_path / f"moving{suffix}") as moving:
        assert moving.size == size


@pytest.mark.parametrize("label", HOSTILE)
def test_any_value_is_written_within_the_frame(tmp_path: Path, label: str) -> None:
    write_animation(frames(tmp_path), axis("lora", *[label] * 4), tmp_path / "moving.webp")
    with Image.open(tmp_path / "moving.webp") as moving:
        right = moving.convert("RGB").crop((186, 0, 192, 192)).getcolors(2**14)
    assert right
    assert all(near(colour, COLOURS[0]) for _, colour in right if isinstance(colour, tuple))


def test_one_picture_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[Image.Image]] = []

    def watched(path: Path) -> Image.Image | None:
        assert sum(one() is not None for one in held) == 0
        found = opened(path)
        assert found
        held.append(weakref.ref(found))
        return found

    monkeypatch.setattr(animation, "opened", watched)
    write_animation(frames(tmp_path), STRENGTHS, tmp_path / "moving.webp")
    assert len(held) >= 6


def test_two_values_and_one(tmp_path: Path) -> None:
    for count in (1, 2):
        write_animation(frames(tmp_path)[:count], STRENGTHS, tmp_path / f"{count}.webp")
        with Image.open(tmp_path / f"{count}.webp") as moving:
            assert getattr(moving, "n_frames", 1) == count


def test_what_cannot_be_animated(tmp_path: Path) -> None:
    pictures = frames(tmp_path)
    with pytest.raises(OutputError, match=r"\.webp or \.gif"):
        write_animation(pictures, STRENGTHS, tmp_path / "moving.png")
    for one in pictures:
        one.path.unlink()
    with pytest.raises(OutputError, match="draw them again"):
        write_animation(pictures, STRENGTHS, tmp_path / "moving.webp")
    assert not list(tmp_path.iterdir())
