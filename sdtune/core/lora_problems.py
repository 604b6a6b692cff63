"""What a user should know of a LoRA file, each with its remedy: who does not load it, and what is taken for granted.

What programs load was measured with the code of diffusers 0.42, ComfyUI and Forge (docs/interop.md); of A1111, which
was not run, it is what its issues say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join

from sdtune.core.elsewhere import of_networks, of_text
from sdtune.core.families import Family, families
from sdtune.core.lora_facts import Module, networks_in
from sdtune.core.lora_keys import Keys
from sdtune.core.lora_metadata import likely_trigger, trigger_of

OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""SHA-256 of no bytes at all, which some trainers have written (ostris/ai-toolkit #130)"""
NAMED = 3


@dataclass(frozen=True)
class File:
    """What is known of a file before its weights are read."""

    path: Path
    keys: Keys
    modules: Mapping[str, Module]
    metadata: Mapping[str, str]
    family: str | None
    said: str | None
    """the family that the metadata names"""


def problems_of(file: File) -> Iterator[str]:
    """One line each."""
    yield from _of_family(file)
    yield from _of_form(file)
    yield from _of_networks(file)
    yield from _of_text(file)
    yield from _of_alpha(file)
    yield from _of_words(file)
    if OF_NOTHING in file.metadata.get("sshs_model_hash", ""):
        told = "its sshs_model_hash is that of an empty file, which sites know it by"
        yield f"{told}; to write the right one: {_convert(file)}"


def of_weights(dead: Sequence[str], exploding: Sequence[str], modules: int, times: float) -> Iterator[str]:
    """What the weights themselves tell."""
    if dead:
        yield f"{len(dead)} of {_counted(modules, 'module')} add nothing ({_named(dead)}); nothing was learned there"
    if exploding:
        one = len(exploding) == 1
        who = "1 module changes its weights" if one else f"{len(exploding)} modules change their weights"
        told = f"{who} over {times:g} times as strongly as the median does ({_named(exploding)})"
        yield f"{told}; train with a lower --lr, or use it at a lower strength"


def of_hashes(file: File, names: Sequence[str]) -> str:
    """Hashes that do not hold."""
    told = f"the file was changed after it was made, since {' and '.join(names)} tell of other weights"
    return f"{told}; get it again, or if that was meant: {_convert(file)}"


def _of_family(file: File) -> Iterator[str]:
    if file.family and file.said and file.family != file.said:
        ours, theirs = (families()[name].title for name in (file.family, file.said))
        yield f"its metadata says {theirs}, but its weights are for {ours}; to put that right: {_convert(file)}"
    if not file.family:
        yield "nothing in it tells Stable Diffusion 1.x from 2.x; try it with the model that it came for"


def _of_form(file: File) -> Iterator[str]:
    family = _family(file)
    if family is None:
        return
    form, title = file.keys.form, family.title
    if family.lora_form == "kohya" and form in ("peft", "diffusers"):
        yield f"A1111, Forge and ComfyUI do not load all of its form, {form}; to write kohya's: {_convert(file)}"
    elif family.lora_form == "kohya" and form == "diffusers (old)":
        yield f"many programs do not load the form of diffusers' older scripts; to write kohya's: {_convert(file)}"
    elif family.lora_form != "kohya" and form.startswith("kohya"):
        yield f"diffusers does not load {form} for {title}; to write what it and ComfyUI load: {_convert(file)}"


def _of_networks(file: File) -> Iterator[str]:
    yield from of_networks(networks_in(file.modules.values()), _other(file, "resize", "--rank", "16"))
    if file.keys.embeddings:
        yield "new words are bundled, so that diffusers loads nothing of it; give others a file of the words, too"


def _of_text(file: File) -> Iterator[str]:
    family = _family(file)
    if family is not None and family.lora_form != "kohya":
        return
    form = file.keys.form
    spelt = "kohya" if form.startswith("kohya") else "peft" if form in ("peft", "diffusers") else form
    if unread := of_text(spelt, [name for name, one in file.modules.items() if one.kind == "LoRA"]):
        what, other = unread
        yield f"{what}; for diffusers: {_other(file, 'convert', '--form', other)}"


def _of_alpha(file: File) -> Iterator[str]:
    ranked = {name: one for name, one in file.modules.items() if one.rank is not None}
    silent = [name for name, one in ranked.items() if one.alpha is None]
    if silent and len(silent) == len(ranked):
        yield "no alpha is given, so that programs take the rank for it; at another alpha, its strength is another"
    elif silent:
        yield f"{len(silent)} of {_counted(len(ranked), 'module')} have no alpha, so that programs take the rank for it"
    family = _family(file)
    others = [name for name, one in ranked.items() if one.alpha not in (None, one.rank)]
    if family is not None and family.lora_form != "kohya" and others:
        told = f"alpha is not the rank in {_counted(len(others), 'module')}, and ComfyUI or diffusers takes the rank"
        yield f"{told}; to put it into the weights: {_convert(file)}"
    zero = [name for name, one in ranked.items() if one.alpha == 0]
    if zero:
        yield f"alpha is 0 in {_counted(len(zero), 'module')}; nothing is added there: {_named(zero)}"


def _of_words(file: File) -> Iterator[str]:
    if trigger_of(file.metadata) or file.keys.embeddings:
        return
    if tag := likely_trigger(file.metadata):
        yield f"no trigger phrase is named; to name what most captions had: {_convert(file, '--trigger', tag)}"
    else:
        told = "no trigger phrase is named; ask where you got it, and to name one"
        yield f"{told}: {_convert(file, '--trigger', 'WORDS')}"


def _family(file: File) -> Family | None:
    return families()[file.family] if file.family else None


def _convert(file: File, *more: str) -> str:
    return _other(file, "convert", *more)


def _other(file: File, command: str, *more: str) -> str:
    """A command that makes another file of it."""
    words = ["sdtune", "lora", command, str(file.path), *more, "--out", f"{file.path.stem}-new.safetensors"]
    return join(words)


def _named(modules: Sequence[str]) -> str:
    more = f" and {len(modules) - NAMED} more" if len(modules) > NAMED else ""
    return ", ".join(modules[:NAMED]) + more


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
