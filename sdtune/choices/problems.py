"""What is wrong with given settings, in the user's words: each problem with its path and its remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from sdtune.choices.spec import (
    Spec,
    Words,
    kinds_of,
    literals_of,
    named_settings,
    rows_of,
    table_of,
    without_none,
    words_of,
)
from sdtune.errors import nearest

Path = tuple[str, ...]
LISTED = 12  # names in one message
SHOWN = 60  # characters of a wrong value

_END = re.compile(r"(?<!\.)\. ")
"""of a sentence"""
_SHOULD = {
    "int": "should be a whole number",
    "float": "should be a number",
    "finite": "should be a finite number",
    "bool": "should be true or false",
    "string": "should be text",
    "path": "should be a path",
    "tuple": "should be a list",
    "list": "should be a list",
}
"""first word of pydantic's error type -> what it means"""


def problems(spec: type[Spec], error: ValidationError) -> Iterator[tuple[Path, str]]:
    """(path, line) of each setting that pydantic refused, with its first reason."""
    seen: set[Path] = set()
    for problem in error.errors(include_url=False):
        path, table, field = _walk(spec, [step for step in problem["loc"] if isinstance(step, str)])
        if path in seen:
            continue
        seen.add(path)
        kind, value = problem["type"], problem["input"]
        if kind == "extra_forbidden":
            yield path, _unknown(spec, path, table)
        elif kind in ("union_tag_invalid", "union_tag_not_found"):
            yield path, _unknown_kind(path, field, value)
        elif kind == "missing":
            yield path, _missing(path, field)
        elif not path:  # of settings that do not go together
            yield path, str(problem["ctx"]["error"])
        else:
            yield path, f"{spelt(path, field)}: {_reason(problem, field)}; it was {_shown(value)}"


def oddities(spec: type[Spec], tables: Mapping[str, Any], above: Path = ()) -> Iterator[tuple[Path, str]]:
    """(path, line) of each value that pydantic would take, though nobody can mean it."""
    for name, value in tables.items():
        field = spec.model_fields.get(name)
        if field is None:
            continue
        path = (*above, name)
        kinds = kinds_of(field)
        inner = table_of(field)
        if kinds and isinstance(value, Mapping):
            inner = kinds.get(str(value.get("kind", next(iter(kinds)))))
        rows = rows_of(field)
        if rows and isinstance(value, list | tuple):
            yield from (odd for row in value if isinstance(row, Mapping) for odd in oddities(rows, row, path))
            continue
        if isinstance(value, Mapping):
            if inner is not None:
                yield from oddities(inner, value, path)
            continue
        reason = next((found for one in _each(value) if (found := _odd(one, field))), None)
        if reason:
            yield path, f"{spelt(path, field)}: {reason}; it was {_shown(value)}"


def spelt(path: Sequence[str], field: FieldInfo | None) -> str:
    """A setting by its path and its short flag: network.rank (--rank)."""
    flags = words_of(field).flags if field else ()
    dotted = ".".join(path)
    return f"{dotted} ({flags[0]})" if flags else dotted


def _walk(spec: type[Spec], loc: Sequence[str]) -> tuple[Path, type[Spec], FieldInfo | None]:
    """The path of a pydantic location (which names a choice's kind as a step), its innermost table and its field."""
    path: list[str] = []
    table, kinds = spec, dict[str, type[Spec]]()
    field: FieldInfo | None = None
    for step in loc:
        if step in kinds:
            table, kinds = kinds[step], {}
            continue
        path.append(step)
        field = table.model_fields.get(step)
        kinds = kinds_of(field) if field else {}
        table = (table_of(field) or rows_of(field) if field else None) or table
    return tuple(path), table, field


