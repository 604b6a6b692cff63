"""Spec, the frozen settings class that all settings derive from, and Choice, a table that comes in kinds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema


class Spec(BaseModel):
    """Settings: frozen, no unknown names, and the string under a field is its help everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


def setting(default: Any, *flags: str, metavar: str | None = None, **bounds: Any) -> Any:
    """A field with short flags of its own (`--rank`), beside the one that its path gives it (`--network.rank`)."""
    return Field(default, json_schema_extra={"flags": list(flags), "metavar": metavar}, **bounds)


class Choice:
    """Marks the type of a table that comes in kinds: `Loss = Annotated[MSE | Huber, Choice()]`; the first is the usual.

    A bare name stands for that kind's table: `loss = "huber"` and `[loss] kind = "huber"` mean the same.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The union told apart by `kind`, with bare names and a missing kind spelt out before."""
        members = _members(source)
        usual = members[0].model_fields["kind"].default

        def spell_out(value: Any) -> Any:
            if isinstance(value, str):
                return {"kind": value}
            if isinstance(value, dict) and "kind" not in value:
                return {"kind": usual, **value}
            return value

        inner = handler(source) if len(members) == 1 else handler(Annotated[source, Field(discriminator="kind")])
        return core_schema.no_info_before_validator_function(spell_out, inner)


def kinds_of(field: FieldInfo) -> dict[str, type[Spec]]:
    """kind -> class of a field that is a choice, {} for any other field."""
    if not any(isinstance(mark, Choice) for mark in field.metadata):
        return {}
    return {member.model_fields["kind"].default: member for member in _members(field.annotation)}


def _members(union: Any) -> tuple[type[Spec], ...]:
    return get_args(union) or (union,)


def table_of(field: FieldInfo) -> type[Spec] | None:
    """The settings class of a field that is a plain table, None for any other field."""
    annotation = field.annotation
    if kinds_of(field):
        return None
    return annotation if isinstance(annotation, type) and issubclass(annotation, Spec) else None


def named_settings(spec: type[Spec]) -> Iterator[tuple[str, FieldInfo]]:
    """(name, field) of every setting but the `kind` itself, in the order of the class."""
    yield from ((name, field) for name, field in spec.model_fields.items() if name != "kind")
