"""What models add to a prepared data set: masks of what a text describes, and prior images of a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sdtune.choices.masks import MaskClipSeg
from sdtune.config import Prepare, Sample
from sdtune.core.intake.ledger import Ledger, Row
from sdtune.core.intake.shelf import mask_of
from sdtune.core.priors import drawing, drawn_in
from sdtune.core.reports import Drawn, Note, Progress, Telling
from sdtune.core.run_folder import safe_name

AT_ONCE = 8  # images through the segmenter


def check_models(config: Prepare) -> None:
    """Say which models cannot be had before any other work is done."""
    if isinstance(config.mask, MaskClipSeg):
        from sdtune.core.intake.segment import find_model

        find_model(config.mask)
    if config.prior.count:
        from sdtune.core.model import identify

        identify(config.prior.model)


def find_masks(settings: MaskClipSeg, rows: Sequence[Row], ledger: Ledger, config: Prepare) -> Telling[None]:
    """A mask beside each image that shall have one by this text; those that an earlier run found so are kept."""
    before = {row.key for row in ledger.rows.values() if row.mask == settings.told}
    wanted = [row for row in rows if row.mask == settings.told]
    places = {row.file: mask_of(ledger.out / row.file) for row in wanted}
    todo = [row for row in wanted if row.key not in before or not places[row.file].exists()]
    todo = [row for row in todo if not places[row.file].exists() or ledger.is_own(places[row.file])]  # not people's
    if not todo:
        return
    from sdtune.core.intake.segment import Segmenter

    segmenter = Segmenter(settings, config.memory)
    for start in range(0, len(todo), AT_ONCE):
        chunk = [ledger.out / row.file for row in todo[start : start + AT_ONCE]]
        for path, mask in zip(chunk, segmenter.mask([_open(path) for path in chunk]), strict=True):
            mask.save(ledger.unfinished / "mask.png")
            ledger.take(ledger.unfinished / "mask.png", mask_of(path))
        yield Progress("finding masks", start + len(chunk), len(todo))


def draw_priors(config: Prepare, ledger: Ledger) -> Telling[int]:
    """Draws what is missing of the prior images into reg/1_<class>/ and returns how many there are.

    What this model has drawn of this prompt counts, each with a seed of its own.
    """
    prompt = config.prior.prompt
    assert prompt is not None, "checked at the door"
    from sdtune.core.model import identify

    folder = ledger.out / "reg" / f"1_{safe_name(prompt)}"
    seeds = drawn_in(folder, prompt, identify(config.prior.model).name)
    there = len(seeds)
    if there >= config.prior.count:
        yield Note(f"prior images: {there} in {folder} already")
        return there
    settings: dict[str, Any] = {"model": config.prior.model, "out": folder, "memory": config.memory}
    missing = config.prior.count - there
    for report in drawing(Sample(prompt=(prompt,), count=missing, seed=max(seeds, default=-1) + 1, **settings)):
        if isinstance(report, Drawn):
            ledger.write(report.path.with_suffix(".txt"), prompt)
            there += 1
            yield Progress("drawing prior images", there, config.prior.count)
        else:
            yield report
    return there


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
