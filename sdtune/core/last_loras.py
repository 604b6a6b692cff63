"""The last LoRAs that a run has saved, and their average, which often draws better than any one of them.

Averages of the weights along a training: Izmailov et al. 2018, arXiv:1803.05407. Here the updates are averaged, not
their factors, whose product would be another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sdtune.choices.blends import Concat
from sdtune.core.adapters import Adapter
from sdtune.core.applied import Applied
from sdtune.core.blending import Part, blended
from sdtune.core.checkpoint_folder import is_name, step_of
from sdtune.core.checkpoint_lora import lora_of_checkpoint
from sdtune.core.header import read_header
from sdtune.core.lora import Lora
from sdtune.core.lora_file import read
from sdtune.core.lora_updates import Bases, in_order
from sdtune.core.reports import Note, Progress, Telling
from sdtune.core.run_folder import RunFolder
from sdtune.core.truncation import Losses
from sdtune.earlier import RUN_SETTINGS
from sdtune.errors import LoraError

LEAST = 2
"""of which there is an average"""


def averaged(applied: Sequence[Applied], last: int, bases: Bases) -> Telling[list[Applied]]:
    """The same, each with the average of its run's last LoRAs; none is begun where one of them has too few."""
    places = [last_of(one.path, last) for one in applied]
    found = []
    for one, steps in zip(applied, places, strict=True):
        average = yield from _average(one, steps, bases)
        found.append(average)
    return found


def _average(one: Applied, places: Mapping[int, Path], bases: Bases) -> Telling[Applied]:
    """The same with the average of these LoRAs of its run, of the rank that they have; what that loses is told."""
    loras = [lora_of_checkpoint(path, one.lora.family) if path.is_dir() else read(path) for path in places.values()]
    losses = Losses()
    modules: dict[str, Adapter] = {}
    every = in_order({name for lora in loras for name in lora.modules})
    for number, name in enumerate(every, 1):
        parts = [
            Part(str(path), lora.modules[name], 1 / len(loras), bases.fitting(name, lora.modules[name], str(path)))
            for path, lora in zip(places.values(), loras, strict=True)
            if name in lora.modules
        ]
        rank = max((part.adapter.rank or 0 for part in parts), default=0) or None
        modules[name], losses.modules[name] = blended(Concat(), name, parts, rank)
        yield Progress("averaging", number, len(every))
    lost = losses.whole()
    loss = f"; {100 * lost:.2g} % of it is lost, as it keeps their rank" if lost else ""
    yield Note(f"{one.path.parent}: the average of the LoRAs after steps {_listed(places)}{loss}")
    return replace(one, lora=replace(one.lora, modules=modules, biases=_mean_biases(loras)))


def last_of(path: Path, last: int) -> dict[int, Path]:
    """{step: LoRA file or checkpoint} of a run that has `path` among its own, the latest step first."""
    run = path.parent
    if not (run / RUN_SETTINGS).is_file():
        raise LoraError(f"{path}: lies in no run folder, so --last knows of no others; give a run folder")
    steps: dict[int, Path] = {}
    for file in sorted(run.glob("*.safetensors")):
        if not file.name.startswith(".") and (step := _step(file)) is not None:
            steps.setdefault(step, file)
    for folder in sorted(RunFolder.at(run).checkpoints.glob("step-*")):
        if is_name(folder.name) and folder.is_dir():
            steps.setdefault(step_of(folder.name), folder)
    if len(steps) < last:
        found = f"has {len(steps) or 'no'} LoRA{'' if len(steps) == 1 else 's'} of different steps"
        those = f" ({_listed(steps)}; its checkpoints count, too)" if steps else ""
        fewer = "leave --last out" if len(steps) < LEAST else f"give --last {len(steps)}"
        more = f"train with --save-every N --save.keep {last}"
        raise LoraError(f"{run}: {found}{those}, fewer than --last {last}; {fewer}, or {more}")
    return {step: steps[step] for step in sorted(steps, reverse=True)[:last]}


def _listed(steps: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(steps)))


def _step(file: Path) -> int | None:
    """After how many steps it was saved, as it says itself."""
    told = read_header(file, LoraError).metadata.get("ss_steps", "")
    return int(told) if told.isdecimal() and len(told) < 16 else None


def _mean_biases(loras: Sequence[Lora]) -> dict[str, Tensor]:
    names = dict.fromkeys(name for lora in loras for name in lora.biases)
    return {
        name: torch.stack([lora.biases[name].float() for lora in loras if name in lora.biases]).sum(0) / len(loras)
        for name in names
    }
