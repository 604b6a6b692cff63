"""Images are encoded once, each as it would be alone, under a key that changes with what matters and nothing else."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from sdtune.config import TrainLora, resolve
from sdtune.core.data import encode
from sdtune.core.data.cache import Store
from sdtune.core.data.encode import Encoded, Holes, encode_images_of
from sdtune.core.data.folder import read_folders
from sdtune.core.data.seen import Seen, see
from sdtune.core.families import family_named
from sdtune.core.reports import Progress, Warned
from sdtune.errors import DataError, TrainingError
from sdtune.tables import Masking
from tests import pictures, tiny

ROOM = 10**9


def result(work: Any) -> tuple[Any, list[Any]]:
    """What a generator returns, and what it told."""
    told = []
    while True:
        try:
            told.append(next(work))
        except StopIteration as end:
            return end.value, told


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.pipeline("sd1")


def seen_in(folder: Path, resolution: int = 128, **more: Any) -> list[Seen]:
    config = resolve(TrainLora, [{"data": {"folder": folder}, "cache": {"place": "memory"}} | more])
    examples, _ = result(read_folders(config))
    seen: list[Seen]
    seen, _ = result(
        see(examples, resolution, 8, config.buckets, config.augment, config.task.kind, skip_bad=config.data.skip_bad)
    )
    return seen


def encoded(
    seen: list[Seen], pipe: Any, store: Store, holes: Holes | None = None, **masking: Any
) -> tuple[list[Encoded], list[Any]]:
    found, told = result(encode_images_of(seen, family_named("sd1"), pipe.vae, store, Masking(**masking), holes))
    return found, told


def latents(images: list[Encoded], store: Store) -> list[dict[str, Any]]:
    return [store.get(version.latents) for image in images for shape in image.shapes for version in shape]


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_every_image_is_encoded_as_it_would_be_alone(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures.folder(tmp_path, 7, ((128, 128), (160, 96), (96, 160)))
    seen = seen_in(folder)
    store = Store(None, ROOM)
    together, told = encoded(seen, pipe, store)
    assert {image.sizes for image in together} == {((128, 128),), ((160, 96),), ((96, 160),)}
    for number, one in enumerate(seen):
        alone_store = Store(None, ROOM)
        alone, _ = encoded([one], pipe, alone_store)
        (whole,), (single,) = latents([together[number]], store), latents(alone, alone_store)
        assert torch.equal(whole["mean"], single["mean"])
        assert torch.equal(whole["std"], single["std"])
        assert together[number].captions == one.example.captions
    last = [report for report in told if isinstance(report, Progress)][-1]
    assert (last.phase, last.number, last.of) == ("encoding images", 7, 7)
    assert last.speed is not None
    assert last.speed > 0

    monkeypatch.setattr(encode, "PIXELS_AT_ONCE", {"cpu": 3 * 128 * 128})
    several = Store(None, ROOM)
    found, told = encoded(seen, pipe, several)
    assert [report.number for report in told if isinstance(report, Progress)] == [2, 5, 7]
    for one, other in zip(latents(found, several), latents(together, store), strict=True):
        assert torch.allclose(one["mean"], other["mean"], atol=1e-5)


def test_a_second_run_encodes_nothing_and_has_the_same_bytes(pipe: Any, tmp_path: Path) -> None:
    seen = seen_in(pictures.folder(tmp_path / "data", 5), augment={"crop": 0.2, "flip": True, "versions": 3})
    first, second = Store(tmp_path / "cache", ROOM), Store(tmp_path / "cache", 0)
    images, told = encoded(seen, pipe, first)
    before = files(tmp_path / "cache")
    assert len(before) == 15
    again, told_again = encoded(seen, pipe, second)
    assert any(isinstance(report, Progress) for report in told)
    assert not told_again
    assert files(tmp_path / "cache") == before
    assert images == again
    for one, other in zip(latents(images, first), latents(again, second), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("mean", "std"))
    assert second.held == 0, "there was no room"


def _touch(folder: Path) -> None:
    (folder / "0.png").touch()


def _rename(folder: Path) -> None:
    (folder / "0.png").rename(folder / "z.png")
    (folder / "0.txt").rename(folder / "z.txt")


def _move(folder: Path) -> None:
    shutil.move(folder, folder.with_name("elsewhere"))


def _recaption(folder: Path) -> None:
    (folder / "0.txt").write_text("something else")


def _edit(folder: Path) -> None:
    with Image.open(folder / "0.png") as image:
        image.putpixel((0, 0), (1, 2, 3))
        image.save(folder / "0.png")


def _same_pixels(folder: Path) -> None:
    """Other bytes are another image: what they decode to is not asked."""
    with Image.open(folder / "0.png") as image:
        image.save(folder / "0.png", compress_level=1)


@pytest.mark.parametrize(
    ("change", "new"), [(_touch, 0), (_rename, 0), (_move, 0), (_recaption, 0), (_edit, 1), (_same_pixels, 1)]
)
def test_the_key_changes_with_the_images_bytes_alone(
    change: Callable[[Path], None], new: int, pipe: Any, tmp_path: Path
) -> None:
    folder = pictures.folder(tmp_path / "data", 3)
    encoded(seen_in(folder), pipe, Store(tmp_path / "cache", 0))
    before = files(tmp_path / "cache")
    change(folder)
    found = tmp_path / "elsewhere" if change is _move else folder
    encoded(seen_in(found), pipe, Store(tmp_path / "cache", 0))
    assert len(files(tmp_path / "cache")) == len(before) + new


@pytest.mark.parametrize(
    ("more", "new"),
    [
        ({"resolution": 96}, 3),
        ({"buckets": {"also": [64]}}, 3),
        ({"augment": {"crop": 0.2, "versions": 2}}, 3),
        ({"augment": {"flip": True, "versions": 4}}, 3),  # four versions, of which two are of one kind
        ({"captions": {"dropout": 0.5}}, 0),
        ({"data": {"trigger": "sks"}}, 0),
        ({"seed": 7}, 0),
    ],
)
def test_the_key_changes_with_what_is_shown_alone(more: dict[str, Any], new: int, pipe: Any, tmp_path: Path) -> None:
    folder = pictures.folder(tmp_path / "data", 3, ((128, 128),))
    encoded(seen_in(folder), pipe, Store(tmp_path / "cache", 0))
    before = files(tmp_path / "cache")
    resolution = more.pop("resolution", 128)
    tables = {"data": {"folder": folder, **more.pop("data", {})}, **more}
    encoded(seen_in(folder, resolution, **tables), pipe, Store(tmp_path / "cache", 0))
    assert len(files(tmp_path / "cache")) == len(before) + new


def test_another_vae_encodes_anew(pipe: Any, tmp_path: Path) -> None:
    seen = seen_in(pictures.folder(tmp_path / "data", 2))
    for model in (pipe, tiny.pipeline("sd1", seed=1)):
        encoded(seen, model, Store(tmp_path / "cache", 0))
    assert len(files(tmp_path / "cache")) == 4


def test_a_damaged_entry_is_encoded_again_and_told(pipe: Any, tmp_path: Path) -> None:
    seen = seen_in(pictures.folder(tmp_path / "data", 3))
    whole = Store(tmp_path / "cache", 0)
    images, _ = encoded(seen, pipe, whole)
    wanted = latents(images, whole)
    victim = next((tmp_path / "cache").rglob("*.safetensors"))
    data = bytearray(victim.read_bytes())
    data[-5] ^= 1
    victim.write_bytes(data)
    again = Store(tmp_path / "cache", 0)
    images, told = encoded(seen, pipe, again)
    assert [report.text for report in told if isinstance(report, Warned)] == [
        "cache: 1 damaged entry, which is encoded again"
    ]
    for one, other in zip(latents(images, again), wanted, strict=True):
        assert torch.equal(one["mean"], other["mean"])


def test_images_that_change_or_vanish_after_the_look_are_named(pipe: Any, tmp_path: Path) -> None:
    folder = pictures.folder(tmp_path / "data", 3)
    seen = seen_in(folder)
    _edit(folder)
    with pytest.raises(DataError, match=r"0\.png: has changed since it was looked at; start again"):
        encoded(seen, pipe, Store(tmp_path / "cache", 0))
    (folder / "0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png: is gone since it was looked at; start again"):
        encoded(seen, pipe, Store(tmp_path / "cache", 0))


def test_masks_are_on_the_latent_grid_of_every_version(pipe: Any, tmp_path: Path) -> None:
    folder = pictures.folder(tmp_path / "data", 2, ((128, 128),))
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (0, 0, 64, 128))
    mask.save(folder / "0-masklabel.png")
    store = Store(tmp_path / "cache", ROOM)
    seen = seen_in(folder, augment={"flip": True, "versions": 2})
    masked, plain = encoded(seen, pipe, store)[0]
    assert [version.mask for version in plain.shapes[0]] == [None, None]
    left, right = (store.get(version.mask or "")["mask"] for version in masked.shapes[0])
    assert left.shape == (1, 16, 16)
    assert (float(left[:, :, :8].min()), float(left[:, :, 8:].max())) == (1.0, 0.0)
    assert torch.equal(right, left.flip(2)), "the mask is mirrored with its image"
    unused, _ = encoded(seen, pipe, store, use="off")
    assert unused[0].shapes[0][0].mask is None

    before = len(files(tmp_path / "cache"))
    mask.paste(255, (0, 0, 128, 128))
    mask.putpixel((127, 127), 0)
    mask.save(folder / "0-masklabel.png")
    redrawn = Store(tmp_path / "cache", ROOM)
    again, _ = encoded(seen, pipe, redrawn)
    assert len(files(tmp_path / "cache")) == before + 2, "another mask is another entry; the latents stand"
    assert float(redrawn.get(again[0].shapes[0][0].mask or "")["mask"].mean()) > 0.99


def test_an_images_transparency_can_be_its_mask(pipe: Any, tmp_path: Path) -> None:
    folder = pictures.folder(tmp_path / "data", 2, ((128, 128),))
    with Image.open(folder / "0.png") as image:
        image.putalpha(Image.new("L", image.size, 255).crop((0, 0, 128, 128)))
        alpha = Image.new("L", image.size, 0)
        alpha.paste(255, (0, 0, 128, 32))
        image.putalpha(alpha)
        image.save(folder / "0.png")
    store = Store(None, ROOM)
    images, _ = encoded(seen_in(folder), pipe, store, use="alpha")
    cut, whole = (store.get(image.shapes[0][0].mask or "")["mask"] for image in images)
    assert float(cut.mean()) == 0.25
    assert float(whole.min()) == 1.0


def test_holes_for_inpainting_are_encoded_with_what_they_leave(pipe: Any, tmp_path: Path) -> None:
    seen = seen_in(pictures.folder(tmp_path / "data", 2, ((128, 128),)))
    store = Store(tmp_path / "cache", ROOM)
    images, _ = encoded(seen, pipe, store, Holes(4, 0.25))
    told = [store.get(key)["inpainting"] for key in images[0].shapes[0][0].holes]
    assert [one.shape for one in told] == [(5, 16, 16)] * 4
    covered = [float(one[0].mean()) for one in told]
    assert covered.count(1.0) == 1
    full = told[covered.index(1.0)][1:]
    others = [store.get(key)["inpainting"] for key in images[1].shapes[0][0].holes]
    assert torch.allclose(full, next(one for one in others if float(one[0].mean()) == 1.0)[1:]), "grey all over"
    before = files(tmp_path / "cache")
    encoded(seen, pipe, Store(tmp_path / "cache", 0), Holes(4, 0.25))
    assert files(tmp_path / "cache") == before


def spoiling(vae: Any, wrong: Callable[[Tensor], Tensor]) -> Any:
    """The VAE's encoder gives no numbers for those pixels [B, 3, H, W] of which `wrong` [B] is true, meanwhile."""
    return vae.encoder.register_forward_hook(
        lambda _, given, found: found.masked_fill(wrong(given[0])[:, None, None, None], math.nan)
    )


