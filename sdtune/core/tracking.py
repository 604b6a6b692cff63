"""Trackers: the figures of a run, sent to tensorboard, wandb or trackio where that is asked for."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import secrets
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

from sdtune.config import TrainLora
from sdtune.core.reports import Note, Report, Step, Validated, Warned
from sdtune.core.run_folder import RunFolder, write_atomically
from sdtune.errors import ConfigError
from sdtune.tables import Track

OFFLINE = ("offline", "disabled", "dryrun")  # of WANDB_MODE
SECRET = re.compile(r"(key|token|secret|password|credentials?)$", re.IGNORECASE)
"""names of variables whose values nobody may read"""
PRIVATE = {"out", "resume"}
"""settings that say where a run lies, which is nobody else's business"""
A_PATH = re.compile(r"[/\\~.]|[A-Za-z]:[\\/]")
"""how a text begins that is a place on this machine"""


def check_trackers(track: Track) -> None:
    """Stop before any work where a tracker is not installed, or would ask for a key."""
    missing = [name for name in track.to if find_spec(name) is None]
    if missing:
        extra = "'sdtune[track]'" if missing == ["tensorboard"] else " ".join(missing)
        verb = "is" if len(missing) == 1 else "are"
        raise ConfigError(f"--track: {' and '.join(missing)} {verb} not installed; pip install {extra}")
    if "wandb" in track.to and not os.environ.get("WANDB_API_KEY") and not _kept_here():
        told = "set WANDB_API_KEY, or WANDB_MODE=offline to keep the figures on this machine"
        raise ConfigError(f"--track wandb: there is no key in the environment; {told}")


