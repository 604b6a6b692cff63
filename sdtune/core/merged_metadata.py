"""What a merged model says of itself: the ModelSpec of its files, and which noise it was trained in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.core.applied import Applied
from sdtune.core.config_file import config_of
from sdtune.core.families import Family
from sdtune.core.header import read_header
from sdtune.core.identity import Identity
from sdtune.core.merge_out import is_file
from sdtune.core.out_file import SUFFIX
from sdtune.core.shareable import clean
from sdtune.errors import ModelError

MARKS = ("v_pred", "ztsnr")
"""empty tensors by which programs know v prediction, and noise without any signal, in a file"""
INHERITED = ("modelspec.license", "modelspec.author", "modelspec.resolution", "modelspec.encoder_layer")
"""what holds of the merged model as of its base"""
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
"""diffusers' name -> ModelSpec's"""
LONGEST = 2**16
"""bytes of a value"""
IMPLEMENTATION = "https://github.com/Stability-AI/generative-models"
"""that reads the original layout"""


@dataclass(frozen=True)
class Noise:
    """How a model was trained, as its configs or its file tell."""

    prediction: str | None
    """as diffusers names it; None where it is not told, and for flows"""
    ztsnr: bool
    """whether its noise goes all the way to zero signal"""

    @property
    def v_pred(self) -> bool:
        """Whether it is known to predict v."""
        return self.prediction == "v_prediction"


def noise_of(identity: Identity, configs: Path | None) -> Noise:
    """Of a folder by its scheduler, of a file by itself."""
    if identity.source == "file":
        return Noise(identity.prediction, identity.zero_snr)
    assert configs, "a folder has configs"
    scheduler = config_of(configs / "scheduler" / "scheduler_config.json")
    is_flow = "Flow" in str(scheduler.get("_class_name"))
    prediction = None if is_flow else scheduler.get("prediction_type", "epsilon")
    return Noise(prediction, scheduler.get("rescale_betas_zero_snr") is True)


def metadata_of(
    out: Path, identity: Identity, family: Family, configs: Path | None, noise: Noise, applied: Sequence[Applied]
) -> dict[str, str]:
    """Names and no paths; what it is called, made of and called up by; `configs` is a folder that has the base's."""
    told: dict[str, str] = {}
    if identity.source == "file":
        of_base = read_header(Path(identity.location), ModelError).metadata
        told = {key: of_base[key] for key in INHERITED if key in of_base}
    prediction = PREDICTIONS.get(noise.prediction or "")
    architectures = {family.architecture(one) for one in ([prediction] if prediction else family.predictions)}
    if len(architectures) == 1:
        told["modelspec.architecture"] = architectures.pop()
    if prediction:
        told["modelspec.prediction_type"] = prediction
    triggers = [one.lora.metadata.get("modelspec.trigger_phrase", "") for one in applied]
    if trigger := ", ".join(dict.fromkeys(filter(None, triggers))):
        told["modelspec.trigger_phrase"] = trigger
    side = (_side(configs, family) if configs else None) or family.resolution
    told.setdefault("modelspec.resolution", f"{side}x{side}")
    told |= {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": IMPLEMENTATION if is_file(out) else "diffusers",
        "modelspec.title": out.name.removesuffix(SUFFIX),
        "modelspec.merged_from": ", ".join(
            [Path(identity.name).name, *(f"{one.shown.removesuffix(SUFFIX)}:{one.strength.usual:g}" for one in applied)]
        ),
    }
    return clean({key: _shortened(value) for key, value in told.items()})


def _shortened(value: str) -> str:
    """As files may have it, whatever the LoRAs' triggers are."""
    told = value.encode()
    return value if len(told) <= LONGEST else told[:LONGEST].decode(errors="ignore") + " ..."


def _side(configs: Path, family: Family) -> int | None:
    """Pixels of a square picture that the denoiser was made for, where its config tells."""
    latents = config_of(configs / family.denoiser / "config.json").get("sample_size")
    levels = config_of(configs / "vae" / "config.json").get("block_out_channels")
    return latents * 2 ** (len(levels) - 1) if isinstance(latents, int) and isinstance(levels, list) else None
