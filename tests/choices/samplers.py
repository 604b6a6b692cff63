"""Every sampler there is, as it comes and with each of its settings otherwise: a new class is tested by being there."""

from __future__ import annotations

from typing import Any

from sdtune.choices.samplers import Sampler
from sdtune.choices.spec import kinds_of, named_settings
from sdtune.config import Sample

KINDS: dict[str, Any] = kinds_of(Sample.model_fields["sampler"])
OTHERWISE: dict[str, list[Any]] = {"karras": [False], "eta": [0.5, 1.0], "churn": [10.0, 100.0]}


def every_sampler() -> list[Sampler]:
    """Of each kind the usual one, and those with one setting changed."""
    found: list[Sampler] = []
    for kind in KINDS.values():
        found.append(kind())
        found += [kind(**{name: value}) for name, _ in named_settings(kind) for value in OTHERWISE[name]]
    return found


def name_of(sampler: Sampler) -> str:
    """As tests are named by it: euler-churn-10.0."""
    told = sampler.model_dump(exclude={"kind"}, exclude_defaults=True)
    return "-".join([sampler.model_dump()["kind"], *(f"{name}-{value}" for name, value in told.items())])
