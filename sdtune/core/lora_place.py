"""Where a LoRA lies that a user names: in a file, or in a run folder, of whose files it is one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path

from sdtune.core.header import read_header, refuse_pickle, what_is
from sdtune.core.home import expanded
from sdtune.core.lora_keys import keys_of
from sdtune.core.run_folder import BEST, OF_PEFT, UNFINISHED, RunFolder
from sdtune.earlier import RUN_SETTINGS
from sdtune.errors import LoraError, nearest

MODEL_INDEX = "model_index.json"
"""of a model in diffusers' layout"""
ENDING = ".safetensors"
LOOKED_AT = 10_000
"""names beside one that is not there"""
LAST = 10**12
"""a step after all others"""
NAMED = 6
"""of several LoRAs, in a message"""


def lora_at(place: Path) -> Path:
    """The file that a LoRA or a run folder stands for."""
    path = expanded(place)
    kind = what_is(path, LoraError)
    if kind is None:
        refuse_pickle(path, LoraError)
        near = nearest_lora(place)
        raise LoraError(
            f"{place}: no such LoRA file or run folder; {f'did you mean {near}?' if near else 'check its name'}"
        )
    return lora_in(path) if kind == "folder" else path


def nearest_lora(missing: Path) -> Path | None:
    """The LoRA file or run folder beside one that is not there whose name is most like it."""
    try:
        beside = expanded(missing).parent
        with os.scandir(beside) as found:
            names = [one.name for one in islice(found, LOOKED_AT) if _may_be_lora(one)]
    except (OSError, ValueError):
        return None
    by_stem = {name.removesuffix(ENDING): name for name in names}
    near = nearest(missing.name.removesuffix(ENDING), by_stem)
    return missing.with_name(by_stem[near]) if near else None


def _may_be_lora(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(ENDING) or os.path.isfile(os.path.join(entry.path, RUN_SETTINGS))


def lora_in(path: Path) -> Path:
    """The LoRA file of a run folder: the finished one, else that of the latest step."""
    if (path / MODEL_INDEX).is_file():
        raise LoraError(f"{path}: a model, not a LoRA; give a LoRA file or a run folder")
    found = sorted(file for file in path.glob("*.safetensors") if not file.name.startswith("."))
    run = RunFolder.at(path)
    if run.lora in found:
        return run.lora
    if not found:
        raise LoraError(f"{path}: no .safetensors in this folder; give a run folder that has finished, or a LoRA file")
    steps = {file: told for file in found if (told := UNFINISHED.fullmatch(file.stem))}
    own = {file: int(told[2]) for file, told in steps.items() if told[1] == run.name}
    if own:
        return max(own, key=own.__getitem__)
    whole = [file for file in found if file not in steps and not is_once_more(file, found)]
    finished = [file for file in whole if not file.stem.endswith(BEST)] or whole
    if len(finished) > 1:
        return _only_lora(path, finished)
    return finished[0] if finished else max(steps, key=lambda file: int(steps[file][2]))


def is_once_more(file: Path, found: Collection[Path]) -> bool:
    """Whether it is another of the files in PEFT's form."""
    return file.stem.endswith(OF_PEFT) and file.with_stem(file.stem.removesuffix(OF_PEFT)) in found


def _only_lora(folder: Path, found: Sequence[Path]) -> Path:
    """The one of several files that is a LoRA."""
    loras = [file for file in found if is_lora(file)]
    if len(loras) == 1:
        return loras[0]
    if not loras:
        raise LoraError(f"{folder}: none of its {len(found)} .safetensors is a LoRA; give a LoRA file or a run folder")
    more = f" and {len(loras) - NAMED} more" if len(loras) > NAMED else ""
    named = ", ".join(file.name for file in loras[:NAMED])
    raise LoraError(f"{folder}: holds several LoRAs; give one of {named}{more}")


def is_lora(file: Path) -> bool:
    """Whether the names of its tensors are those of a LoRA."""
    try:
        keys_of(file, read_header(file, LoraError))
    except LoraError:
        return False
    return True


def used_of(run: RunFolder) -> Path:
    """The LoRA of a run that is drawn with: that of the least held-out loss, where it ended later; else as lora_in."""
    best = _step_in(run.read_ended(), "best")
    return run.best if best and run.best.is_file() else lora_in(run.path)


def kept_in(run: RunFolder) -> list[tuple[str, Path]]:
    """Every LoRA of a run in the order of its training: ("step 100", path), ("best", path), ("end", path)."""
    ended = run.read_ended()
    found: dict[int, tuple[str, Path]] = {}
    for file in run.path.glob("*.safetensors"):
        told = UNFINISHED.fullmatch(file.stem)
        if told and told[1] == run.name:
            found[int(told[2])] = (f"step {int(told[2])}", file)
    if run.best.is_file():  # in the place of the one of its step
        found[_step_in(ended, "best") or step_of(run.best) or LAST] = ("best", run.best)
    ordered = [found[step] for step in sorted(found)]
    return [*ordered, ("end", run.lora)] if run.lora.is_file() else ordered


def step_of(lora: Path) -> int | None:
    """The step after which a LoRA was saved, as its name or its metadata tells; None where neither does."""
    if told := UNFINISHED.fullmatch(lora.stem):
        return int(told[2])
    with contextlib.suppress(LoraError, KeyError, ValueError):
        return int(read_header(lora, LoraError).metadata["ss_steps"])
    return None


def _step_in(ended: Mapping[str, object], name: str) -> int | None:
    step = ended.get(name)
    return step if type(step) is int and step > 0 else None
