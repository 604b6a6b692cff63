"""The commands, each one line into core; a command is built, with all its settings, when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sdtune import __version__
from sdtune.cli.console import prepare_libraries
from sdtune.cli.following import follow
from sdtune.errors import ConfigError, nearest

CONTEXT = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}  # longer lines of text read badly


def caption(config: Any, as_json: bool) -> None:
    """Describe the pictures of a data set, or put its captions right."""
    prepare_libraries()
    from sdtune.core.caption import caption as work

    follow(work(config), as_json)


def prepare(config: Any, as_json: bool) -> None:
    """Make a data set that training can trust out of folders, archives and files."""
    prepare_libraries()
    from sdtune.core.prepare import prepare as work

    follow(work(config), as_json)


def train_lora(config: Any, as_json: bool) -> None:
    """Train a LoRA on a folder of pictures with captions."""
    prepare_libraries()
    from sdtune.core.train_lora import train_lora as work

    follow(work(config), as_json)


def sample(config: Any, as_json: bool) -> None:
    """Draw pictures from prompts, with or without LoRAs."""
    prepare_libraries()
    from sdtune.core.sample import sample as work

    follow(work(config), as_json)


def evaluate(config: Any, as_json: bool) -> None:
    """Tell how good LoRAs are, whether they copy, and which to use at what strength."""
    prepare_libraries()
    from sdtune.core.evaluate import evaluate as work

    follow(work(config), as_json)


def evaluate_compare(config: Any, as_json: bool) -> None:
    """Tell which of two LoRAs is better, measure by measure."""
    prepare_libraries()
    from sdtune.core.evaluate_compare import evaluate_compare as work

    follow(work(config), as_json)


def merge(config: Any, as_json: bool) -> None:
    """Put LoRAs into a base model, or several LoRAs into one."""
    prepare_libraries()
    from sdtune.core.merge import merge as work

    follow(work(config), as_json)


def lora_inspect(config: Any, as_json: bool) -> None:
    """Tell what a LoRA file is: family, rank, trigger, training, norms."""
    prepare_libraries()
    from sdtune.core.inspect_lora import inspect_lora as work

    follow(work(config), as_json)


def lora_convert(config: Any, as_json: bool) -> None:
    """Write a LoRA in another form."""
    prepare_libraries()
    from sdtune.core.convert_lora import convert_lora as work

    follow(work(config), as_json)


def lora_resize(config: Any, as_json: bool) -> None:
    """Bring a LoRA to a lower rank by SVD, and tell what is lost."""
    prepare_libraries()
    from sdtune.core.resize_lora import resize_lora as work

    follow(work(config), as_json)


def lora_extract(config: Any, as_json: bool) -> None:
    """Make a LoRA out of what sets two models apart."""
    prepare_libraries()
    from sdtune.core.extract_lora import extract_lora as work

    follow(work(config), as_json)


def lora_diff(config: Any, as_json: bool) -> None:
    """Tell what sets two LoRAs apart."""
    prepare_libraries()
    from sdtune.core.diff_loras import diff_loras as work

    follow(work(config), as_json)


def cache(config: Any, as_json: bool) -> None:
    """Tell what the cache holds, and remove what is no longer used."""
    prepare_libraries()
    from sdtune.core.cache import cache as work

    follow(work(config), as_json)


def runs(config: Any, as_json: bool) -> None:
    """List trainings, what came of them and what sets them apart."""
    prepare_libraries()
    from sdtune.core.runs import runs as work

    follow(work(config), as_json)


COMMANDS: dict[str, tuple[Callable[[Any, bool], None], str]] = {
    "prepare": (prepare, "Prepare"),
    "caption": (caption, "Caption"),
    "train-lora": (train_lora, "TrainLora"),
    "sample": (sample, "Sample"),
    "eval": (evaluate, "Evaluate"),
    "eval compare": (evaluate_compare, "EvaluateCompare"),
    "merge": (merge, "Merge"),
    "lora inspect": (lora_inspect, "inspect_config.LoraInspect"),
    "lora convert": (lora_convert, "LoraConvert"),
    "lora resize": (lora_resize, "LoraResize"),
    "lora extract": (lora_extract, "LoraExtract"),
    "lora diff": (lora_diff, "inspect_config.LoraDiff"),
    "runs": (runs, "Runs"),
    "cache": (cache, "CacheFolder"),
}
"""name -> what it does, and the class of its settings, in config.py where no other file is named; names of two words
share the first one, which may be a command itself: what stands behind it is then a second word of these, or its
argument"""


class Commands(TyperGroup):
    """The commands by name, none of them built before it is asked for."""

    above = ""
    """what stands before the names of these commands: "lora " of those that are typed as sdtune lora inspect"""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 (typer's signature)
        """Their names, in the order of use."""
        return list(dict.fromkeys(name.partition(" ")[0] for name in self._names()))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 (typer's signature)
        """The command with a flag for each of its settings; of a first word alone, those that begin with it."""
        name = self.above + cmd_name
        if name in BELOW:
            return Below(name, name=cmd_name, help=BELOW[name], context_settings=CONTEXT, rich_markup_mode=None)
        if name not in COMMANDS:
            return None
        from sdtune.cli.flags import built

        work, settings = COMMANDS[name]
        place, _, kind = settings.rpartition(".")
        below = {one: _does(one) for one in COMMANDS if one.startswith(f"{name} ")}
        return built(name, getattr(import_module(f"sdtune.{place or 'config'}"), kind), work, below)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command named by the first argument, or by the first two."""
        known = self.list_commands(ctx)
        if not args[0].strip():
            raise ConfigError(f"the name of the command is empty; choose one of {', '.join(known)}")
        if args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            near = self._meant(args[0])
            remedy = f"did you mean sdtune {near}?" if near else f"choose one of {', '.join(known)}"
            raise ConfigError(f"{self.above}{args[0]}: no such command; {remedy}")
        if " ".join(args[:2]) in COMMANDS:
            name = " ".join(args[:2])
            return name, self.get_command(ctx, name), args[2:]
        return super().resolve_command(ctx, args)

    def _meant(self, word: str) -> str | None:
        """The whole name of the command that a wrong word most likely means; it may stand elsewhere."""
        here = {name: self.above + name for name in self.list_commands(None)}
        every = {name.rpartition(" ")[2]: name for name in COMMANDS}
        near = word if word in every else nearest(word, here) or nearest(word, every)
        near = near or next((name for name in here if word.startswith(name)), None)
        return (every | here)[near] if near else None

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """What --help shows below the first sentence."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _does(self.above + name)) for name in self._names()])
        with formatter.section("Options"):
            formatter.write_dl([record for one in self.get_params(ctx) if (record := one.get_help_record(ctx))])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 (typer's signature)
        """What to type first."""
        with formatter.section("Start"):
            formatter.write_dl(
                [("sdtune train-lora FOLDER --rank 8", ""), ("sdtune sample --prompt TEXT --lora runs/FOLDER-1", "")]
            )

    def _names(self) -> list[str]:
        return [name.removeprefix(self.above) for name in COMMANDS if name.startswith(self.above)]


BELOW = {"lora": "Look into LoRA files, and make other ones of them."}
"""what is said of commands that share their first word"""


class Below(Commands):
    """Those that share their first word."""

    def __init__(self, above: str, **options: Any) -> None:
        super().__init__(**options)
        self.above = f"{above} "

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What is left over of the command line."""
        if not args and not ctx.resilient_parsing:
            raise ConfigError(f"{ctx.command_path}: say what to do; choose one of {', '.join(self.list_commands(ctx))}")
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Where to read on."""
        formatter.write_paragraph()
        formatter.write_text(f"What one of them can be told: {ctx.command_path} COMMAND --help")


def commands() -> Any:
    """The whole command line."""
    app = typer.Typer(cls=Commands, rich_markup_mode=None, context_settings=CONTEXT)
    app.callback(help="Fine-tune Stable Diffusion with LoRA on the card you own.")(_root)
    return typer.main.get_command(app)


def _does(name: str) -> str:
    """What a command does, in a sentence."""
    return COMMANDS[name][0].__doc__ or ""


def _version(asked: bool) -> None:
    if asked:
        print(f"sdtune {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and leave.")
    ] = False,
) -> None:
    pass
