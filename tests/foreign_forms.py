"""The forms of LoRA files in the world, and what each of them can tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests import foreign

SD1 = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
SDXL = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
SD3 = {"transformer": "lora_transformer_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
LYCORIS = {"unet": "lycoris_", "transformer": "lycoris_", "text_encoder": "lycoris_"}
KOHYA, NUMBERED, JOINT = "kohya", "kohya (numbered blocks)", "kohya (joint blocks)"


@dataclass(frozen=True)
class Form:
    """A form of the world: of which family, written how, and what a reader should call it."""

    family: str
    write: Callable[[foreign.Loras], foreign.Tensors]
    form: str
    alphas: bool = True
    """whether it can tell alpha at all; without, it is the rank"""
    text_encoders: tuple[str, ...] = ("text_encoder",)
    layers: str = ".*"
    in_diffusers: bool = False
    """whether diffusers reads it, too, whole"""


BOTH = ("text_encoder", "text_encoder_2")
ATTENTION = r"attn\d?\.|self_attn|mlp"
FORMS = {
    "kohya, SD1": Form("sd1", foreign.with_underscores(SD1), KOHYA, in_diffusers=True),
    "kohya, SD2": Form("sd2", foreign.with_underscores(SD1), KOHYA),
    "kohya, SD1 by blocks' numbers": Form("sd1", foreign.kohya_numbered, NUMBERED),
    "kohya, SDXL": Form("sdxl", foreign.kohya_numbered, NUMBERED, text_encoders=BOTH, in_diffusers=True),
    "kohya, SDXL by diffusers' blocks": Form("sdxl", foreign.with_underscores(SDXL), KOHYA, text_encoders=BOTH),
    "kohya, text encoder flattened": Form("sd1", foreign.flattened(foreign.with_underscores(SD1)), KOHYA),
    "kohya, SD3": Form("sd3", foreign.kohya_joint, JOINT, text_encoders=BOTH),
    "OneTrainer, SD3": Form("sd3", foreign.with_underscores(SD3), "OneTrainer", text_encoders=BOTH),
    "SimpleTuner, SD1": Form("sd1", foreign.with_underscores(LYCORIS), "LyCORIS"),
    "SimpleTuner, SD3": Form("sd3", foreign.with_underscores(LYCORIS), "LyCORIS", text_encoders=()),
    "LyCORIS in sd-scripts' manner": Form(
        "sdxl",
        foreign.with_underscores({part: name.replace("lora", "lycoris") for part, name in SDXL.items()}),
        "LyCORIS",
        text_encoders=BOTH,
    ),
    "ComfyUI, SD1": Form("sd1", foreign.comfyui, "ComfyUI"),
    "ComfyUI, SDXL": Form("sdxl", foreign.comfyui, "ComfyUI", text_encoders=BOTH),
    "ComfyUI, SD3": Form("sd3", foreign.comfyui, "ComfyUI", text_encoders=BOTH),
    "diffusers, SD1": Form(
        "sd1", foreign.dotted(foreign.AB, alpha=False), "diffusers", alphas=False, in_diffusers=True
    ),
    "diffusers, SDXL": Form(
        "sdxl",
        foreign.dotted(foreign.AB, alpha=False),
        "diffusers",
        alphas=False,
        text_encoders=BOTH,
        in_diffusers=True,
    ),
    "diffusers, SD3": Form(
        "sd3", foreign.dotted(foreign.AB, alpha=False), "diffusers", alphas=False, text_encoders=BOTH, in_diffusers=True
    ),
    "diffusers with alpha": Form("sd3", foreign.dotted(foreign.AB), "diffusers", text_encoders=BOTH),
    "diffusers, flattened": Form(
        "sdxl", foreign.flattened(foreign.dotted(foreign.AB)), "diffusers", text_encoders=BOTH
    ),
    "diffusers without a prefix, U-Net": Form("sd1", foreign.dotted(foreign.AB, ""), "diffusers", text_encoders=()),
    "diffusers without a prefix, SD3": Form(
        "sd3", foreign.dotted(foreign.AB, ""), "diffusers", text_encoders=(), layers="blocks"
    ),
    "peft, bare": Form(
        "sd1", foreign.dotted(foreign.AB, "base_model.model.", alpha=False), "peft", alphas=False, text_encoders=()
    ),
    "peft, bare, SD3": Form(
        "sd3",
        foreign.dotted(foreign.AB, "base_model.model.", alpha=False),
        "peft",
        False,
        text_encoders=(),
        layers="blocks",
    ),
    "peft by parts": Form(
        "sdxl", foreign.dotted(foreign.AB, "{part}.base_model.model."), "diffusers", text_encoders=BOTH
    ),
    "peft with the adapter's name": Form(
        "sd1",
        foreign.dotted((".lora_A.default.weight", ".lora_B.default.weight"), "base_model.model."),
        "peft",
        text_encoders=(),
    ),
    "diffusers of 2024": Form("sd1", foreign.linear_layers, "diffusers (old)", alphas=False),
    "diffusers of 2023": Form("sd1", foreign.old_diffusers, "diffusers (old)", alphas=False),
    "diffusers of 2023, attention": Form(
        "sdxl", foreign.old_diffusers, "diffusers (old)", False, text_encoders=BOTH, layers=ATTENTION, in_diffusers=True
    ),
}


def made(form: Form, pipe: Any) -> foreign.Loras:
    """What a file of this form tells of a pipeline."""
    family_parts = ["transformer" if form.family == "sd3" else "unet", *form.text_encoders]
    found = foreign.loras(pipe, family_parts, layers=form.layers)
    if form.in_diffusers and form.alphas:  # which reads one alpha for all modules of a part
        found = {module: replace(one, alpha=2.0) for module, one in found.items()}
    return found if form.alphas else {module: replace(one, alpha=len(one.down)) for module, one in found.items()}
