"""What a run folder tells of how to draw with it: base, best LoRA, trigger, prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdtune.core import model
from sdtune.core.applied import Applied, Named, exists, named
from sdtune.core.data import folder
from sdtune.core.data.wordings import wordings
from sdtune.core.data_list import Listed, listed_in
from sdtune.core.header import read_header
from sdtune.core.identity import Identity
from sdtune.core.lora_metadata import trigger_of
from sdtune.core.lora_place import kept_in, step_of, used_of
from sdtune.core.run_folder import UNFINISHED, RunFolder
from sdtune.core.toml_file import toml_in
from sdtune.earlier import RUN_SETTINGS, RUNS
from sdtune.errors import ConfigError, LoraError, ModelError, cut, why
from sdtune.tables import Captions

A1111 = "a1111"
_MEANS = re.compile(r"[\\()\[\]{}<]|__")
_MEANS_BESIDE_WEIGHTS = re.compile(r"[{}<]|__")
MAX_DATA_BYTES = 2**29
"""of data.json: a million images"""
MAX_CLIP_SKIP = 12


@dataclass(frozen=True)
class RunUse:
    """A run as something to draw with; nothing is known without one."""

    model: str | None = None
    clip_skip: int | None = None
    """as its settings have it, which may be no layer"""
    settings: Path | None = field(default=None, compare=False)
    """the run.toml that says so"""
    lora: str | None = None
    """of --run: as --lora has it, with the strength at which the run's own samples were drawn"""
    trigger: str | None = None
    """of --run: as it stood in captions"""
    prompts: tuple[str, ...] = ()
    """of --run: those of its samples; of a run of classes one for each; of an unconditional one the empty one; none
    where they are not known"""
    checkpoints: tuple[tuple[str, Path], ...] = ()
    """of --run: every LoRA that it kept in the order of its training, with the words that it is called by:
    ("step 100", path), ("best", path), ("end", path)"""
    weighted: bool = False
    """whether brackets weighed words in its captions"""
    told: str | None = None
    """of --run: which of its LoRAs that is"""
    unread: str | None = None
    """why its prompts are not known, with what to do"""

    def layer(self, asked: int | None) -> int | None:
        """The layer of CLIP that prompts are read from: as asked with --clip-skip, else as it was trained."""
        if asked is None and self.clip_skip is not None and not 1 <= self.clip_skip <= MAX_CLIP_SKIP:
            problem = f"{self.settings}: text.clip_skip is {cut(str(self.clip_skip))}"
            raise ConfigError(f"{problem}, which is none of 1 to {MAX_CLIP_SKIP}; give --clip-skip")
        return self.clip_skip if asked is None else asked

    def prompts_as(self, syntax: str) -> tuple[str, ...]:
        """Its prompts, to be read so and to mean what they meant to the run."""
        if syntax != A1111:
            return self.prompts
        marks = _MEANS_BESIDE_WEIGHTS if self.weighted else _MEANS
        return tuple(marks.sub(lambda mark: f"\\{mark[0]}", text) for text in self.prompts)


def run_use(run: Path | None, loras: Sequence[Applied], asked: str | None) -> RunUse:
    """What --run tells, or else the first LoRA that lies in a run folder; `asked` is --model."""
    if run is not None:
        return _of_run(run, asked)
    for one in loras:
        settings = one.path.parent / RUN_SETTINGS
        if settings.is_file():
            try:
                return _base(_settings(settings), settings)
            except ValueError:
                if asked:
                    break
                raise LoraError(f"{settings}: cannot be read; say with --model what the LoRA was trained on") from None
    return RunUse()


def identified(named: str, of_run: RunUse | None) -> Identity:
    """The model; what is wrong with that of a run is told of its settings."""
    try:
        return model.identify(named)
    except ModelError as error:
        if of_run is None:
            raise
        raise ModelError(f"{of_run.settings}: its model: {error} (--model gives another)") from None


def with_trigger(text: str, trigger: str, syntax: str = A1111) -> str:
    """The prompt with the trigger in front, where it lacks it; one of nothing stays so."""
    if not text.strip():
        return text
    written = _MEANS.sub(lambda mark: f"\\{mark[0]}", trigger) if syntax == A1111 else trigger
    return text if folder.with_trigger(text, trigger) == text else folder.with_trigger(text, written)


def _of_run(given: Path, asked: str | None) -> RunUse:
    one = _folder(given)
    path = one.place
    try:
        told = _settings(path / RUN_SETTINGS)
        base = _base(told, path / RUN_SETTINGS)
    except ValueError:
        if not asked:
            problem = f"--run {path}: its {RUN_SETTINGS} cannot be read"
            raise ConfigError(f"{problem}; say with --model what it was trained on") from None
        told, base = {}, RunUse()
    run = RunFolder.at(path)
    if not any(not file.name.startswith(".") for file in path.glob("*.safetensors")):
        raise ConfigError(f"--run {path}: holds no LoRA yet; go on with sdtune train-lora --resume {path}")
    lora = used_of(run)
    prompts = _prompts(told, run)
    strength = one.usual if one.usual is not None else _drawn_at(told)
    trigger = _trigger(told, lora)
    return RunUse(
        model=base.model,
        clip_skip=base.clip_skip,
        settings=base.settings,
        lora=":".join(part for part in (str(lora), strength, one.blocks) if part is not None),
        trigger=trigger,
        prompts=prompts or ((trigger or "",) if trigger or prompts is not None else ()),
        checkpoints=tuple(kept_in(run)),
        weighted=base.weighted,
        told=_which(run, lora),
        unread=f"--run {path}: its {run.data.name} cannot be read; give --prompt" if prompts is None else None,
    )


