"""A config's settings as typer options: the flag is the TOML path, and short names stand on the field."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from glob import escape, iglob
from typing import Annotated, Any, get_origin

import typer
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
from sdtune.cli.alone import with_values
from sdtune.cli.help import Command
from sdtune.errors import ConfigError
from sdtune.layers import Preset, Tables, preset_names, read_preset, resolve

METAVARS = {int: "N", float: "X", str: "TEXT"}
TEXTS = ("prompt", "prompts", "negative", "trigger", "prefix", "suffix", "blacklist", "replace", "text")
"""settings that are words, never the name of a file"""
LONGEST = 40  # characters of words to choose from; more would not fit into a narrow terminal
TRAINING = "train-lora"
TOP = "run"  # heading of the settings that stand in no table


@dataclass(frozen=True)
class Flag:
    """One setting as an option."""

    path: tuple[str, ...]
    """("optimizer", "lr")"""
    field: FieldInfo
    of_kinds: tuple[str, ...] = ()
    """the kinds of the choice around it that have it, where some lack it"""

    @property
    def name(self) -> str:
        """Of the function's parameter."""
        return "__".join(self.path)

    @property
    def words(self) -> Words:
        """Short names, and the place in --help."""
        return words_of(self.field)

    @property
    def argument(self) -> bool:
        """Stands without a flag before it."""
        return self.words.metavar is not None and not self.words.flags

    @property
    def long(self) -> str:
        """--optimizer.weight-decay"""
        return "--" + ".".join(self.path).replace("_", "-")

    @property
    def switch(self) -> bool:
        """On or off, and so without a value."""
        return without_none(self.field.annotation) is bool

    @property
    def alone(self) -> bool:
        """May stand without its value."""
        return (self.words.metavar or "").startswith("[")

    @property
    def known(self) -> list[str]:
        """The words that it may be, [] where it may be others."""
        return list(kinds_of(self.field)) or [str(word) for word in literals_of(self.field)]

    @property
    def metavar(self) -> str:
        """What the value looks like, "" for a switch."""
        if self.switch:
            return ""
        inner = without_none(self.field.annotation)
        usual = "TEXT" if get_origin(inner) is tuple else METAVARS.get(inner, "PATH")
        known = "|".join(self.known)
        if len(known) > LONGEST:
            known = "KIND"
        return self.words.metavar or known or usual

    @property
    def table(self) -> str:
        """The TOML table that it stands in."""
        return self.path[0] if len(self.path) > 1 or kinds_of(self.field) else TOP

    @property
    def help(self) -> str:
        """The string under the field, or the first sentences of the kinds, and the default."""
        text = " ".join((self.field.description or "").split())
        if not text:
            text = " ".join(f"{kind}: {_first_sentence(cls)}" for kind, cls in kinds_of(self.field).items())
        if self.of_kinds:
            text = f"Of {', '.join(self.of_kinds)}: {text[:1].lower()}{text[1:]}"
        return f"{text} [{default}]" if (default := _default(self.field)) else text

    def parameter(self, instead: Iterable[str] = ()) -> inspect.Parameter:
        """The setting as a parameter of a typer function; None says that it was not given.

        `instead` are words of commands that may stand in the place of an argument.
        """
        kind: Any = (
            list[str] if get_origin(without_none(self.field.annotation)) is tuple else bool if self.switch else str
        )
        if self.argument:
            offered = _instead(self.name, [*instead])
            argument = typer.Argument(metavar=self.metavar, show_default=False, autocompletion=offered)
            return _parameter(self.name, kind | None, None, argument)
        flags = list(dict.fromkeys([*self.words.flags, self.long]))
        if self.switch:
            flags = [f"{flag}/--no-{flag[2:]}" for flag in flags]
        words = self.known
        option = typer.Option(
            *flags,
            metavar=self.metavar or None,
            autocompletion=(lambda incomplete: _starting(incomplete, words)) if words else None,
        )
        return _parameter(self.name, kind | None, None, option)


def flags_of(spec: type[Spec], above: tuple[str, ...] = ()) -> Iterator[Flag]:
    """Every setting of a config, tables and the classes of a choice included; a name common to kinds comes once.

    Lists of tables have no flags: they are for TOML.
    """
    for name, field in named_settings(spec):
        if rows_of(field):
            continue
        path = (*above, name)
        table, kinds = table_of(field), kinds_of(field)
        if table is not None:
            yield from flags_of(table, path)
            continue
        yield Flag(path, field)
        settings = {flag.path[-1]: flag for cls in reversed(kinds.values()) for flag in flags_of(cls, path)}
        for last, flag in settings.items():
            having = tuple(kind for kind, cls in kinds.items() if last in cls.model_fields)
            yield Flag(flag.path, flag.field, having if len(having) < len(kinds) else ())


class Worded(Command):
    """A command that takes its flags as users type them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What is left over of the command line."""
        names = [name for flag in self.settings.values() if flag.alone for name in (*flag.words.flags, flag.long)]
        return super().parse_args(ctx, with_values(args, names, lambda words: self._fits(ctx, words)))

    def _fits(self, ctx: Any, words: list[str]) -> bool:
        """Whether no argument is too many."""
        try:
            return not self.make_parser(ctx).parse_args(args=list(words))[1]
        except Exception as error:
            if not hasattr(error, "format_message"):  # typer's complaints, told where it is parsed in earnest
                raise
            return True


