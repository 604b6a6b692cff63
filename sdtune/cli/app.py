"""The commands, each one line into core, and the door through which every error leaves in one line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sdtune import __version__
from sdtune.cli import console
from sdtune.cli.flags import command
from sdtune.config import Sample, Tables, TrainLora, nearest, read_preset
from sdtune.errors import SdtuneError

app = typer.Typer(
    name="sdtune",
    help="Fine-tune Stable Diffusion with LoRA on the card you own.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="Start: sdtune train-lora FOLDER --rank 8   then: sdtune sample --prompt TEXT --lora runs/FOLDER-1",
)


def _models_preset(given: Tables) -> list[Tables]:
    """The built-in model has settings of its own, which lie under everything that the user says."""
    return [read_preset("mini")] if given.get("model", "mini") == "mini" else []


@app.command("train-lora")
@command(TrainLora, automatic=_models_preset)
def train_lora(config: TrainLora, as_json: bool) -> None:
    """Train a LoRA on a folder of pictures with captions."""
    console.prepare_libraries()
    from sdtune.core.train_lora import train_lora as work

    console.follow(work(config), as_json)


@app.command("sample")
@command(Sample, automatic=lambda given: [])
def sample(config: Sample, as_json: bool) -> None:
    """Draw pictures from prompts, with or without LoRAs."""
    console.prepare_libraries()
    from sdtune.core.sample import sample as work

    console.follow(work(config), as_json)


def _version(asked: bool) -> None:
    if asked:
        print(f"sdtune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong usage or input, 130 or 143 interrupted."""
    try:
        return int(app(arguments, prog_name="sdtune", standalone_mode=False) or 0)
    except SdtuneError as error:
        console.complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        console.complain("interrupted")
        return 130
    except BrokenPipeError:
        console.drop_output()
        return 1
    except typer.Abort:
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own: a misspelt flag or command, a missing argument
            console.complain(_usage(error))
            return int(getattr(error, "exit_code", 2))
        raise


def _usage(error: Exception) -> str:
    """typer's complaint as one line, with the nearest flag or command."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "sdtune"
    wrong = getattr(error, "option_name", None)
    if wrong and context:
        known = [name for parameter in context.command.params for name in parameter.opts]
        near = nearest(wrong, [*known, "--help"])
        return f"{wrong}: no such option of {path}; {near or f'see {path} --help-all'}"
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    return f"{message[0].lower()}{message[1:]}; see {path} --help"


def run() -> None:
    """The console script."""
    sys.exit(main())
