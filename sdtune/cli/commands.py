"""The commands, each one line into core; a command is built, with all its settings, when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
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
    "runs": (runs, "Runs"),
    "cache": (cache, "CacheFolder"),
}
"""name -> what it does, and the class of its settings in config.py"""


class Commands(TyperGroup):
    """The commands by name, none of them built before it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 (typer's signature)
        """Their names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 (typer's signature)
        """The command with a flag for each of its settings."""
        if cmd_name not in COMMANDS:
            return None
        from sdtune import config
        from sdtune.cli.flags import built

        work, settings = COMMANDS[cmd_name]
        return built(cmd_name, getattr(config, settings), work)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command named by the first argument."""
        if not args[0].strip():
            raise ConfigError(f"the name of the command is empty; choose one of {', '.join(COMMANDS)}")
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            near = nearest(args[0], COMMANDS)
            known = f"did you mean sdtune {near}?" if near else f"choose one of {', '.join(COMMANDS)}"
            raise ConfigError(f"{args[0]}: no such command; {known}")
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """What --help shows below the first sentence."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, work.__doc__) for name, (work, _) in COMMANDS.items()])
        with formatter.section("Options"):
            formatter.write_dl([record for one in self.get_params(ctx) if (record := one.get_help_record(ctx))])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 (typer's signature)
        """What to type first."""
        with formatter.section("Start"):
            formatter.write_dl(
                [("sdtune train-lora FOLDER --rank 8", ""), ("sdtune sample --prompt TEXT --lora runs/FOLDER-1", "")]
            )


def commands() -> Any:
    """The whole command line."""
    app = typer.Typer(cls=Commands, rich_markup_mode=None, context_settings=CONTEXT)
    app.callback(help="Fine-tune Stable Diffusion with LoRA on the card you own.")(_root)
    return typer.main.get_command(app)


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
