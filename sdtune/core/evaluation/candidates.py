"""Candidates: the LoRAs that an evaluation looks at, out of runs, LoRA files and folders of those."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdtune.core import lora_file
from sdtune.core.applied import Named, at_strengths, exists, named
from sdtune.core.evaluation.subject import Candidate
from sdtune.core.lora import Lora
from sdtune.core.lora_metadata import likely_trigger, trigger_of
from sdtune.core.lora_place import MODEL_INDEX, is_lora, is_once_more, kept_in, lora_at, step_of, used_of
from sdtune.core.reports import Progress, Skipped, Telling
from sdtune.core.run_folder import RunFolder
from sdtune.core.sampling.file_names import printable
from sdtune.core.sampling.run_of import RunUse, run_use
from sdtune.core.toml_file import toml_in
from sdtune.earlier import RUN_SETTINGS, RUNS
from sdtune.errors import ConfigError, InputError, LoraError, cut, why

SHOWN = 200
"""letters of what was given, in a message"""
LONGEST = 1000
"""letters of a name that is looked for to be told what is near it"""
NAMED = 6
"""runs in one message"""
OF_RUNS = "--run "
"""before what messages about runs tell elsewhere, where a flag names them"""


@dataclass(frozen=True)
class Origin:
    """Where LoRAs come from: a run, or files of which no more is known."""

    place: Path
    """the run's folder, the file, or the folder of files"""
    run: RunFolder | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    """what run.toml says, where that can be read"""
    use: RunUse = field(default_factory=RunUse)
    called: str = ""
    """where its own name does not tell it from others: a/cats-1"""

    @property
    def name(self) -> str:
        """As people know it, in letters that can be shown."""
        return self.called or printable(
            self.place.stem if self.place.is_file() else Path(os.path.abspath(self.place)).name
        )


@dataclass(frozen=True)
class Opened:
    """What stands behind one name that a user gave."""

    origin: Origin
    loras: tuple[tuple[str, Path], ...]
    """each with the words that tell it from the others of its origin, "" where there is but one file"""
    strength: float | None = None
    """behind a colon"""


@dataclass(frozen=True)
class _Read:
    """A LoRA that was read, without its weights."""

    origin: Origin
    words: str
    path: Path
    step: int | None
    content: str
    """a hash of all that it does"""
    family: str | None
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Lineup:
    """All LoRAs of an evaluation, the same weights once."""

    origins: tuple[Origin, ...]
    candidates: tuple[Candidate, ...]
    at: tuple[int, ...]
    """for each LoRA that was opened, one after the other, the place of its candidate"""
    families: tuple[str | None, ...]
    """of each candidate"""
    triggers: tuple[str, ...] = ()
    """what LoRAs without a run say of themselves"""
    frequent: str | None = None
    """the tag that the most of their captions had, where they say no trigger"""
    told: tuple[str, ...] = ()


def opened(text: str, model: str | None, *, every: bool) -> Opened:
    """What a user names: of a run every LoRA that it kept, or else the one that it is used by.

    `model` is --model. Raises InputError with a line for each problem.
    """
    if not text.strip():
        raise ConfigError("an empty name is given; give a run folder or a LoRA file")
    one = named(text)
    by_name = named(str(RUNS / text))
    if not exists(one) and exists(by_name) and (by_name.place / RUN_SETTINGS).is_file():
        one = by_name
    strength = _strength(one, text)
    if not exists(one):
        if len(text) > LONGEST:
            raise LoraError(f"{cut(text, SHOWN)}: no name that a file can have; give a run folder or a LoRA file")
        lora_at(one.place)  # which says what is wrong
    if one.place.is_dir():
        return replace(_of_folder(one.place, model, every=every), strength=strength)
    file = lora_at(one.place)
    folder = file.parent
    if (folder / RUN_SETTINGS).is_file():
        run = RunFolder.at(folder)
        words = next((words for words, path in kept_in(run) if path.name == file.name), file.stem)
        return Opened(_origin(run, model), ((words, file),), strength)
    return Opened(Origin(file), (("", file),), strength)


def refuse_strengths(text: str) -> None:
    """Raises ConfigError where a strength stands behind a LoRA that is drawn at several."""
    one = named(text) if text.strip() else Named(Path())
    if one.usual is not None or one.blocks is not None:
        told = f"{cut(text, SHOWN)}: has a strength behind it, while each LoRA is drawn at several"
        raise ConfigError(f"{told}; give these with --strengths")


