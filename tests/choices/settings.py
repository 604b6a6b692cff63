"""Random settings that are valid, made out of the classes themselves: a new setting is tested by being there."""

from __future__ import annotations

from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, get_args, get_origin

import annotated_types
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from sdtune.choices.spec import Spec, kinds_of, literals_of, rows_of, table_of, without_none, words_of
from sdtune.earlier import NEWEST
from sdtune.tables import NO_WORD

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
no_controls = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters=NO_WORD)
words = st.text(no_controls, min_size=1, max_size=20).filter(str.strip)
paths = texts.filter(str.strip).map(lambda text: str(Path(text)))


def tables(spec: type[Spec]) -> st.SearchStrategy[dict[str, Any]]:
    """Tables as a TOML file gives them: some settings given, others not."""
    allowed = {name: values(field).filter(partial(_passes, spec, name)) for name, field in spec.model_fields.items()}
    needed = {name for name, field in spec.model_fields.items() if needs(field)}
    optional = {name: value for name, value in allowed.items() if name not in needed}
    return st.fixed_dictionaries({name: allowed[name] for name in needed}, optional=optional)


def _passes(spec: type[Spec], name: str, value: Any) -> bool:
    """Whether the class's own checks of a field let the value pass: of folds they do not let 1."""
    checks = [one for one in spec.__pydantic_decorators__.field_validators.values() if name in one.info.fields]
    try:
        for check in checks:
            if check.info.mode == "after" and len(signature(check.func).parameters) == 1:  # of this field alone
                check.func(value)
    except ValueError:
        return False
    return True


def needs(field: FieldInfo) -> bool:
    return field.is_required() or bool(field.validate_default)


def values(field: FieldInfo) -> st.SearchStrategy[Any]:
    """What a setting may be."""
    kinds, table, known, rows = kinds_of(field), table_of(field), literals_of(field), rows_of(field)
    if rows:
        return st.lists(tables(rows), max_size=2)
    if kinds:
        whole = [tables(cls).map(lambda told, kind=kind: told | {"kind": kind}) for kind, cls in kinds.items()]
        return st.one_of(st.sampled_from(list(kinds)), tables(next(iter(kinds.values()))), *whole)
    if table:
        return tables(table)
    if known and get_origin(without_none(field.annotation)) is tuple:
        return st.lists(st.sampled_from(known), max_size=3)
    return st.sampled_from(known) if known else plain(field)


def plain(field: FieldInfo) -> st.SearchStrategy[Any]:
    inner = without_none(field.annotation)
    bounds: dict[str, Any] = {}
    for mark in field.metadata:
        for name in ("ge", "gt", "le", "lt", "multiple_of", "min_length"):
            if isinstance(mark, annotated_types.BaseMetadata | annotated_types.GroupedMetadata) and hasattr(mark, name):
                bounds[name] = getattr(mark, name)
    if inner is bool:
        return st.booleans()
    if inner is int:
        by = bounds.get("multiple_of", 1)
        least = bounds.get("ge", bounds.get("gt", -(2**31)))
        most = bounds.get("le", bounds.get("lt", 2**31) - ("le" not in bounds))
        return st.integers(-(-least // by), most // by).map(lambda number: number * by)
    if inner is float:
        return st.floats(
            bounds.get("ge", bounds.get("gt", -1e6)),
            bounds.get("le", bounds.get("lt", 1e6)),
            exclude_min="gt" in bounds,
            exclude_max="lt" in bounds,
            allow_subnormal=False,
        )
    if get_origin(inner) is tuple and get_args(get_args(inner)[0])[:1] == (float,):  # strengths of LoRAs
        return st.lists(st.floats(0.125, 2), max_size=3)
    if get_origin(inner) is tuple and get_args(inner)[0] not in (str, Path):
        return st.lists(st.integers(4, 64).map(lambda number: 8 * number), max_size=3)
    if get_origin(inner) is tuple:
        members = paths if get_args(inner)[0] is Path else texts
        return st.lists(members, min_size=bounds.get("min_length", 0), max_size=3)
    if "--resume" in words_of(field).flags:  # a folder would have to be that of a run
        return st.just(NEWEST)
    if isinstance(field.default, str) and "{" in field.default:  # a template, which must have its gap
        return words.map(lambda text: text + field.default)
    return paths if inner is Path else words


def everywhere(spec: type[Spec], above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], FieldInfo]]:
    """(path, field) of every setting of a config, of tables and kinds too."""
    found = []
    for name, field in spec.model_fields.items():
        found.append(((*above, name), field))
        table = table_of(field)
        for inner in [table] if table else kinds_of(field).values():
            found += everywhere(inner, (*above, name))
    return found