def built(
    name: str, spec: type[Spec], work: Callable[[Any, bool], None], below: Mapping[str, str] | None = None
) -> Command:
    """The command `sdtune {name}`, which makes a config out of flags and presets and calls `work(config, as_json)`.

    `below` says what each command does whose name begins with this one's.
    """
    flags = {flag.name: flag for flag in flags_of(spec)}

    def typed(**values: Any) -> None:
        presets = [_fitting(name, spec, read_preset(given)) for given in values.pop("preset") or []]
        as_json = values.pop("json")
        del values["help_all"]
        work(resolve(spec, [*presets, _nested(flags, values)]), as_json)

    parameters = [flag.parameter(one.rpartition(" ")[2] for one in below or ()) for flag in flags.values()]
    typed.__signature__ = inspect.Signature([*parameters, *_common(name)])  # type: ignore[attr-defined]
    typed.__doc__ = work.__doc__
    one = typer.Typer(add_completion=False, rich_markup_mode=None)
    one.command(name.rpartition(" ")[2], cls=Worded)(typed)
    command = typer.main.get_command(one)
    assert isinstance(command, Command)
    command.settings = flags
    command.below = below or {}
    return command


def _common(name: str) -> list[inspect.Parameter]:
    of_runs = ", a run's run.toml too" if name == TRAINING else ""
    preset = typer.Option(
        "--preset",
        "-p",
        metavar="NAME|FILE",
        help=f"Settings by name or from a TOML file{of_runs}; several are laid over each other.",
        autocompletion=lambda incomplete: _starting(incomplete, preset_names()),
    )
    as_json = typer.Option(
        "--json",
        help="Every report as a JSON line on standard output, progress too; lines for people on standard error.",
    )
    show_all = typer.Option(
        "--help-all", is_eager=True, callback=_show_everything, help="Show every setting and leave."
    )
    return [
        _parameter("preset", list[str] | None, None, preset),
        _parameter("json", bool, False, as_json),
        _parameter("help_all", bool, False, show_all),
    ]


def _parameter(name: str, kind: Any, default: Any, info: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _fitting(name: str, spec: type[Spec], preset: Preset) -> Preset:
    """The preset, unless it is one for training and this command is another."""
    unknown = [one for one in preset if one not in spec.model_fields]
    if not unknown or name == TRAINING:
        return preset
    from sdtune.config import TrainLora

    if all(one in TrainLora.model_fields for one in preset):
        told = f"{preset.name}: a preset for sdtune {TRAINING}, as {unknown[0]} is no setting of sdtune {name}"
        raise ConfigError(f"{told}; leave it out")
    return preset


def _show_everything(context: typer.Context, asked: bool) -> None:
    if asked:
        assert isinstance(context.command, Command)
        context.command.everything = True
        typer.echo(context.get_help())
        raise typer.Exit


def _starting(incomplete: str, known: list[str]) -> list[str]:
    return [word for word in known if word.startswith(incomplete)]


def _instead(name: str, words: list[str]) -> Callable[[typer.Context, str], list[str]] | None:
    """Words that complete the first argument, where no file does, as a shell then offers those."""
    if not words:
        return None

    def offered(ctx: typer.Context, incomplete: str) -> list[str]:
        first = not ctx.params.get(name) and not any(iglob(f"{escape(incomplete)}*"))
        return _starting(incomplete, words) if first else []

    return offered


def _nested(flags: dict[str, Flag], values: dict[str, Any]) -> Tables:
    """{"optimizer__lr": "1e-4"} -> {"optimizer": {"lr": "1e-4"}}, without what was not given."""
    tables: Tables = {}
    for name, value in values.items():
        if value is None or value == []:
            continue
        *above, last = flags[name].path
        if last in TEXTS:
            value = [in_utf8(one) for one in value] if isinstance(value, list) else in_utf8(value)
        table = tables
        for step in above:
            table = table.setdefault(step, {})
        if kinds_of(flags[name].field):
            table.setdefault(last, {})["kind"] = value
        else:
            table[last] = value
    return tables


def in_utf8(text: str) -> str:
    """Text of the command line that is UTF-8, whatever the locale has made of it."""
    with contextlib.suppress(UnicodeError):
        return os.fsencode(text).decode()
    return text


def _first_sentence(cls: type[Spec]) -> str:
    return " ".join((cls.__doc__ or "").split()).split(" (")[0].rstrip(".") + "."


def _default(field: FieldInfo) -> str:
    """What holds where nothing is given, "" where the help says it or there is nothing to say."""
    default = field.default
    if field.is_required() or default is None or default is False or default in ((), ""):
        return ""
    kind = getattr(default, "kind", None)
    if isinstance(default, tuple):
        return ",".join(f"{one:g}" if isinstance(one, float) else str(one) for one in default)
    return str(kind) if kind is not None else f"{default:g}" if isinstance(default, float) else str(default)