def filling(vae: Any, most: int) -> Any:
    """The VAE's encoder asks for more memory than there is for over so many images, meanwhile."""
    return vae.encoder.register_forward_pre_hook(lambda _, given: need_memory() if len(given[0]) > most else None)


def need_memory() -> None:
    torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize("holes", [None, Holes(2, 0)])
def test_an_image_without_numbers_is_named_and_never_kept(pipe: Any, tmp_path: Path, holes: Holes | None) -> None:
    folder = pictures.folder(tmp_path / "data", 3)
    bad = sorted(folder.glob("*.png"))[1]
    Image.new("RGB", (64, 64), "white").save(bad)
    store = Store(tmp_path / "cache", ROOM)
    seen = seen_in(folder)
    least, most = (0.9, 1.1) if holes is None else (-0.1, 0.1)  # of white with a hole the darkest is grey
    hook = spoiling(pipe.vae, lambda pixels: (pixels.amin((1, 2, 3)) > least) & (pixels.amin((1, 2, 3)) < most))
    try:
        with pytest.raises(DataError) as caught:
            encoded(seen, pipe, store, holes)
    finally:
        hook.remove()
    told = f"{bad}: the model's VAE makes no numbers of it; leave it out, or choose a model with another VAE"
    assert caught.value.problems == (told,)
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())


