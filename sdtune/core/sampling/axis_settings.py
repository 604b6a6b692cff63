"""Settings that can be axes of a grid, each with what its values make of a picture.

strength     of the LoRAs. One alone takes the value, several are multiplied by it; strengths of blocks change by the
             same ratio. 0 leaves the LoRAs out: the base. Without a LoRA it is init-strength.
init-strength     --strength, of a picture to begin with
seed, prompt      without values those that are asked for anyway; with values these in their place
lora, checkpoint  each alone in the place of all LoRAs; each in the place of the run's
steps, guidance, sampler, negative     as the settings of that name
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sdtune.choices.problems import problems
from sdtune.choices.spec import kinds_of
from sdtune.core import applied
from sdtune.core.applied import STRONGEST, Applied
from sdtune.core.blocks import Strength
from sdtune.core.sampling import grammar
from sdtune.core.sampling.asked import Asked
from sdtune.core.sampling.axis_values import NUMBER, numbers_in, pieces_of, texts_in
from sdtune.core.sampling.prompt_lines import flag_in
from sdtune.core.sampling.run_of import RunUse, with_trigger
from sdtune.errors import ConfigError, cut
from sdtune.sample_config import Sample

Change = Callable[[Asked], Asked]
GRID_STRENGTHS, MOVING_STRENGTHS = "0..1:0.25", "0..1:0.1"
"""where none are given"""


@dataclass(frozen=True)
class Value:
    """One value of an axis: what is written beside it, and what it makes of a picture that is asked for."""

    label: str
    change: Change
    key: object = None
    """what two values share that are the same; the label says it, where this does not"""


@dataclass(frozen=True)
class Given:
    """An axis as it is asked for, with all that its values may depend on."""

    told: str
    """for messages: --grid strength"""
    name: str
    values: str | None
    names: tuple[str, ...]
    """of all axes"""
    config: Sample
    asked: Sequence[Asked]
    run: RunUse


def places_of(asked: Sequence[Asked]) -> list[tuple[tuple[int, int], int]]:
    """Of each: (its prompt, which of that prompt's seeds it has). A line may make several prompts."""
    prompts: dict[tuple[int, int], int] = {}
    seeds: dict[tuple[int, int], int] = {}
    found = []
    for one in asked:
        prompt = (one.line, prompts.get((one.line, one.seed), 0))
        prompts[one.line, one.seed] = prompt[1] + 1
        found.append((prompt, seeds.get(prompt, 0)))
        seeds[prompt] = found[-1][1] + 1
    return found


def without_loras(one: Asked) -> Asked:
    """The base's picture."""
    return replace(one, loras=())


def name_of(one: Applied) -> str:
    """What a LoRA is called on labels."""
    return one.shown.removesuffix(".safetensors")


def _to(**settings: Any) -> Change:
    return lambda one: replace(one, **settings)


def _field(field: str) -> Callable[[Given], list[Value]]:
    """An axis of a setting, whose values are read as the setting itself is."""

    def made(given: Given) -> list[Value]:
        kinds = list(kinds_of(Sample.model_fields[field]))
        texts = numbers_in(_needed(given), given.told) if given.values is not None or not kinds else kinds
        return [_as_set(given, field, text) for text in texts]

    return made


def _needed(given: Given) -> str:
    if given.values is None:
        raise ConfigError(f"{given.told}: no values; give them as in {given.name}={EXAMPLES[given.name]}")
    return given.values


def _as_set(given: Given, field: str, text: str) -> Value:
    try:
        value: Any = getattr(Sample.model_validate({"prompt": ("",), "init": "-", field: text}), field)
    except ValidationError as error:
        line = next(line for path, line in problems(Sample, error) if path)
        raise ConfigError(f"{given.told}: {line.partition(': ')[2]}") from None
    usual = getattr(given.config, field)
    kind = getattr(value, "kind", None)
    if kind is not None and kind == usual.kind:
        value = usual  # with its own settings
    label = f"{value:.12g}" if isinstance(value, float) else str(kind or value)
    return Value(label, _to(**{field: value}), label)


def _strength(given: Given) -> list[Value]:
    acting = [1 if "lora" in given.names else len(one.loras) or int("checkpoint" in given.names) for one in given.asked]
    several = max(acting, default=0) > 1
    if not any(acting):
        raise ConfigError(f"{given.told}: there is no LoRA whose strength could change; give one with --lora or --run")
    usual = MOVING_STRENGTHS if given.config.animate else GRID_STRENGTHS
    found = []
    for text in numbers_in(usual if given.values is None else given.values, given.told):
        value = float(text) if NUMBER.fullmatch(text) else STRONGEST + 1
        if abs(value) > STRONGEST:
            raise ConfigError(
                f'{given.told}: "{cut(text)}" should be a number from -{STRONGEST} to {STRONGEST}, as in 0,0.5,1'
            )
        label = f"{'×' if several and value else ''}{value + 0.0:.12g}"
        found.append(Value(label, _at(value, several) if value else without_loras, value))
    return found


def _init_strength(given: Given) -> list[Value]:
    if not given.config.init:
        raise ConfigError(f"{given.told}: there is no picture to begin with; give one with --init")
    return _field("strength")(given)


def _at(value: float, several: bool) -> Change:
    def change(one: Asked) -> Asked:
        loras = []
        for lora in one.loras:
            strength = _scaled(lora.strength, value, several)
            if max(map(abs, (strength.usual, *strength.blocks.values()))) > STRONGEST:
                told = f"strength {value:g}: brings {name_of(lora)} to {strength}"
                raise ConfigError(f"{told}, and {STRONGEST} is the most; give a smaller one")
            loras.append(replace(lora, strength=strength))
        return replace(one, loras=tuple(loras))

    return change


def _scaled(strength: Strength, value: float, several: bool) -> Strength:
    """Several LoRAs keep their ratio to each other, one alone takes the value; blocks keep theirs to the LoRA."""
    alone = bool(strength.usual) and not several
    ratio = value / strength.usual if alone else value
    return Strength(
        value if alone else strength.usual * value, {name: block * ratio for name, block in strength.blocks.items()}
    )


def _seed(given: Given) -> list[Value]:
    if given.values is not None:
        return _field("seed")(given)
    return [Value(str(seed), _to(seed=seed), seed) for seed in dict.fromkeys(one.seed for one in given.asked)]


def _texts(given: Given) -> list[str]:
    texts = texts_in(_needed(given))
    for text in texts if given.config.syntax == "a1111" else ():
        if "{" in text or "<lora:" in text or text.count("__") > 1:
            instead = "give it with --prompt, and the grid prompt alone" if given.name == "prompt" else "write it out"
            raise ConfigError(
                f'{given.told}: "{cut(text)}": values of a grid have no {{a|b}}, __wildcards__ or <lora:...>; {instead}'
            )
        if flag := flag_in(text):
            raise ConfigError(
                f'{given.told}: "{cut(text)}": {flag} is a flag, which values of a grid do not have; give the prompts '
                "with --prompt, and the grid prompt alone"
            )
        grammar.check(text, given.told)
    return texts


def _prompt(given: Given) -> list[Value]:
    if given.values is not None:
        trigger = given.run.trigger if given.config.run and given.config.add_trigger else None
        texts = [with_trigger(text, trigger) if trigger else text for text in _texts(given)]
        return [Value(text, _to(text=text, line=line, where=given.told), text) for line, text in enumerate(texts, 1)]
    prompts: dict[tuple[int, int], dict[int, Asked]] = {}
    for one, (prompt, _) in zip(given.asked, places_of(given.asked), strict=True):
        prompts.setdefault(prompt, {}).setdefault(one.seed, one)
    return [Value(next(iter(seeds.values())).text, _like(seeds), prompt) for prompt, seeds in prompts.items()]


def _like(seeds: Mapping[int, Asked]) -> Change:
    """All settings of another prompt, at the same seed: with its choices for that seed, where it was asked at it."""
    return lambda one: replace(seeds.get(one.seed) or next(iter(seeds.values())), seed=one.seed)


def _negative(given: Given) -> list[Value]:
    return [Value(text or "(none)", _to(negative=text), text) for text in _texts(given)]


def _lora(given: Given) -> list[Value]:
    """Values are parted by bars where there are any, since strengths of blocks have commas; none is the base alone."""
    loras: list[Applied | None]
    if given.values is None:
        loras = [lora for one in given.asked for lora in one.loras]
    else:
        texts = pieces_of(given.values, "|" if "|" in given.values else ",", given.told)
        loras = [None if _is_none(text) else applied.read(text, given.told) for text in texts]
    if not loras:
        raise ConfigError(f"{given.told}: there is none; give some with --lora, or as in lora={EXAMPLES['lora']}")
    return [
        Value(f"{name_of(one)} {one.strength.usual:g}", _to(loras=(one,)), (one.path, str(one.strength)))
        if one
        else Value(f"{NONE} (base)", without_loras)
        for one in loras
    ]


def _is_none(text: str) -> bool:
    return text.strip().lower() == NONE and not applied.exists(applied.named(text))


def _checkpoint(given: Given) -> list[Value]:
    kept = dict(given.run.checkpoints)
    if not kept:
        raise ConfigError(f"{given.told}: there are no LoRAs of a run to choose from; give a run folder with --run")
    folders = {path.absolute().parent for path in kept.values()}
    labels = list(kept)
    if given.values is not None:
        labels = [_called(text, labels, given.told) for text in numbers_in(given.values, given.told)]
    return [
        Value(label, _in_place(applied.read(str(kept[label]), given.told), folders), label)
        for label in dict.fromkeys(labels)
    ]


def _called(text: str, labels: Sequence[str], told: str) -> str:
    """The label that is meant by itself, by a number in it, or by a word of it; "best" is the last."""
    spoken = text.lower()
    for found in (
        [label for label in labels if label.lower() == spoken],
        [label for label in labels if spoken in label.lower().replace(",", " ").split()],
        [labels[-1]] if spoken == "best" else [],
    ):
        if found:
            return found[-1]
    raise ConfigError(f'{told}: the run has no checkpoint "{cut(text)}"; it has {", ".join(labels)}')


def _in_place(lora: Applied, folders: Collection[Path]) -> Change:
    """In the place of the run's own LoRA and at its strength, beside all others."""

    def change(one: Asked) -> Asked:
        own = [old for old in one.loras if old.path.absolute().parent in folders]
        others = [old for old in one.loras if old.path.absolute().parent not in folders]
        return replace(one, loras=(replace(lora, strength=own[0].strength) if own else lora, *others))

    return change


NONE = "none"
"""in the place of a LoRA"""
EXAMPLES = {
    "seed": "1..4",
    "checkpoint": "100,200,best",
    "strength": GRID_STRENGTHS,
    "sampler": "dpm++2m,euler",
    "init-strength": "0.25,0.5,0.75",
    "steps": "10,20,40",
    "guidance": "1,3..9:2",
    "prompt": "a cat|a dog",
    "negative": "blurry|blurry, dark",
    "lora": "cats.safetensors:0.8,style.safetensors",
}
SETTINGS: dict[str, Callable[[Given], list[Value]]] = {
    "prompt": _prompt,
    "seed": _seed,
    "checkpoint": _checkpoint,
    "lora": _lora,
    "strength": _strength,
    "init-strength": _init_strength,
    "steps": _field("steps"),
    "guidance": _field("guidance"),
    "sampler": _field("sampler"),
    "negative": _negative,
}
"""in the order in which they change a picture: which LoRA before how strong"""
