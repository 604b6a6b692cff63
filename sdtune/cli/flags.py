"""A config's settings as typer options: the flag is the TOML path, and short names stand on the field."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from sdtune.choices.spec import Spec, kinds_of, named_settings, table_of
from sdtune.config import Tables, read_preset, resolve

EVERYDAY = "Settings for every day"
BY_PATH = "__by_path"


@dataclass(frozen=True)
class Flag:
    """One setting as an option."""

    path: tuple[str, ...]
    """("optimizer", "lr")"""
    field: FieldInfo
    help: str

    @property
    def argument(self) -> bool:
        """Stands without a flag before it: the field declares a metavar and no flag."""
        extra = self.field.json_schema_extra or {}
        return isinstance(extra, dict) and bool(extra.get("metavar")) and not extra.get("flags")

    @property
    def metavar(self) -> str:
        """What the value looks like."""
        extra = self.field.json_schema_extra or {}
        if isinstance(extra, dict) and extra.get("metavar"):
            return str(extra["metavar"])
        kinds = kinds_of(self.field)
        return "|".join(kinds) if kinds else _type_name(self.field.annotation)

    def parameters(self) -> list[inspect.Parameter]:
        """The option as parameters of a typer function: by its short names, and by its path where that is another."""
        name = "__".join(self.path)
        extra = self.field.json_schema_extra or {}
        assert isinstance(extra, dict)
        inner = _without_none(self.field.annotation)
        kind: Any = list[str] if get_origin(inner) is tuple else bool if inner is bool else str
        if self.argument:
            info: Any = typer.Argument(metavar=self.metavar, help=self.help, show_default=False)
            return [_parameter(name, kind | None, None, info)]
        short, long = [str(flag) for flag in extra.get("flags", [])], "--" + name.replace("__", ".").replace("_", "-")
        by_path = typer.Option(
            f"{long}/--no-{long[2:]}" if inner is bool else long,
            metavar=None if inner is bool else self.metavar,
            help=self.help,
            show_default=_default_text(self.field),
            hidden=True,
            rich_help_panel=self.path[0] if len(self.path) > 1 or kinds_of(self.field) else "run",
        )
        if not short:
            return [_parameter(name, kind | None, None, by_path)]
        every_day = typer.Option(
            *short,
            metavar=None if inner is bool else self.metavar,
            help=self.help,
            show_default=_default_text(self.field),
            rich_help_panel=EVERYDAY,
        )
        first = _parameter(name, kind | None, None, every_day)
        return [first] if long in short else [first, _parameter(f"{name}{BY_PATH}", kind | None, None, by_path)]


def flags_of(spec: type[Spec], prefix: tuple[str, ...] = ()) -> Iterator[Flag]:
    """Every setting of a config, tables and the classes of a choice included; a name common to kinds comes once."""
    for name, field in named_settings(spec):
        path = (*prefix, name)
        table, kinds = table_of(field), kinds_of(field)
        if table is not None:
            yield from flags_of(table, path)
            continue
        yield Flag(path, field, _help(field, kinds))
        seen: set[str] = set()
        for kind in kinds.values():
            for flag in flags_of(kind, path):
                if flag.path[-1] not in seen:
                    seen.add(flag.path[-1])
                    yield flag


def command(spec: type[Spec], automatic: Callable[[Tables], list[Tables]]) -> Callable[[Callable[..., None]], Any]:
    """Turns `run(config, json)` into a typer command whose options are the settings of `spec`.

    `automatic` gives the layers that lie under the presets, told from what the user gave.
    """
    flags = {"__".join(flag.path): flag for flag in flags_of(spec)}

    def decorate(run: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(run)
        def typed(**values: Any) -> None:
            presets = [read_preset(name) for name in values.pop("preset") or []]
            as_json = values.pop("json")
            values.pop("help_all")
            given = [*presets, _nested(flags, values)]
            run(resolve(spec, [*automatic(_overlaid(given)), *given]), as_json)

        parameters = [parameter for flag in flags.values() for parameter in flag.parameters()]
        typed.__signature__ = inspect.Signature([*parameters, *_common()])  # type: ignore[attr-defined]
        typed.__doc__ = run.__doc__
        return typed

    return decorate


def _common() -> list[inspect.Parameter]:
    preset = typer.Option(
        "--preset",
        "-p",
        metavar="NAME|FILE",
        show_default=False,
        rich_help_panel=EVERYDAY,
        help="Settings by name or from a TOML file, a run's run.toml too; several are laid over each other.",
    )
    as_json = typer.Option("--json", help="Reports as JSON lines on standard output.", rich_help_panel="Output")
    show_all = typer.Option(
        "--help-all", is_eager=True, callback=_show_everything, help="Show every setting.", rich_help_panel="Output"
    )
    return [
        _parameter("preset", list[str] | None, None, preset),
        _parameter("json", bool, False, as_json),
        _parameter("help_all", bool, False, show_all),
    ]


def _parameter(name: str, kind: Any, default: Any, info: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _show_everything(context: typer.Context, asked: bool) -> None:
    if not asked:
        return
    for parameter in context.command.params:
        parameter.hidden = False  # type: ignore[attr-defined]
    context.command.format_help(context, context.make_formatter())  # type: ignore[attr-defined]
    raise typer.Exit


def _nested(flags: dict[str, Flag], values: dict[str, Any]) -> Tables:
    """{"optimizer__lr": "1e-4"} -> {"optimizer": {"lr": "1e-4"}}, without what was not given."""
    tables: Tables = {}
    for name, value in values.items():
        if value is None or value == []:
            continue
        flag = flags[name.removesuffix(BY_PATH)]
        *above, last = flag.path
        table = tables
        for step in above:
            inner = table.setdefault(step, {})
            table = table.setdefault(step, {}) if isinstance(inner, dict) else table
        if kinds_of(flag.field):
            table.setdefault(last, {})["kind"] = value
        else:
            table[last] = value
    return tables


def _overlaid(layers: list[Tables]) -> Tables:
    merged: Tables = {}
    for layer in layers:
        merged |= layer
    return merged


def _help(field: FieldInfo, kinds: dict[str, type[Spec]]) -> str:
    text = " ".join((field.description or "").split())
    if kinds and not text:
        text = " ".join(f"{kind}: {_first_sentence(cls)}" for kind, cls in kinds.items())
    return text.replace("[", "\\[")


def _first_sentence(cls: type[Spec]) -> str:
    text = " ".join((cls.__doc__ or "").split())
    return text.split(" (")[0].rstrip(".") + "."


def _default_text(field: FieldInfo) -> Any:
    default = field.default
    kind = getattr(default, "kind", None)
    if kind is not None:
        return str(kind)
    if field.is_required() or default in (None, (), "", False):
        return False
    return f"{default:g}" if isinstance(default, float) else str(default)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [member for member in get_args(annotation) if member is not type(None)]
        return inner[0] if len(inner) == 1 else annotation
    return annotation


def _type_name(annotation: Any) -> str:
    inner = _without_none(annotation)
    if get_origin(inner) is Literal:
        return "|".join(map(str, get_args(inner)))
    if get_origin(inner) is tuple:
        return "TEXT"
    return {int: "N", float: "X", str: "TEXT"}.get(inner, "PATH")