class Trackers:
    """Those that were asked for; one that fails is told of once and then left alone, and the training goes on."""

    def __init__(self, config: TrainLora, run: Path, *, leads: bool = True) -> None:
        self._config, self._run = config, run
        self._asked = config.track.to if leads else ()
        """by one process of several alone"""
        self._on: dict[str, Any] = {}

    def start(self, step: int) -> Iterator[Note | Warned]:
        """Begin, or go on after so many steps; tells where the figures go."""
        for name in self._asked:
            problem = self._tried(name, partial(self._started, name, step))
            yield problem or Note(f"figures go to {name}, too{self._place(name)}")

    def log(self, report: Report) -> Iterator[Warned]:
        """Send on a Step or Validated; other reports are none of theirs."""
        if isinstance(report, Step):
            yield from self._each(_log, _of_step(report), report.number)
        elif isinstance(report, Validated):
            yield from self._each(_log, _of_validated(report), report.step)

    def show(self, run: RunFolder, step: int) -> Iterator[Warned]:
        """Send on the samples after so many steps."""
        if self._on:
            yield from self._each(_show, sorted(run.sample(step, 1).parent.glob(f"step-{step:06d}-*.png")), step)

    def close(self) -> list[Warned]:
        """Finish, so that nothing that was told is lost."""
        problems = [self._tried(name, tracker.finish) for name, tracker in self._on.items()]
        self._on = {}
        return [problem for problem in problems if problem]

    def _each(self, work: Callable[[Any, Any, int], None], what: object, step: int) -> Iterator[Warned]:
        for name, tracker in list(self._on.items()):
            problem = self._tried(name, partial(work, tracker, what, step))
            if problem:
                del self._on[name]
                yield problem

    def _started(self, name: str, step: int) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        made = LOGGER_TYPE_TO_CLASS[name]
        settings = plain_settings(self._config)
        if made.requires_logging_directory:
            # What a killed run told of later steps does not count any more.
            tracker = made(".", self._run / name, **({"purge_step": step + 1} if step else {}))
            tracker.start()
            if not step:
                told = json.dumps(settings, indent=4, ensure_ascii=False)
                tracker.log({"settings": "".join(f"    {line}\n" for line in told.splitlines())}, step=0)
        else:
            tracker = made(self._config.track.project, **self._asked_of(name))
            tracker.start()
            tracker.store_init_configuration(settings)
        self._on[name] = tracker

    def _asked_of(self, name: str) -> dict[str, Any]:
        """What its init is called with; nothing of the machine goes along."""
        told = {"name": self._run.resolve().name, "resume": "allow"}
        if name != "wandb":
            return told
        quiet = {"silent": True, "console": "off", "disable_git": True, "save_code": False, "disable_code": True}
        alone = {"x_disable_meta": True, "x_disable_machine_info": True, "x_disable_stats": True, "host": "hidden"}
        return told | {"id": self._identity(), "dir": str(self._run), "settings": quiet | alone}

    def _identity(self) -> str:
        """The same for a run that is resumed, and for no other."""
        path = self._run / "tracking.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(path.read_text(encoding="utf-8"))["id"])
        identity = secrets.token_hex(8)
        write_atomically(path, lambda file: file.write_text(json.dumps({"id": identity}), encoding="utf-8"))
        return identity

    def _place(self, name: str) -> str:
        """How they are looked at."""
        if name == "tensorboard":
            return f": tensorboard --logdir {shlex.quote(str(self._run / name))}"
        if name == "trackio":
            return f": trackio show --project {shlex.quote(self._config.track.project)}"
        return f", which keeps them in {self._run / name}" if _kept_here() else ""

    def _tried(self, name: str, work: Callable[[], object]) -> Warned | None:
        """What a tracker prints is dropped: on standard output are results, and above a bar what sdtune says."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                work()
        except (Exception, SystemExit) as error:
            told = " ".join(without_secrets(str(error)).split()) or type(error).__name__
            return Warned(f"{name} is left alone from here on, as it failed: {told[:200]}; the training goes on")
        return None


def _log(tracker: Any, values: dict[str, float], step: int) -> None:
    tracker.log(values, step=step)


def _show(tracker: Any, pictures: Sequence[Path], step: int) -> None:
    import numpy as np
    from PIL import Image

    if not pictures or not hasattr(tracker, "log_images"):
        return
    shown = []
    for path in pictures:
        with Image.open(path, formats=["PNG"]) as image:
            shown.append(np.asarray(image.convert("RGB")))
    form = {"dataformats": "NHWC"} if tracker.requires_logging_directory else {}
    tracker.log_images({"samples": np.stack(shown)}, step=step, **form)


def plain_settings(config: TrainLora) -> dict[str, str | int | float | bool]:
    """{"optimizer.lr": 1e-4, ...}: what a run was set to, of places on this machine no more than the last name."""
    return dict(_flat("", config.model_dump(mode="json", exclude_none=True, exclude=PRIVATE)))


def without_secrets(text: str) -> str:
    """The text with the values of keys and tokens in the environment blotted out."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= 6:
            text = text.replace(value, "***")
    return text


def _flat(path: str, value: Any) -> Iterator[tuple[str, str | int | float | bool]]:
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _flat(f"{path}.{name}" if path else name, one)
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        for number, one in enumerate(value):
            yield from _flat(f"{path}.{number}", one)
    elif isinstance(value, list):
        yield path, ", ".join(_named(one) for one in value)
    else:
        yield path, value if isinstance(value, int | float | bool) else _named(value)


def _named(value: object) -> str:
    text = str(value)
    named = PurePath(text.replace("\\", "/")).name if A_PATH.match(text) or os.path.exists(text) else text
    home = os.path.expanduser("~")
    return without_secrets(named.replace(home, "~") if len(home) > 1 else named)


def _kept_here() -> bool:
    return os.environ.get("WANDB_MODE", "").lower() in OFFLINE or os.environ.get("WANDB_DISABLED", "").lower() == "true"


def _of_step(step: Step) -> dict[str, float]:
    told = {
        "train/loss": step.loss,
        "train/loss_average": step.loss_average,
        "train/lr": step.lr,
        "speed/images_per_second": step.images_per_second,
        "speed/memory_gb": step.memory,
    }
    return {name: value for name, value in told.items() if value is not None}


def _of_validated(report: Validated) -> dict[str, float]:
    return {
        "validation/held_out": report.held_out.loss,
        "validation/held_out_relative": report.held_out.relative,
        "validation/trained": report.trained.loss,
        "validation/trained_relative": report.trained.relative,
        "validation/gap": report.held_out.relative - report.trained.relative,
        "validation/best_step": report.best,
    }
