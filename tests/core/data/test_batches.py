"""What a step sees is a pure function of (seed, step): versions, captions, dropped ones, masks, and sampled latents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sdtune.core.data.batches import Batch, Batches, said_of
from sdtune.core.data.cache import Store
from sdtune.core.data.encode import Encoded, Version
from sdtune.core.data.plan import plan_for
from sdtune.core.draws import Draws
from sdtune.tables import Captions

SHAPE = (4, 2, 3)


def version(store: Store, number: float, *, said: str = "", mask: float | None = None) -> Version:
    """One whose latents have the number as their mean and no spread."""
    latents, masked = f"latents {number}", f"mask {number}"
    store.put(latents, {"mean": torch.full(SHAPE, number), "std": torch.zeros(SHAPE)})
    if mask is not None:
        store.put(masked, {"mask": torch.full((1, *SHAPE[1:]), mask)})
    sizes = {"size": torch.full((2,), number)}
    return Version(latents, masked if mask is not None else None, (), sizes, said)


def image(versions: Sequence[Version], captions: Sequence[str] = ("a",), **more: Any) -> Encoded:
    return Encoded("image.png", (tuple(versions),), ((24, 16),), tuple(captions), **more)


def batches(store: Store, images: Sequence[Encoded], size: int = 1, *, live: bool = False, **settings: Any) -> Batches:
    told = Captions(**{"dropout": 0, **settings})
    stream = plan_for(
        [one.sizes for one in images],
        [one.repeats for one in images],
        [one.prior for one in images],
        batch_size=size,
        seed=0,
        manifest="m",
    )
    read = None if live else lambda caption: {"text": torch.tensor([float(len(caption))])}
    return Batches(images, stream, store, told, seed=0, told=read)


def drawn(stream: Batches, steps: int, size: int = 1) -> list[Batch]:
    return [batch for step in range(steps) for batch, _ in stream.at(step, Draws(0, step, range(size), size))]


def about(times: Counter[Any], share: dict[Any, float], of: int) -> bool:
    """Whether counts lie within four standard deviations of their shares."""
    return all(
        abs(times[name] - of * part) <= 4 * (of * part * (1 - part)) ** 0.5 + 1e-9 for name, part in share.items()
    )


@pytest.fixture
def store() -> Store:
    return Store(None, 0)


def test_latents_are_drawn_afresh_from_mean_and_spread_at_each_step(store: Store) -> None:
    wide = (4, 32, 32)
    store.put("wide", {"mean": torch.full(wide, 3.0), "std": torch.full(wide, 0.5)})
    stream = batches(store, [image([Version("wide", None, (), {}, "")])])
    first, second = drawn(stream, 2)
    assert not torch.equal(first.latents, second.latents)
    assert float(first.latents.mean()) == pytest.approx(3, abs=0.04)
    assert float(first.latents.std()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(first.latents, drawn(stream, 1)[0].latents)


def test_every_image_brings_its_own_size_weight_and_caption(store: Store) -> None:
    images = [image([version(store, float(number))], ["x" * number], weight=0.5 * number) for number in range(1, 6)]
    (batch,) = drawn(batches(store, images, 5), 1, 5)
    number = batch.latents[:, 0, 0, 0]
    assert sorted(number.tolist()) == [1, 2, 3, 4, 5]
    assert torch.equal(batch.conditioning["size"], number[:, None].expand(-1, 2))
    assert torch.equal(batch.conditioning["text"][:, 0], number)
    assert torch.equal(batch.weights, 0.5 * number)
    assert list(batch.captions) == ["x" * int(one) for one in number]


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_captions_are_dropped_at_the_rate_asked_for_and_never_those_of_priors(store: Store, rate: float) -> None:
    own, prior = image([version(store, 1.0)], ["own"]), image([version(store, 2.0)], ["class"], prior=True)
    told = Counter(batch.captions[0] for batch in drawn(batches(store, [own, prior], dropout=rate), 2000))
    assert told["class"] == 1000
    assert about(told, {"": rate, "own": 1 - rate}, 1000)


def test_a_dropped_caption_leaves_the_size_standing(store: Store) -> None:
    (batch,) = drawn(batches(store, [image([version(store, 7.0)], ["own"])], dropout=1), 1)
    assert batch.conditioning["text"].tolist() == [[0.0]]
    assert batch.conditioning["size"].tolist() == [[7.0, 7.0]]


def test_versions_and_captions_are_drawn_evenly_and_apart_from_each_other(store: Store) -> None:
    versions = [version(store, float(number), said=f", {number}" if number else "") for number in range(3)]
    stream = batches(store, [image(versions, ["a", "b"])])
    told = Counter(batch.captions[0] for batch in drawn(stream, 3000))
    pairs = {text + said: 1 / 6 for text in "ab" for said in ("", ", 1", ", 2")}
    assert about(told, pairs, 3000)
    assert told.total() == sum(told[name] for name in pairs)


def test_what_a_version_adds_stands_in_the_caption_of_its_own_steps_alone(store: Store) -> None:
    stream = batches(store, [image([version(store, 0.0), version(store, 1.0, said=", mirrored")], [""])])
    for batch in drawn(stream, 50):
        assert batch.captions == (("mirrored",) if float(batch.latents[0, 0, 0, 0]) else ("",))


@pytest.mark.parametrize("live", [False, True])
def test_tags_are_shuffled_and_dropped_at_their_rates(store: Store, live: bool) -> None:
    stream = batches(
        store,
        [image([version(store, 1.0)], ["sks, a, b, c"])],
        live=live,
        shuffle=True,
        keep=1,
        tag_dropout=0.25,
        wordings=1000,
    )
    told = [batch.captions[0].split(", ") for batch in drawn(stream, 3000)]
    assert {tags[0] for tags in told} == {"sks"}
    kept = Counter(tag for tags in told for tag in tags[1:])
    assert about(kept, dict.fromkeys("abc", 0.75), 3000 if live else 1000 * 3)
    second = Counter(tags[1] for tags in told if len(tags) == 4)
    assert about(second, dict.fromkeys("abc", 1 / 3), second.total())


def test_everything_that_is_drawn_was_encoded_before(store: Store) -> None:
    versions = [version(store, 0.0), version(store, 1.0, said=", mirrored")]
    images = [image(versions, ["sks, {red|blue}, a, b", "plain"]), image([version(store, 2.0)], ["c"], prior=True)]
    settings = Captions(shuffle=True, tag_dropout=0.3, wordings=4, dropout=0.1)
    known = set(said_of(images, settings))
    stream = batches(store, images, shuffle=True, tag_dropout=0.3, wordings=4, dropout=0.1)
    told = {batch.captions[0] for batch in drawn(stream, 500)}
    assert told <= known
    assert len(told) > 8


@pytest.mark.parametrize("live", [False, True])
def test_captions_of_priors_are_literal(store: Store, live: bool) -> None:
    caption = "a {red|blue} dog, b, c ||| d"
    images = [image([version(store, 1.0)], ["own, e"]), image([version(store, 2.0)], [caption], prior=True)]
    told = {"shuffle": True, "tag_dropout": 0.5, "keep": 0}
    stream = batches(store, images, live=live, **told)
    assert {one.captions[0] for one in drawn(stream, 50)} - {"own", "e", "own, e", "e, own", ""} == {caption}
    assert set(said_of(images[1:], Captions(**told))) == {"", caption}


@pytest.mark.parametrize("live", [False, True])
def test_triggers_are_never_dropped(store: Store, live: bool) -> None:
    told = Captions(shuffle=True, tag_dropout=0.9, dropout=0, keep=0)
    images = [image([version(store, 1.0)], ["a, b, one sks, c"])]
    plain = batches(store, images, live=live)
    stream = Batches(images, plain.stream, store, told, seed=0, told=plain.told, triggers=["sks"])
    texts = {one.captions[0] for one in drawn(stream, 100)}
    assert all("one sks" in text.split(", ") for text in texts)
    assert len(texts) > 2
    assert live or texts <= set(said_of(images, told, ["sks"]))


def test_masks_come_with_ones_for_images_without(store: Store) -> None:
    images = [image([version(store, 1.0, mask=0.25)]), image([version(store, 2.0)])]
    (batch,) = drawn(batches(store, images, 2), 1, 2)
    assert batch.masks is not None
    for latents, mask in zip(batch.latents, batch.masks, strict=True):
        assert set(mask.flatten().tolist()) == ({0.25} if float(latents[0, 0, 0]) == 1 else {1.0})
    (unmasked,) = drawn(batches(store, images[1:]), 1)
    assert unmasked.masks is None


def test_passes_of_a_step_have_the_draws_of_their_own_slots(store: Store) -> None:
    small, other = (4, 2, 2), (4, 3, 2)
    for name, shape in (("small", small), ("other", other)):
        store.put(name, {"mean": torch.zeros(shape), "std": torch.ones(shape)})
    images = [
        Encoded("a", ((Version(name, None, (), {}, ""),),), (size,), ("a",))
        for name, size in (("small", (16, 16)), ("other", (16, 24)), ("small", (16, 16)))
    ]
    passes = batches(store, images, 3).at(0, Draws(0, 0, range(3), 3))
    assert sorted(len(batch.latents) for batch, _ in passes) == [1, 2]
    slots = [slot for _, draws in passes for slot in draws.slots]
    assert slots == [0, 1, 2]
    for batch, draws in passes:
        assert torch.equal(batch.latents, draws.normal("vae", tuple(batch.latents.shape[1:])))


def test_inpainting_draws_one_of_the_holes(store: Store) -> None:
    holes = tuple(f"hole {number}" for number in range(3))
    for number, name in enumerate(holes):
        store.put(name, {"inpainting": torch.full((5, 2, 3), float(number))})
    plain = version(store, 1.0)
    stream = batches(store, [image([Version(plain.latents, None, holes, {}, "")])])
    told = Counter(float(batch.conditioning["inpainting"][0, 0, 0, 0]) for batch in drawn(stream, 900))
    assert about(told, dict.fromkeys((0.0, 1.0, 2.0), 1 / 3), 900)


def test_a_batch_moves_whole(store: Store) -> None:
    (batch,) = drawn(batches(store, [image([version(store, 1.0, mask=0.5)])]), 1)
    moved = batch.to(torch.device("cpu"), torch.bfloat16)
    kinds: dict[str, Tensor | None] = {"latents": moved.latents, "weights": moved.weights, "masks": moved.masks}
    assert all(value is not None and value.dtype == torch.float32 for value in kinds.values())
    assert {value.dtype for value in moved.conditioning.values()} == {torch.bfloat16}
    assert (moved.captions, moved.names) == (batch.captions, batch.names)


@pytest.mark.parametrize("most", [1, 2, 3, None])
@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_shares_and_smaller_passes_are_the_same_images_in_the_same_slots(
    store: Store, processes: int, most: int | None
) -> None:
    images = [
        Encoded(f"{number}", ((version(store, float(number)),),), ((16, 16 + 8 * (number % 3)),), ("a",))
        for number in range(11)
    ]
    stream = batches(store, images, 4)
    lengths = []
    for step in range(6):
        draws = Draws(0, step, range(4), 4)
        whole = [one for batch, _ in stream.at(step, draws) for one in batch.names]
        found: list[tuple[int, str]] = []
        for process in range(processes):
            passes = stream.at(step, draws, share=(process, processes), most=most)
            assert all(0 < len(batch.names) <= (most or 4) for batch, _ in passes)
            assert all(len({(16, 16 + 8 * (int(name) % 3)) for name in batch.names}) == 1 for batch, _ in passes)
            found += [pair for batch, here in passes for pair in zip(here.slots, batch.names, strict=True)]
        assert found == list(enumerate(whole))
        lengths.append(len(whole))
    assert sorted(lengths[:3]) == [3, 4, 4]
