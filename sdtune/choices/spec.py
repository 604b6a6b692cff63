"""Spec, the frozen settings class that all settings derive from, and choice, a table that comes in kinds."""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo


class Spec(BaseModel):
    """Settings: frozen, no unknown names, and the string under a field is its help everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def setting(default: Any, *flags: str, metavar: str | None = None, **bounds: Any) -> Any:
    """A field with short flags of its own (`--rank`), beside the one that its path gives it (`--network.rank`)."""
    return Field(default, json_schema_extra={"flags": list(flags), "metavar": metavar}, **bounds)


def choice(union: UnionType) -> Any:
    """The type of a table that comes in kinds; a bare name stands for that kind's table, the first kind is the usual.

    `optimizer = "adamw"` and `[optimizer] kind = "adamw"` mean the same.
    """
    usual = get_args(union)[0].model_fields["kind"].default

    def spell_out(value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, dict) and "kind" not in value:
            return {"kind": usual, **value}
        return value

    return Annotated[union, Field(discriminator="kind"), BeforeValidator(spell_out)]


def kinds_of(field: FieldInfo) -> dict[str, type[Spec]]:
    """kind -> class of a field that is a choice, {} for any other field."""
    members = get_args(field.annotation)
    if field.discriminator is None or get_origin(field.annotation) is None:
        return {}
    return {member.model_fields["kind"].default: member for member in members}


def table_of(field: FieldInfo) -> type[Spec] | None:
    """The settings class of a field that is a plain table, None for any other field."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Spec) else None


def named_settings(spec: type[Spec]) -> Iterator[tuple[str, FieldInfo]]:
    """(name, field) of every setting but the `kind` itself, in the order of the class."""
    yield from ((name, field) for name, field in spec.model_fields.items() if name != "kind")
