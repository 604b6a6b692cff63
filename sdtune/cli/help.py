"""How --help reads: plain text, the settings of every day first; --help-all by the tables of a TOML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

if TYPE_CHECKING:
    from sdtune.cli.flags import Flag

COLUMN = 34  # characters of flags beside which help still stands on the same line


class Command(TyperCommand):
    """A command whose help is made out of its settings."""

    settings: Mapping[str, Flag] = {}
    everything = False
    """whether --help-all asked"""
    below: Mapping[str, str] = {}
    """what each command does whose name begins with the name of this one"""

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """The first line."""
        arguments = [flag.metavar for flag in self.settings.values() if flag.argument]
        formatter.write_usage(ctx.command_path, " ".join([*arguments, "[OPTIONS]"]))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """All between the first sentence and the last line."""
        arguments = [flag for flag in self.settings.values() if flag.argument]
        if arguments:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_dl([(flag.metavar, flag.help) for flag in arguments])
        rest = [one for one in self.get_params(ctx) if one.name not in self.settings]
        common = {one.name: _record(one.opts, getattr(one, "metavar", None), getattr(one, "help", "")) for one in rest}
        preset = common.pop("preset")
        if self.everything:
            self._format_tables(formatter)
            _section(formatter, "Presets", [preset])
        else:
            everyday = sorted((flag for flag in self._options() if flag.words.place is not None), key=_place)
            rows = [_record(flag.words.flags or [flag.long], flag.metavar, flag.help) for flag in everyday]
            _section(formatter, "Settings for every day", [*rows, preset])
        _section(formatter, "Output", common.values())
        if self.below:
            root = ctx.find_root().command_path
            _section(formatter, "Also", [(f"{root} {name} --help", does) for name, does in self.below.items()])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Where to read on."""
        formatter.write_paragraph()
        formatter.write_text(
            "A flag is the path of a setting in a TOML file: --optimizer.lr is lr in [optimizer]. "
            "What is on or off has a --no- form: --no-skip-bad."
            if self.everything
            else f"Every other setting: {ctx.command_path} --help-all"
        )

    def _options(self) -> list[Flag]:
        return [flag for flag in self.settings.values() if not flag.argument]

    def _format_tables(self, formatter: Any) -> None:
        by_table = sorted(self._options(), key=lambda flag: list(self._tables()).index(flag.table))
        for table, flags in groupby(by_table, key=lambda flag: flag.table):
            rows = [_record(dict.fromkeys([*flag.words.flags, flag.long]), flag.metavar, flag.help) for flag in flags]
            _section(formatter, table if table == "run" else f"[{table}]", rows)

    def _tables(self) -> dict[str, None]:
        return dict.fromkeys(flag.table for flag in self._options())


def _place(flag: Flag) -> int:
    return flag.words.place or 0


def _record(flags: Iterable[str], metavar: str | None, text: str) -> tuple[str, str]:
    """("-m, --model TEXT", "Base model ...")"""
    names = ", ".join(sorted(flags, key=lambda flag: flag.startswith("--")))
    return (f"{names} {metavar}" if metavar else names), text


def _section(formatter: Any, heading: str, rows: Iterable[tuple[str, str]]) -> None:
    with formatter.section(heading):
        formatter.write_dl(list(rows), col_max=COLUMN)