def lineup(given: Sequence[Opened]) -> Telling[Lineup]:
    """Every LoRA read and checked; raises InputError with a line for each that cannot be used."""
    read = yield from _read_all(given)
    places: dict[str, list[int]] = {}
    for number, one in enumerate(read):
        places.setdefault(one.content, []).append(number)
    same = [[read[number] for number in numbers] for numbers in places.values()]
    chosen = [next((one for one in some if one.origin.run), some[0]) for some in same]
    told = [line for some, one in zip(same, chosen, strict=True) for line in _same_once_more(some, one)]
    origins = list(dict.fromkeys(_Key(one.origin) for one in chosen))
    names = _names([key.origin for key in origins])
    ends = [_words(some, one) for some, one in zip(same, chosen, strict=True)]
    called = []
    for one, words in zip(chosen, ends, strict=True):
        subject = origins.index(_Key(one.origin))
        name = _called(names[subject] if len(origins) > 1 else "", words, one.step) or names[subject]
        called.append(Candidate(subject, name, one.path, one.step))
    at = {number: place for place, numbers in enumerate(places.values()) for number in numbers}
    alone = [one.metadata for one in read if one.origin.run is None]
    said = [trigger for metadata in alone if (trigger := trigger_of(metadata)) and trigger.isprintable()]
    return Lineup(
        origins=tuple(replace(key.origin, called=name) for key, name in zip(origins, names, strict=True)),
        candidates=tuple(_told_apart(called)),
        at=tuple(at[number] for number in range(len(read))),
        families=tuple(one.family for one in chosen),
        triggers=tuple(dict.fromkeys(said)),
        frequent=next(filter(None, map(likely_trigger, alone)), None),
        told=tuple(told),
    )


def _read_all(given: Sequence[Opened]) -> Telling[list[_Read]]:
    """What each LoRA is, without its weights; raises InputError with a line for each that cannot be read."""
    several = [(one.origin, words, path) for one in given for words, path in one.loras]
    found, problems = list[_Read](), list[InputError]()
    for number, (origin, words, path) in enumerate(several, 1):
        if len(several) > 1:
            yield Progress("reading LoRAs", number, len(several))
        try:
            lora = lora_file.read(path)
        except InputError as error:
            problems.append(error)
            continue
        step = _step(words, path, origin)
        found.append(_Read(origin, words, path, step, _content(lora), lora.family, lora.metadata))
    if problems:
        raise one_of(problems)
    return found


def _same_once_more(some: Sequence[_Read], chosen: _Read) -> Iterator[str]:
    """A line for each file that holds what another does; that a run's best LoRA is its last is no news."""
    for path in dict.fromkeys(one.path for one in some if one.path != chosen.path):
        if not any(one.path == path and one.words == "end" and _is_beside(one, chosen) for one in some):
            yield f"{path}: holds the same as {chosen.path}, so it is looked at once"


def _words(some: Sequence[_Read], chosen: _Read) -> str:
    """ "best, end" where the best LoRA of a run is its last."""
    ends = chosen.words != "end" and any(one.words == "end" and _is_beside(one, chosen) for one in some)
    return chosen.words if not ends else "best, end" if chosen.words == "best" else "end"


def _is_beside(one: _Read, other: _Read) -> bool:
    return _Key(one.origin) == _Key(other.origin)


def folder_notes(given: Sequence[Opened]) -> Telling[None]:
    """Tells what of folders of LoRAs is none."""
    for one in given:
        if one.origin.run is None and one.origin.place.is_dir():
            for file in _files(one.origin.place):
                if not is_lora(file):
                    yield Skipped(file, "is no LoRA")


def one_of(problems: Sequence[InputError]) -> InputError:
    """All of them as one, of their own kind where they are alike."""
    kinds = {type(one) for one in problems}
    lines = dict.fromkeys(line for one in problems for line in one.problems)
    return (kinds.pop() if len(kinds) == 1 else InputError)(*lines)


@dataclass(frozen=True)
class _Key:
    """An origin, the same wherever it was named from."""

    origin: Origin

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    @property
    def _place(self) -> str:
        return os.path.realpath(self.origin.place)


