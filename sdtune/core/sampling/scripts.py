"""Scripts: what the denoiser is told of each picture, read while the text encoders are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sdtune.core.data.cache import Store
from sdtune.core.drawing import Guide
from sdtune.core.reports import Note, Telling
from sdtune.core.sampling.jobs import Job, by_set
from sdtune.core.sampling.order import Order
from sdtune.core.sampling.rack import Rack, acting_on
from sdtune.core.sampling.reading import Script, Scripted, encode, script_of
from sdtune.core.scratch import scratch_folder

IN_MEMORY = 128
"""pictures whose encoded prompts are held in memory; those of more lie on disk"""
HELD = 256 * 2**20
"""bytes of them that are held then"""


@dataclass
class Scripts:
    """What each job's denoiser is told."""

    of_job: dict[int, tuple[Script, str]] = field(default_factory=dict)
    """{number: (script, which LoRAs acted on the text encoders)}"""
    told: dict[str, Scripted] = field(default_factory=dict)
    """{which LoRAs acted: what the text encoders made of the texts}"""

    def guides(self, job: Job) -> tuple[Guide, Guide]:
        """(prompt, negative) of a job."""
        script, acting = self.of_job[job.number]
        return self.told[acting].guides(script)


@contextmanager
def store_for(jobs: Sequence[Job]) -> Iterator[Store]:
    """Where encoded prompts lie: in memory, or where they are many on disk, so that memory stays flat."""
    if len(jobs) <= IN_MEMORY:
        yield Store(None, 0)
        return
    with scratch_folder() as folder:
        yield Store(folder, HELD)


def read_scripts(order: Order, pipe: Any, jobs: Sequence[Job], store: Store) -> Telling[Scripts]:
    """Every prompt encoded, with the LoRAs that act on the text encoders."""
    family, syntax, clip_skip = order.family, order.config.syntax, order.clip_skip
    rack = Rack(pipe, family, family.text_encoders)
    scripts, known = Scripts(), set[str]()
    sets: dict[str, list[Job]] = {}
    for alike in by_set(jobs):
        sets.setdefault(acting_on(alike[0].asked.loras, family.text_encoders), []).extend(alike)
    for acting, some in sets.items():
        rack.use(some[0].asked.loras)
        for word, path in rack.words.items():
            if word not in known:
                known.add(word)
                yield Note(f'new word: "{word}" ({path.name})')
        own = []
        for job in some:
            text, negative, steps, where = job.recipe.prompt, job.recipe.negative, job.recipe.steps, job.asked.where
            script = script_of(text, negative, steps, family, pipe, syntax=syntax, clip_skip=clip_skip, where=where)
            scripts.of_job[job.number] = script, acting
            own.append(script)
        scripts.told[acting] = yield from encode(
            own, family, pipe, order.device, syntax=syntax, clip_skip=clip_skip, store=store, acting=acting
        )
    rack.use(())
    return scripts
