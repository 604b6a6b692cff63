"""What models add to a prepared data set: masks of what a text describes, and prior images of a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from sdtune.choices.masks import MaskClipSeg
from sdtune.config import Prepare, Sample
from sdtune.core.intake.ledger import Ledger, Row
from sdtune.core.intake.shelf import mask_of
from sdtune.core.reports import Drawn, Note, Progress, Saved, Telling
from sdtune.core.run_folder import safe_name, write_atomically

FOUND = "clipseg: "
"""before the text by which a mask was found"""
AT_ONCE = 8  # images through the segmenter


def check_models(config: Prepare) -> None:
    """Say which models cannot be had before any other work is done."""
    if isinstance(config.mask, MaskClipSeg):
        from sdtune.core.intake.segment import find_model

        find_model(config.mask)
    if config.prior.count:
        from sdtune.core.model import identify

        identify(config.prior.model)


def find_masks(settings: MaskClipSeg, rows: Sequence[Row], ledger: Ledger, config: Prepare) -> Telling[list[Row]]:
    """The rows, with a mask beside each image that had none; those that an earlier run found so are kept."""
    told = f"{FOUND}{settings.prompt} ({settings.model}, {settings.threshold:g})"
    lacking = [row for row in rows if row.mask is None and not row.prior]
    before = {row.key for row in ledger.rows.values() if row.mask == told}
    todo = [row for row in lacking if row.key not in before or not mask_of(ledger.out / row.file).exists()]
    if todo:
        from sdtune.core.intake.segment import Segmenter

        segmenter = Segmenter(settings, config.memory)
        for start in range(0, len(todo), AT_ONCE):
            chunk = [ledger.out / row.file for row in todo[start : start + AT_ONCE]]
            for path, mask in zip(chunk, segmenter.mask([_open(path) for path in chunk]), strict=True):
                write_atomically(mask_of(path), mask.save, within=ledger.unfinished)
            yield Progress("finding masks", start + len(chunk), len(todo))
    having = {row.key for row in lacking}
    return [replace(row, mask=told) if row.key in having else row for row in rows]


def forget_masks(rows: Sequence[Row], ledger: Ledger) -> None:
    """Takes masks away that an earlier run found by a text, and that are not asked for any more."""
    for row in rows:
        stood = ledger.rows.get(row.file)
        if row.mask is None and stood is not None and (stood.mask or "").startswith(FOUND):
            mask_of(ledger.out / row.file).unlink(missing_ok=True)


def draw_priors(config: Prepare, ledger: Ledger) -> Telling[int]:
    """Draws what is missing of the prior images into reg/1_<class>/ and returns how many there are."""
    prompt = config.prior.prompt
    assert prompt is not None, "checked at the door"
    folder = ledger.out / "reg" / f"1_{safe_name(prompt)}"
    there = len(list(folder.glob("[0-9]*.png"))) if folder.is_dir() else 0
    if there >= config.prior.count:
        yield Note(f"prior images: {there} in {folder} already")
        return there
    from sdtune.core.sample import sample

    missing = config.prior.count - there
    asked = Sample(
        prompt=(prompt,), count=missing, seed=there, model=config.prior.model, out=folder, memory=config.memory
    )
    for report in sample(asked):
        if isinstance(report, Drawn):
            ledger.write(report.path.with_suffix(".txt"), prompt)
            there += 1
            yield Progress("drawing prior images", there, config.prior.count)
        elif isinstance(report, Saved):
            report.path.unlink()  # the sheet of all, which is no image to train on
        elif isinstance(report, Note):
            yield report
    return there


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
