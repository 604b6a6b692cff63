"""Evaluations that never took place, with small pictures on disk."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from sdtune.core.evaluation.intervals import Refused, Value, resampled
from sdtune.core.evaluation.measures import measures
from sdtune.core.evaluation.measures.base import Told
from sdtune.core.evaluation.outcome import Comparison, Copy, Cost, Judged, Outcome, Ranked, Side
from sdtune.core.evaluation.subject import Candidate, Case, Cell, Kind, Prompt, Reference, Subject, Unit
from sdtune.core.evaluation_reports import Difference, Figure
from tests.core.evaluation.measures.handmade import cloud, seen, unit

SUBJECTS = ("sunflower", "mushroom", "guitar", "turtle", "penguin", "balloon", "teapot", "cactus")


def picture(path: Path, number: int, side: int = 32) -> Path:
    """A square of its own colour on white, as a PNG."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (side, side), "white")
    colour = (37 * number % 256, 91 * number % 256, 151 * number % 256)
    image.paste(colour, (side // 8, side // 8, side - side // 8, side - side // 8))
    image.save(path)
    return path


def reference(path: Path, number: int, name: str | None = None) -> Reference:
    return Reference(picture(path, number), name or path.name, f"{number:064x}", f"a caption of {path.stem}")


def case(folder: Path, *, steps: tuple[int, ...] = (300, 600, 900), subjects: int = 1, hostile: str = "") -> Case:
    """Trainings of so many steps each, with four trained and four held-out pictures."""
    references = tuple(
        reference(folder / "held" / f"{number}.png", number, f"{hostile}held-{number}.png") for number in range(4)
    )
    of = tuple(
        Subject(
            f"{hostile}cats-{place + 1}",
            folder / "run",
            tuple(
                reference(folder / "trained" / f"{number}.png", 40 + number, f"{hostile}img_{number:02}.png")
                for number in range(4)
            ),
            references,
        )
        for place in range(subjects)
    )
    name = "{0}step {1}" if subjects == 1 else "{0}cats-{2} step {1}"
    candidates = tuple(
        Candidate(
            place, name.format(hostile, step, place + 1), folder / "run" / f"cats-{place}-{step}.safetensors", step
        )
        for place in range(subjects)
        for step in steps
    )
    kinds: tuple[Kind, ...] = ("in-distribution", "new context", "generic")
    prompts = tuple(
        Prompt(
            f"{hostile}a {what}{', xyz style' if kind != 'generic' else ''} {kind}",
            f"{hostile}a {what}",
            kind,
            kind != "generic",
            number if kind == "in-distribution" and number < 4 else None,
            (0, number - 4) if kind == "in-distribution" and number >= 4 else None,
        )
        for kind in kinds
        for number, what in enumerate(SUBJECTS[: 6 if kind == "in-distribution" else 2])
    )
    return Case("mini", of, candidates, references, prompts, f"{hostile}xyz style", None, (f"{hostile}49 trained.",))


def value(estimate: float, reach: float, references: int = 12) -> Value:
    return Value(estimate, estimate - reach, estimate + reach, 20, references)


@cache
def found_beside(hostile: str = "") -> dict[str, dict[str, Any]]:
    """What every measure finds beside its figure, of pictures that are points: by name of the measure."""
    random = numpy.random.default_rng(0)
    drawn, base, references = cloud(random, 24), cloud(random, 24, shift=0.5), cloud(random, 12)
    asked = numpy.arange(24) < 16
    one = seen(
        unit(drawn + asked[:, None] * 0.4 * references.mean(axis=0)),
        references,
        base=base,
        trained=cloud(random, 4),
        in_distribution=asked,
        generic=~asked,
        has_concept=asked,
        of_reference=numpy.where(numpy.arange(24) < 6, numpy.arange(24), -1),
        classes=(f"{hostile}cat", "dog"),
        of_class=numpy.arange(24) % 2,
        reference_classes=numpy.arange(12) % 2,
    )
    weights = resampled(one.prompt.tolist(), 12, 2)
    of_pictures = ("copies",)  # which are looked at as pictures, too
    found = {
        name: measure.detail(one)
        for name, measure in measures().items()
        if name not in of_pictures and isinstance(measure.told(one, weights, force=True), Told)
    }
    return {"copies": {"by_trained": {"3": 1}, "recited": 2, "of_trained_captions": 2}} | found


def outcome(
    folder: Path,
    *,
    steps: tuple[int, ...] = (300, 600, 900),
    strengths: tuple[float, ...] = (0.5, 0.8, 1.0),
    subjects: int = 1,
    hostile: str = "",
    refused: bool = False,
    about: Case | None = None,
) -> Outcome:
    """What would have been found: the better, the more it is trained, and in the end it copies."""
    about = about or case(folder, steps=steps, subjects=subjects, hostile=hostile)
    units = tuple(Unit(prompt, seed) for prompt in range(len(about.prompts)) for seed in (0,))
    cells = [Cell(None, 0.0)]
    cells += [Cell(place, strength) for place in range(len(about.candidates)) for strength in strengths]
    judged = []
    for number, cell in enumerate(cells):
        step = about.candidates[cell.candidate].step or 0 if cell.candidate is not None else 0
        far = cell.strength * step / 900
        figures = {
            "concept_f1": value(0.4 + 0.45 * math.sin(1.8 * far), 0.11),
            "copies": Value(0.4 * (far > 0.7), 0.0, 0.5, 15, 4),
            "closeness": value(0.60 + 0.2 * math.sin(1.7 * far), 0.03),
            "text_alignment": value(0.27 - 0.01 * far**3, 0.008, 0),
            "cmmd": value(0.9 - 0.5 * math.sin(1.7 * far), 0.12),
            "kid": Value(40 - 30 * far, math.nan, math.nan, 20, 12),
            "vendi": value(5.4 - far, 0.6, 0),
            "drift": value(0.08 * far, 0.01, 0),
            "loss": value(1 - 0.3 * far, 0.02),
        }
        fid = Refused(f"{hostile}12 references are too few: it takes 256; add pictures, or use --force")
        values: dict[str, Value | Refused] = {"fid": fid} if refused else {**figures, "fid": fid}
        base = judged[0].values if judged else {}
        change = {
            name: Value(
                here.estimate - there.estimate, *(here.estimate - there.estimate + by for by in (-0.05, 0.05)), 20, 12
            )
            for name, here in values.items()
            if isinstance(here, Value) and isinstance(there := base.get(name), Value)
        }
        copies = tuple(
            Copy(unit, unit % 4, 0.97 + 0.001 * unit, 0.91, unit < 2, unit < 5)
            for unit in range(6)
            if step >= 900 and far > 0.7
        )
        shades = [(number + place) % 12 for place in range(len(units))]
        pictures = tuple(picture(folder / "pictures" / f"{shade}.png", shade) for shade in shades)
        judged.append(
            Judged(
                cell,
                values,
                change,
                found_beside(hostile),
                copies,
                pictures,
            )
        )
    last = len(about.candidates) - 1
    best = Cell(last, strengths[-1])
    ranking = tuple(
        Ranked(
            place,
            best if place == subjects - 1 else None,
            0.8 - place,
            f"{hostile}closest to the references",
            (f"{hostile}step 900 at strength 1: 3 drawings are near-copies of img_03.png",),
            (f"{hostile}closest to the references", "what was learned shows in 85% of the drawings"),
        )
        for place in reversed(range(subjects))
    )
    return Outcome(
        f"{hostile}cats-1",
        about,
        units,
        tuple(judged),
        "CLIP of mini",
        ranking,
        f"{hostile}use {about.candidates[last].name} at strength {strengths[-1]:g}: "
        "it draws what was learned in 85 % of "
        "prompts that ask for it, and keeps to the prompt as well as the base does",
        f"sdtune sample --prompt '{hostile}a house' --lora run/cats-0-900.safetensors:1",
        {"concept_f1": 0.05, "kid": math.inf},
        {"strengths": list(strengths), "reference": folder / "held", "sampler": {"kind": "dpm++2m"}, "seed": 0},
        {"sdtune": "0.9.0", "torch": "2.9"},
        Cost(240, 36, 192.4, "cpu"),
        {
            about.subjects[0].name: [
                (step, 1 - step / 3000 + (step / 1200) ** 4, 1 - step / 2000) for step in range(100, 1000, 100)
            ]
        },
        "256 pixels, antialiased, 8 bits",
    )


def comparison(folder: Path, *, hostile: str = "") -> Comparison:
    """Two LoRAs, of which the first is better."""
    found = outcome(folder, steps=(300,), strengths=(0.8, 1.0), subjects=2, hostile=hostile)
    sides = [
        Side(
            one.name,
            one.path,
            one.step,
            0.8,
            place,
            found.cells[1 + 2 * place].pictures,
            (Copy(0, 1, 0.99, 0.9, False),) * place,
        )
        for place, one in enumerate(found.case.candidates)
    ]
    known = measures()
    differences = tuple(
        Difference(
            name,
            known[name].title,
            known[name].digits,
            known[name].better,
            Figure(0.8, 0.7, 0.9),
            Figure(0.6, 0.5, 0.7),
            by,
            floor,
            winner,
        )
        for name, by, floor, winner in (
            ("concept_f1", Figure(0.2, 0.1, 0.3), 0.05, "A"),
            ("image_similarity", Figure(0.02, -0.1, 0.14), 0.1, ""),
            ("diversity", Figure(0.2, math.nan, math.nan), None, ""),
            ("cmmd", Figure(0.3, 0.1, 0.5), None, "B"),
        )
    )
    return Comparison(
        f"{hostile}A and B",
        found.case,
        found.units,
        sides[0],
        sides[1],
        found.cells[0].pictures,
        found.encoder,
        f"{hostile}A is better: in 1 of 4 measures, and B in 1",
        differences,
        {"fid": f"{hostile}too few"},
        found.settings,
        found.versions,
        found.cost,
        found.resize,
    )


def cheaper(found: Outcome) -> Outcome:
    """The same, found once more, when all pictures were there."""
    return replace(found, cost=Cost(0, 276, 3.1, "cpu"))
