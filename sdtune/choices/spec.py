"""Spec, the frozen settings class that all settings derive from, and Choice, a table that comes in kinds."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema


class Spec(BaseModel):
    """Settings: frozen, no unknown names, and the string under a field is its help everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def model_post_init(self, _context: Any) -> None:
        """Who makes an object of a class has chosen its kind, so the kind counts as set."""
        if "kind" in type(self).model_fields:
            self.model_fields_set.add("kind")


@dataclass(frozen=True)
class Words:
    """How a setting is spelt on the command line, beside its path (`--network.rank`)."""

    flags: tuple[str, ...] = ()
    """short names: ("--rank",)"""
    metavar: str | None = None
    """what a value looks like; without flags beside it the value stands alone: sdtune train-lora DATASET"""
    place: int | None = None
    """place among the settings that --help shows, the most used first; None: --help-all alone shows it"""
    example: str | None = None
    """a command that gives it, for the message where it is missing"""


def setting(default: Any, *flags: str, place: int | None = None, **more: Any) -> Any:
    """A field with words of its own on the command line; `more` are the rest of Words, and the field's bounds."""
    words = Words(flags, more.pop("metavar", None), place, more.pop("example", None))
    field = Field(default, **more)
    field.metadata.append(words)
    return field


def words_of(field: FieldInfo) -> Words:
    """How a field is spelt on the command line."""
    return next((mark for mark in field.metadata if isinstance(mark, Words)), Words())


class Choice:
    """Marks the type of a table that comes in kinds: `Loss = Annotated[MSE | Huber, Choice()]`; the first is the usual.

    A bare name stands for that kind's table: `loss = "huber"` and `[loss] kind = "huber"` mean the same.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The classes told apart by `kind`, with bare names spelt out; a kind not named does not count as set."""
        kinds = {_kind(member): handler.generate_schema(member) for member in _members(source)}
        usual = next(iter(kinds))

        def spell_out(value: Any, validate: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if isinstance(value, str):
                return validate({"kind": value})
            if isinstance(value, dict) and "kind" not in value:
                settings = validate({"kind": usual, **value})
                settings.model_fields_set.discard("kind")
                return settings
            return validate(value)

        told_apart = core_schema.tagged_union_schema(kinds, discriminator="kind")
        return core_schema.no_info_wrap_validator_function(spell_out, told_apart)


def kinds_of(field: FieldInfo) -> dict[str, type[Spec]]:
    """kind -> class of a field that is a choice, the usual one first; {} for any other field."""
    if not any(isinstance(mark, Choice) for mark in field.metadata):
        return {}
    return {_kind(member): member for member in _members(field.annotation)}


def table_of(field: FieldInfo) -> type[Spec] | None:
    """The settings class of a field that is a plain table, None for any other field."""
    annotation = field.annotation
    if kinds_of(field):
        return None
    return annotation if isinstance(annotation, type) and issubclass(annotation, Spec) else None


def rows_of(field: FieldInfo) -> type[Spec] | None:
    """The settings class of a field that is a list of tables ([[data.folders]]), None for any other field."""
    inner = without_none(field.annotation)
    member = next(iter(get_args(inner)), None) if get_origin(inner) is tuple else None
    return member if isinstance(member, type) and issubclass(member, Spec) else None


def named_settings(spec: type[Spec]) -> Iterator[tuple[str, FieldInfo]]:
    """(name, field) of every setting but the `kind` itself, in the order of the class."""
    yield from ((name, field) for name, field in spec.model_fields.items() if name != "kind")


def without_none(annotation: Any) -> Any:
    """`int | None` -> int; anything else as it is."""
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [member for member in get_args(annotation) if member is not type(None)]
        return inner[0] if len(inner) == 1 else annotation
    return annotation


def literals_of(field: FieldInfo) -> tuple[Any, ...]:
    """The words that a setting, or each of a list, may be; () where it may be others."""
    inner = without_none(field.annotation)
    inner = get_args(inner)[0] if get_origin(inner) is tuple else inner
    if get_origin(inner) is tuple:  # several of them
        inner = get_args(inner)[0]
    return get_args(inner) if get_origin(inner) is Literal else ()


def _members(union: Any) -> tuple[type[Spec], ...]:
    return get_args(union) or (union,)


def _kind(member: type[Spec]) -> str:
    return str(member.model_fields["kind"].default)