def _of_folder(place: Path, model: str | None, *, every: bool) -> Opened:
    """A run, or a folder of LoRAs."""
    if (place / RUN_SETTINGS).is_file():
        run = RunFolder.at(place)
        origin = _origin(run, model)
        kept = kept_in(run)
        used = used_of(run)
        if not every or not kept:
            return Opened(origin, ((next((words for words, path in kept if path == used), used.stem), used),))
        return Opened(origin, tuple(kept))
    files = _files(place)
    if not files and (runs := _runs_in(place)):
        told = ", ".join(printable(str(one)) for one in runs[:NAMED]) + (" ..." if runs[NAMED:] else "")
        raise LoraError(f"{printable(str(place))}: a folder of {_counted(len(runs))}; give what is meant of {told}")
    if not every or (place / MODEL_INDEX).is_file():
        return Opened(Origin(file := lora_at(place)), (("", file),))
    loras = [file for file in files if is_lora(file)]
    if not loras:
        return Opened(Origin(file := lora_at(place)), (("", file),))  # which says what there is instead
    return Opened(Origin(place), tuple((printable(file.stem), file) for file in loras))


def _files(place: Path) -> list[Path]:
    """The .safetensors of a folder, without those that are others once more in PEFT's form."""
    try:
        found = sorted(file for file in place.glob("*.safetensors") if not file.name.startswith("."))
    except OSError as error:
        raise LoraError(f"{place}: cannot be read ({why(error, 'folder')}); check its permissions") from None
    return [file for file in found if not is_once_more(file, found)]


def _counted(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def _runs_in(place: Path) -> list[Path]:
    """The runs of a folder that is none itself."""
    try:
        return sorted(one.parent for one in place.glob(f"*/{RUN_SETTINGS}") if one.is_file())
    except OSError:
        return []


def _origin(run: RunFolder, model: str | None) -> Origin:
    try:
        told = toml_in(run.settings)
    except (OSError, ValueError):
        told = {}
    try:
        return Origin(run.path, run, told, run_use(run.path, (), model))
    except InputError as error:
        raise type(error)(*(line.removeprefix(OF_RUNS) for line in error.problems)) from None


def _strength(one: Named, text: str) -> float | None:
    """What stands behind the colon, which is checked."""
    if one.blocks is not None:
        told = f"{cut(text, SHOWN)}: gives blocks strengths of their own, while a LoRA is drawn at one"
        raise ConfigError(f"{told}; give that alone, as in runs/cats-1:0.8")
    if one.usual is None or not exists(one):
        return None
    found = at_strengths(one.place, lambda: Lora({}, None), one.usual, None, cut(text, SHOWN)).strength.usual
    if found <= 0:
        raise ConfigError(f"{cut(text, SHOWN)}: its strength should be above 0, which is the base model itself")
    return found


def _step(words: str, path: Path, origin: Origin) -> int | None:
    """After which step it was saved."""
    if step := step_of(path):
        return step
    ended = origin.run.read_ended() if origin.run else {}
    step = ended.get({"best": "best", "end": "steps"}.get(words, ""))
    return step if type(step) is int and step > 0 else None


def _content(lora: Lora) -> str:
    """A hash of all that it does, whatever is said beside it."""
    digest = hashlib.sha256()
    for name in sorted({*lora.modules, *lora.biases}):
        digest.update(f"{name} {lora.digest_of(name)}\n".encode())
    for word, parts in sorted(lora.embeddings.items()):
        for part, vectors in sorted(parts.items()):
            digest.update(f"{word} {part} ".encode("utf-8", "replace") + vectors.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _called(origin: str, words: str, step: int | None) -> str:
    """ "step 402 (best)", "cats-1 step 402 (best)"; "" where there is nothing to tell."""
    told = words if not step or words.startswith("step ") else f"step {step} ({words})" if _is_of_run(words) else words
    return " ".join(part for part in (origin, told) if part)


def _is_of_run(words: str) -> bool:
    return words in ("best", "end", "best, end")


def _names(origins: Sequence[Origin]) -> list[str]:
    """A name each, with folders before it where others are called the same."""
    paths = [Path(os.path.abspath(one.place)).parts for one in origins]
    for depth in range(max((len(parts) for parts in paths), default=0)):
        names = [
            "/".join((*(printable(part) for part in parts[max(0, len(parts) - 1 - depth) : -1]), one.name))
            for parts, one in zip(paths, origins, strict=True)
        ]
        if len(set(names)) == len(names):
            return names
    return [f"{one.name} ({number})" for number, one in enumerate(origins, 1)]


def _told_apart(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same, with names that are all different."""
    counts = Counter(one.name for one in candidates)
    names: set[str] = set()
    told = []
    for one in candidates:
        name = one.name if counts[one.name] == 1 else f"{one.name} ({printable(one.path.stem)})"
        while name in names:
            name += "'"
        names.add(name)
        told.append(replace(one, name=name))
    return told
