"""ComfyUI's own code: a checkpoint told apart, a LoRA put in, its weights computed."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from tools.interop.borrowed import importing
from tools.interop.layout import Place
from tools.interop.outcome import STRENGTH, Changes, Program, Weight
from tools.interop.released import Released

UNUSED = frozenset({"torchvision", "torchaudio"})
CLIPS = {
    "sd1": {"text_encoder": "clip_l"},
    "sd2": {"text_encoder": "clip_h"},
    "sdxl": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
    "sd3": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
}
"""family -> part -> its name there"""


class ComfyUI(Program):
    """Its package `comfy`, on the CPU."""

    def __init__(self, repository: Path, version: str) -> None:
        self.name = f"ComfyUI {version}"
        with importing(repository, UNUSED):
            importlib.import_module("comfy.cli_args").args.cpu = True
            self._sd = importlib.import_module("comfy.sd")
            self._lora = importlib.import_module("comfy.lora")
            self._utils = importlib.import_module("comfy.utils")
            self._memory: Any = importlib.import_module("comfy.model_management")
        self._open: tuple[Released, Any, Any] | None = None

    def checkpoint(self, tensors: dict[str, Tensor]) -> tuple[Any, Any, list[str]]:
        """The denoiser and the text encoders of a checkpoint, without their numbers, and what it says of the keys."""
        meta = torch.device("meta")
        where, put = self._memory.unet_inital_load_device, self._memory.load_models_gpu
        self._memory.unet_inital_load_device = lambda *_: meta
        self._memory.load_models_gpu = lambda *_, **__: None
        try:
            with _heard() as told, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of numbers that the meta device does not keep
                model, clip, _, _ = self._sd.load_state_dict_guess_config(
                    dict(tensors), output_vae=False, te_model_options={"initial_device": meta}
                )
        finally:
            self._memory.unet_inital_load_device, self._memory.load_models_gpu = where, put
        return model, clip, told

    @override
    def changes(self, path: Path, released: Released, modules: Collection[str], weight: Weight) -> Changes:
        if self._open is None or self._open[0] is not released:
            self._open = (released, *self.checkpoint(released.checkpoint)[:2])
        _, model, clip = self._open
        with _heard() as told:
            lora = self._utils.load_torch_file(str(path), safe_load=True)
            patched, encoders = self._sd.load_lora_for_models(model, clip, lora, STRENGTH, STRENGTH)
        patches = patched.patches | encoders.patcher.patches
        nets = (model.model, clip.cond_stage_model)
        shapes = {key: tuple(value.shape) for net in nets for key, value in net.state_dict().items()}

        def change(module: str) -> tuple[Tensor, Tensor] | None:
            place = place_of(released, module)
            if place.key not in patches:
                return None
            before = weight(place.key, shapes[place.key])
            after = self._lora.calculate_weight(patches[place.key], before.clone(), place.key)
            return place.rows(before), place.rows(after) - place.rows(before)

        meant = {place_of(released, module).key for module in modules}
        return Changes(change, len(patches.keys() - meant), tuple(told))


def place_of(released: Released, module: str) -> Place:
    """Where a module's weights lie in memory there; text encoders' are those of transformers."""
    part, _, path = module.partition(".")
    clips = CLIPS[released.family]
    if part in clips:
        return Place(f"{clips[part]}.transformer.{path}.weight", 0, released.shapes[f"{module}.weight"][0])
    place = released.places[f"{module}.weight"]
    return Place(place.key.removeprefix("model."), place.start, place.end)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Warnings that are logged meanwhile."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    others, root.handlers = root.handlers, [handler]
    try:
        yield told
    finally:
        root.handlers = others
