"""How a command that fails leaves: an exit code, and one line for each problem."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from sdtune.cli.console import complain
from sdtune.cli.following import leads
from sdtune.cli.streams import GONE, drop_output
from sdtune.errors import DISK_FULL, FULL, PeersError, SdtuneError, nearest

LESS_MEMORY = (
    "use a smaller --resolution, --batch-size 1, --memory.gradient-checkpointing or a preset for a smaller card, "
    "or close other programs that use the card"
)
_ELSEWHERE = "close other programs, or do this where there is more memory"
LESS_MEMORY_WITHOUT_TRAINING = {
    "eval": "use --batch-size 1, or close other programs that use the card",
    "lora": _ELSEWHERE,
    "merge": _ELSEWHERE,
    "sample": "use --batch-size 1 or a smaller --width and --height, or close other programs that use the card",
}
"""by the first word of the command"""
STRENGTHS = ("--strength", "--strengths", "--weight", "--weights", "--multiplier", "--scale", "--ratio", "--ratios")
"""what other programs call the strength of a LoRA"""
ELSEWHERE = {
    "--cfg": "--guidance",
    "--cfg-scale": "--guidance",
    "--ckpt": "--model",
    "--checkpoint": "--model",
    "--denoise": "--strength",
    "--denoising-strength": "--strength",
    "--batch-count": "--count",
    "--num-images": "--count",
    "--number": "--count",
    "--sampling-method": "--sampler",
    "--scheduler": "--sampler",
    "--hr-scale": "--hires",
    "--upscale": "--hires",
}
"""what other programs that draw call options of ours"""
NO_MEMORY = ("out of memory", "can't allocate memory")  # of CUDA and of PyTorch's CPU allocator


def leave(error: BaseException, given: Sequence[str]) -> int:
    """Tell what went wrong, on standard error and with --json as the last report too, and return the exit code."""
    if isinstance(error, SystemExit):  # a shell's request for completion ends so
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if os.environ.get("SDTUNE_DEBUG"):
        traceback.print_exception(error)
    try:
        if isinstance(error, BrokenPipeError):
            drop_output()
            return GONE
        code, problems = _ending(error, given)
        if isinstance(error, SdtuneError) and not isinstance(error, PeersError) and not leads():
            return code  # the one that leads tells it
        resume = error.resume if isinstance(error, SdtuneError) else None
        for problem in problems:
            complain(problem)
        if "--json" in given:
            told = {"report": "error", "problems": problems, "exit_code": code}
            print(json.dumps(told | ({"resume": resume} if resume else {})))
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        return GONE
    except OSError:
        drop_output()
    return code


def _ending(error: BaseException, given: Sequence[str]) -> tuple[int, list[str]]:
    if isinstance(error, SdtuneError):
        *first, last = error.problems or ("",)
        return error.exit_code, [*first, f"{last}; go on with: {error.resume}" if error.resume else last]
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, ["interrupted"]
    if _is_usage(error):
        return int(getattr(error, "exit_code", 2)), [_usage(error, given)]
    if _is_out_of_memory(error):
        less = LESS_MEMORY_WITHOUT_TRAINING.get("".join(given[:1]), LESS_MEMORY)
        return 1, [f"out of memory ({_first_line(error)}); {less}"]
    if isinstance(error, OSError) and error.errno in FULL:
        place = f"{error.filename}: " if error.filename else ""
        return 1, [f"{place}{DISK_FULL}"]
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: {error.strerror}" if error.filename else f"a file cannot be used: {error.strerror}"
        return 1, [f"{place}; check that place and run it again"]
    told = f"{type(error).__name__}: {_first_line(error)}".rstrip(": ")
    return 1, [f"unexpected: {told}; this is a bug in sdtune; SDTUNE_DEBUG=1 shows the traceback to report"]


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}..."


def _is_out_of_memory(error: BaseException) -> bool:
    """Told by name and words, so that torch need not be imported."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def _is_usage(error: BaseException) -> bool:
    """typer's own complaints: a misspelt flag, a missing value, an argument too many."""
    return hasattr(error, "format_message")


def _usage(error: Any, given: Sequence[str]) -> str:
    """typer's complaint as one line, with the nearest flag."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else " ".join(["sdtune", *given[:1]])
    wrong = getattr(error, "option_name", None)
    if wrong and context and type(error).__name__ == "NoSuchOption":
        known = context.command.params
        every = [name for parameter in known for name in (*parameter.opts, *parameter.secondary_opts) if name[0] == "-"]
        alone = {one.long: one for one in getattr(context.command, "settings", {}).values() if one.argument}
        if wrong in alone:
            return f"{wrong}: is given without a flag; say {path} {alone[wrong].metavar}"
        settings = getattr(context.command, "settings", {}).values()
        if wrong in STRENGTHS and any("[:STRENGTH]" in one.metavar for one in settings):
            return f"{wrong}: no such option of {path}; a strength stands behind its LoRA: cats.safetensors:0.8"
        meant = ELSEWHERE.get(wrong.replace("_", "-"))
        if meant in every:
            return f"{wrong}: no such option of {path}; did you mean {meant}?"
        long = [name for name in every if name.startswith("--")] if wrong.startswith("--") else every
        near = nearest(wrong, [*long, "--help"])
        return f"{wrong}: no such option of {path}; {f'did you mean {near}?' if near else f'see {path} --help'}"
    message = str(error.format_message()).rstrip(".").replace("argument(s)", "argument")
    if message.startswith("Got unexpected extra") and "prompt" in getattr(context and context.command, "settings", {}):
        return f'{message[:1].lower()}{message[1:]}; what to draw stands behind --prompt: {path} --prompt "a red apple"'
    return f"{message[:1].lower()}{message[1:]}; see {path} --help"
