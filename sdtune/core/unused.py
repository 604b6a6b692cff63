"""Settings without effect: each that was changed though another keeps it from mattering, told by name."""

from __future__ import annotations

from collections.abc import Iterator

from sdtune.choices.spec import Spec
from sdtune.config import TrainLora
from sdtune.core.families import Family


def unused_settings(config: TrainLora, family: Family) -> list[str]:
    """Warnings, one a setting; what has its default is never told, since files of settings repeat all of them."""
    return list(_unused(config, family))


def _unused(config: TrainLora, family: Family) -> Iterator[str]:
    text, augment, captions = config.text, config.augment, config.captions
    if config.probe and not config.dry_run:
        yield "--probe: has no effect without --dry-run"
    if not text.train:
        yield from _without("text", text, ("lr", "lr_2"), "text.train")
    elif len(family.text_encoders) == 1:
        yield from _told("text", text, ("lr_2",), f"{family.title} has one text encoder alone")
    if not config.keep_base.weight:
        yield from _without("keep_base", config.keep_base, ("prompts",), "keep_base.weight (--keep-base)")
    kinds = ("crop", "flip", "rotate", "colour")
    if not augment.on:
        yield from _without("augment", augment, ("versions", "tag"), f"one of augment.{', '.join(kinds)}")
    elif augment.count == 1:
        yield from _told("augment", augment, (*kinds, "tag"), "augment.versions is 1, which is the plain image")
    if not captions.shuffle and not captions.tag_dropout:
        yield from _without("captions", captions, ("keep",), "captions.shuffle or captions.tag_dropout")
    if config.token.word is None:
        yield from _without("token", config.token, ("init", "vectors", "lr"), "token.word (--new-token)")
    if config.mask.use == "off":
        yield from _told("mask", config.mask, ("floor",), "mask.use (--masks) is off")


def _without(table: str, settings: Spec, names: tuple[str, ...], needed: str) -> Iterator[str]:
    return (f"{name}: has no effect without {needed}" for name in _changed(table, settings, names))


def _told(table: str, settings: Spec, names: tuple[str, ...], why: str) -> Iterator[str]:
    return (f"{name}: has no effect, since {why}" for name in _changed(table, settings, names))


def _changed(table: str, settings: Spec, names: tuple[str, ...]) -> Iterator[str]:
    """Those that differ from the class's defaults, in full."""
    fields = type(settings).model_fields
    return (f"{table}.{name}" for name in names if getattr(settings, name) != fields[name].default)