def _unknown(spec: type[Spec], path: Path, table: type[Spec]) -> str:
    *above, last = path
    prefix = "".join(f"{step}." for step in above)
    _, _, choice = _walk(spec, above)
    others = [kind for kind, member in (kinds_of(choice) if choice else {}).items() if last in member.model_fields]
    if others and last != "kind":
        now = table.model_fields["kind"].default
        flag = "--" + ".".join(above).replace("_", "-")
        return f"{prefix}{last}: a setting of {' and '.join(others)}, but the kind is {now}; choose {flag} {others[0]}"
    known = [name for name, _ in named_settings(table)]
    near = nearest(last, known)
    if near:
        return f"{prefix}{last}: no such setting; did you mean {prefix}{near}?"
    elsewhere = next((".".join(other) for other in _paths(spec) if other[-1] == last), None)
    if elsewhere:
        return f"{prefix}{last}: no such setting; did you mean {elsewhere}?"
    listed = ", ".join(known[:LISTED]) + (" ..." if len(known) > LISTED else "")
    return f"{prefix}{last}: no such setting; " + (f"known here: {listed}" if listed else "there are none here")


def _unknown_kind(path: Path, field: FieldInfo | None, value: Any) -> str:
    asked = value.get("kind") if isinstance(value, Mapping) else value
    known = list(kinds_of(field)) if field else []
    near = nearest(asked, known) or nearest(asked.replace(" ", ""), known) if isinstance(asked, str) else None
    remedy = f"did you mean {near}?" if near else f"choose one of {', '.join(known)}"
    return f"{'.'.join(path)}: no such kind as {_shown(asked)}; {remedy}"


def _missing(path: Path, field: FieldInfo | None) -> str:
    """What stands without a flag goes by the name that --help has for it."""
    text = " ".join(((field.description if field else None) or "").split())
    text = _END.split(text)[0].rstrip(".")
    words = words_of(field) if field else Words()
    name = words.metavar.removesuffix("...") if words.metavar and not words.flags else spelt(path, field)
    hint = f"{text[:1].lower()}{text[1:]}" + (f", as in: {words.example}" if words.example else "")
    return f"{name}: not given; {hint}"


def _within(field: FieldInfo | None, value: int) -> int:
    """The value, or the bound of the field that it is beyond."""
    for bound in field.metadata if field else ():
        value = max(value, int(getattr(bound, "ge", value)))
        value = min(value, int(getattr(bound, "le", value)))
    return value


def _reason(problem: Any, field: FieldInfo | None) -> str:
    kind = str(problem["type"])
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        kinds = list(kinds_of(field)) if field else []
        return "should be a table" + (f", or one of {', '.join(kinds)}" if kinds else " of settings")
    if kind == "literal_error" and field is not None:
        return f"should be one of {', '.join(map(str, literals_of(field)))}"
    if kind in ("string_too_short", "too_short"):
        return "should not be empty"
    first = kind.split("_")[0]
    if first in _SHOULD and kind != "string_too_long":
        return _SHOULD[first]
    if kind == "multiple_of":
        by = int(problem["ctx"]["multiple_of"])
        nearest_one = _within(field, round(float(problem["input"]) / by) * by)
        return f"should be a multiple of {by}, and the nearest is {nearest_one}"
    message = str(problem["msg"]).removeprefix("Input ").removeprefix("Value error, ")
    bound = next((one for one in (problem.get("ctx") or {}).values() if isinstance(one, float)), None)
    if bound is not None:  # 1e-12, which pydantic writes out
        message = f"{message.rpartition(' ')[0]} {bound:g}"
    return message[:1].lower() + message[1:]


def _odd(value: Any, field: FieldInfo) -> str | None:
    inner = without_none(field.annotation)
    if isinstance(value, bool) and inner in (int, float):
        return _SHOULD[inner.__name__]
    if not isinstance(value, str):
        return None
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        return "should be text in UTF-8, without zero bytes"
    if not value.strip() and "Path" in [getattr(one, "__name__", "") for one in (inner, *get_args(inner))]:
        return "should be a path, not empty"
    if not value.strip() and inner is str and any(getattr(mark, "min_length", 0) for mark in field.metadata):
        return "should not be empty"
    return None


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _paths(spec: type[Spec], above: Path = ()) -> Iterator[Path]:
    for name, field in named_settings(spec):
        yield (*above, name)
        inner = table_of(field)
        for table in [inner] if inner else kinds_of(field).values():
            yield from _paths(table, (*above, name))


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, Mapping) else "a table"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