def test_a_kept_entry_without_numbers_is_made_again(pipe: Any, tmp_path: Path) -> None:
    seen = seen_in(pictures.folder(tmp_path / "data", 1))
    store = Store(None, ROOM)
    (image,), _ = encoded(seen, pipe, store)
    ((version,),) = image.shapes
    good = store.get(version.latents)
    spoilt = Store(None, ROOM)
    spoilt.put(version.latents, good | {"std": torch.full_like(good["std"], math.inf)})
    encoded(seen, pipe, spoilt)
    assert torch.equal(spoilt.get(version.latents)["std"], good["std"])


def test_images_that_do_not_fit_together_are_encoded_alone(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = seen_in(pictures.folder(tmp_path, 5))
    alone = Store(None, ROOM)
    expected, _ = encoded(seen, pipe, alone)
    monkeypatch.setattr(encode, "PIXELS_AT_ONCE", {"cpu": 3 * 64 * 64})
    hook, store = filling(pipe.vae, 1), Store(None, ROOM)
    try:
        found, told = encoded(seen, pipe, store)
    finally:
        hook.remove()
    assert [report.number for report in told if isinstance(report, Progress)] == [3, 5]
    for one, other in zip(latents(found, store), latents(expected, alone), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("mean", "std"))


def test_an_image_that_does_not_fit_alone_is_named(pipe: Any, tmp_path: Path) -> None:
    seen = seen_in(pictures.folder(tmp_path, 1))
    hook = filling(pipe.vae, 0)
    try:
        with pytest.raises(TrainingError, match=r"\.png: out of memory while encoding it alone, at 64 x 64; use a"):
            encoded(seen, pipe, Store(None, ROOM))
    finally:
        hook.remove()