def _folder(given: Path) -> Named:
    """A run's folder by its path, or by its name in runs/, with strengths as --lora has them."""
    try:
        one = named(str(given))
        by_name = named(str(RUNS / given))
        if not exists(one) and (by_name.place / RUN_SETTINGS).is_file():
            return by_name
        path = one.place
        if not path.exists():
            behind = "; a strength stands behind one colon, as in runs/cats-1:0.8" if ":" in str(given) else ""
            told = f"--run {str(given)[:200]}: no such folder; sdtune runs lists the runs that there are"
            raise ConfigError(told + behind)
        if not path.is_dir():
            raise ConfigError(f"--run {path}: is a file; give the folder of a run, or a LoRA with --lora")
        if not (path / RUN_SETTINGS).is_file():
            raise ConfigError(f"--run {path}: is no run, since it has no {RUN_SETTINGS}; give a LoRA with --lora")
    except (OSError, ValueError) as error:
        told = f"--run {str(given)[:200]}: cannot be read ({why(error, 'folder')})"
        raise ConfigError(f"{told}; give the folder of a run") from None
    return one


def _drawn_at(told: Mapping[str, Any]) -> str | None:
    """The strength at which the run's own samples were drawn, where it is not 1."""
    strength = _table(told, "samples").get("strength")
    is_told = isinstance(strength, int | float) and not isinstance(strength, bool) and strength != 1
    return f"{strength:g}" if is_told else None


def _settings(path: Path) -> Mapping[str, Any]:
    """What run.toml says; ValueError where that cannot be read."""
    try:
        return toml_in(path)
    except OSError as error:
        raise ValueError(error) from None


def _base(told: Mapping[str, Any], settings: Path) -> RunUse:
    """What it was trained on, and how captions were read; ValueError where it does not say so."""
    model, clip_skip = told.get("model"), _table(told, "text").get("clip_skip")
    if not isinstance(model, str) or not model:
        raise ValueError("no model")
    weights = _table(told, "captions").get("weights") is True
    return RunUse(model, clip_skip if type(clip_skip) is int else None, weighted=weights, settings=settings)


def _table(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = told.get(name)
    return found if isinstance(found, dict) else {}


def kind_of(told: Mapping[str, Any]) -> object:
    """What a run's settings say that it learns: "style", "class" ..."""
    task = told.get("task")
    return task.get("kind") if isinstance(task, dict) else task


def _trigger(told: Mapping[str, Any], lora: Path) -> str | None:
    """The word before its captions, or a new word that it has learned, or what the LoRA says of itself."""
    if kind_of(told) == "unconditional":
        return None
    word = _table(told, "data").get("trigger") or _table(told, "token").get("word")
    word = word or trigger_of(read_header(lora, LoraError).metadata)
    return word if isinstance(word, str) and word.isprintable() else None


def _prompts(told: Mapping[str, Any], run: RunFolder) -> tuple[str, ...] | None:
    """As the run has drawn them: those of its settings, else of each class, else two of its captions.

    None where its data.json, which has the captions, cannot be read.
    """
    given = _table(told, "samples").get("prompts")
    if isinstance(given, list) and given and all(isinstance(one, str) for one in given):
        return tuple(given)
    if kind_of(told) == "unconditional":
        return ("",)
    try:
        images = listed_in(run.data) if run.data.stat().st_size <= MAX_DATA_BYTES else None
    except (ConfigError, OSError):
        return None
    if images is None:
        return None
    own = [one for one in images if not one.prior and not one.held_out]
    if kind_of(told) == "class":
        return tuple(sorted({text for one in own for text in one.captions}))
    held_out = [one for one in images if one.held_out]
    third = len(own) // 3
    shown = [own[third], held_out[0] if held_out else own[2 * third]] if own else []
    return tuple(dict.fromkeys(_worded(one, told) for one in shown))


def _worded(one: Listed, told: Mapping[str, Any]) -> str:
    try:
        settings = Captions.model_validate(dict(_table(told, "captions")))
    except ValidationError:
        settings = Captions()
    word = _table(told, "data").get("trigger")
    return wordings(one.captions[0], settings, (word,) if isinstance(word, str) else ())[0] if one.captions else ""


def _which(run: RunFolder, lora: Path) -> str:
    """ "cats-1: its best LoRA, after step 200"."""
    step = step_of(lora)
    after = f", after step {step}" if step else ""
    if lora == run.best:
        return f"{run.path.name}: its best LoRA{after}"
    if lora == run.lora:
        return f"{run.path.name}: its LoRA{after}"
    if UNFINISHED.fullmatch(lora.stem):
        return f"{run.path.name}: has not finished, so its latest LoRA{after}"
    return f"{run.path.name}: its LoRA {lora.name}{after}"
