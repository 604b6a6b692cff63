"""LoRA files as other programs write them, each by its own rules, out of known matrices."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests import original

Tensors = dict[str, torch.Tensor]


def of(name: str, **shapes: tuple[int, ...]) -> Tensors:
    """Ones for the roles of a module; __ stands for a dot."""
    return {f"{name}.{role.replace('__', '.')}": torch.ones(shape) for role, shape in shapes.items()}


def plain(name: str, width: int = 8) -> Tensors:
    """A LoRA of one module with so many inputs."""
    return of(name, lora_down__weight=(4, width), lora_up__weight=(8, 4))


@dataclass(frozen=True)
class Matrices:
    """What a LoRA adds to one layer."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def delta(self) -> torch.Tensor:
        return self.alpha / self.down.shape[0] * self.up.flatten(1) @ self.down.flatten(1)


Loras = dict[str, Matrices]
"""{part and diffusers' path, text encoders' with text_model.: matrices}"""

FUSED = {"to_q": "q", "to_k": "k", "to_v": "v", "add_q_proj": "q", "add_k_proj": "k", "add_v_proj": "v"}


def loras(pipe: Any, parts: list[str], *, layers: str = ".*", alphas: bool = True, rank: int = 3) -> Loras:
    """Random matrices for the layers of a pipeline whose paths are like that; alphas: each module has one of its own.

    Query, key and value of an attention share down and alpha, as they do where they are one matrix.
    """
    generator = torch.Generator().manual_seed(2)
    made: Loras = {}
    shared: dict[str, Matrices] = {}
    for part in parts:
        for path, layer in getattr(pipe, part).named_modules():
            matrix, convolution = isinstance(layer, torch.nn.Linear), isinstance(layer, torch.nn.Conv2d)
            if not (matrix or convolution) or not re.search(layers, path):
                continue
            weight = layer.weight
            down = torch.randn(rank, *weight.shape[1:], generator=generator)
            up = torch.randn(weight.shape[0], rank, *([1, 1] if convolution else []), generator=generator)
            alpha = 0.5 + len(made) % 5 if alphas else 2.0
            one = Matrices(down, up, alpha)
            if part == "transformer" and path.rpartition(".")[2] in FUSED:
                side = "context" if "add_" in path else "x"
                first = shared.setdefault(f"{path.rpartition('.')[0]} {side}", one)
                one = replace(first, up=up)
            inside = f"text_model.{path.removeprefix('text_model.')}"
            is_text = part.startswith("text_encoder") and path != "text_projection"
            made[f"{part}.{inside if is_text else path}"] = one
    return made


def _split(module: str) -> tuple[str, str]:
    part, _, path = module.partition(".")
    return part, path


def _kohya(name: str, one: Matrices, *, alpha: bool = True) -> Tensors:
    found = {f"{name}.lora_down.weight": one.down, f"{name}.lora_up.weight": one.up}
    return found | {f"{name}.alpha": torch.tensor(one.alpha)} if alpha else found


def with_underscores(prefixes: dict[str, str]) -> Callable[[Loras], Tensors]:
    """Paths of diffusers with underscores for dots."""

    def write(loras: Loras) -> Tensors:
        found: Tensors = {}
        for module, one in loras.items():
            part, path = _split(module)
            found |= _kohya(f"{prefixes[part]}{path.replace('.', '_')}", one)
        return found

    return write


def kohya_numbered(loras: Loras) -> Tensors:
    """sd-scripts' form of SDXL: the U-Net is that of the first publication."""
    found: Tensors = {}
    for module, one in loras.items():
        part, path = _split(module)
        number = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
        name = f"lora_unet_{_original(path, loras)}" if part == "unet" else f"{number[part]}_{path}"
        found |= _kohya(name.replace(".", "_"), one)
    return found


def _original(path: str, loras: Loras) -> str:
    entered = [_split(module)[1] for module in loras if module.endswith(".proj_in")]
    every = {entrance.replace("proj_in", "norm.weight"): torch.zeros(1) for entrance in entered}
    return original._unet(f"{path}.weight", every).removesuffix(".weight")


def _joint(path: str) -> str:
    """A path of diffusers' SD3 in that of its first publication, but for q, k and v, which are one there."""
    block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", path)
    if not block:
        pairs = {
            "context_embedder": "context_embedder",
            "pos_embed.proj": "x_embedder.proj",
            "proj_out": "final_layer.linear",
            "norm_out.linear": "final_layer.adaLN_modulation.1",
            "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
            "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
            "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
            "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        }
        return pairs[path]
    rest = block[2]
    side = "context" if re.search(r"add_|context", rest) else "x"
    rest = re.sub(r"^norm1(_context)?\.linear", "adaLN_modulation.1", rest)
    rest = re.sub(r"^ff(_context)?\.net\.0\.proj", "mlp.fc1", rest)
    rest = re.sub(r"^ff(_context)?\.net\.2", "mlp.fc2", rest)
    rest = re.sub(r"to_out\.0|to_add_out", "proj", rest)
    rest = re.sub(r"(to_[qkv]|add_[qkv]_proj)$", "qkv", rest)
    return f"joint_blocks.{block[1]}.{side}_block.{rest}"


def _of_first_publication(loras: Loras) -> Loras:
    """SD3's transformer with its own names: q, k and v one, and its last modulations shift first and scale then."""
    found: Loras = {}
    last = max(int(number) for number in re.findall(r"transformer_blocks\.(\d+)\.", " ".join(loras)))
    in_order = sorted(loras, key=lambda module: "qkv".find(FUSED.get(module.rpartition(".")[2], "q")))
    for module in in_order:
        one, path = loras[module], _split(module)[1]
        up = one.up
        if path in ("norm_out.linear", f"transformer_blocks.{last}.norm1_context.linear"):
            up = torch.cat(up.chunk(2)[::-1])
        name = _joint(path)
        found[name] = replace(one, up=torch.cat([found[name].up, up]) if name in found else up)
    return found


def _apart(loras: Loras) -> tuple[Loras, Loras]:
    """The transformer's, and those of text encoders."""
    inside = {module: one for module, one in loras.items() if module.startswith("transformer.")}
    return inside, {module: one for module, one in loras.items() if module not in inside}


def kohya_joint(loras: Loras) -> Tensors:
    """sd-scripts' form of SD3."""
    found: Tensors = {}
    inside, texts = _apart(loras)
    for name, one in _of_first_publication(inside).items():
        found |= _kohya(f"lora_unet_{name.replace('.', '_')}", one)
    return found | with_underscores({"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"})(texts)


def comfyui(loras: Loras) -> Tensors:
    """ComfyUI's generic form (comfy/lora.py): names of its models in memory."""
    inside, others = _apart(loras)
    found: Tensors = {}
    for name, one in (_of_first_publication(inside) if inside else {}).items():
        found |= _kohya(f"diffusion_model.{name}", one)
    for module, one in others.items():
        part, path = _split(module)
        clip = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
        name = (
            f"diffusion_model.{_original(path, loras)}"
            if part == "unet"
            else f"text_encoders.{clip[part]}.transformer.{path}"
        )
        found |= _kohya(name, one)
    return found


def dotted(letters: tuple[str, str], prefix: str = "{part}.", *, alpha: bool = True) -> Callable[[Loras], Tensors]:
    def write(loras: Loras) -> Tensors:
        found: Tensors = {}
        for module, one in loras.items():
            part, path = _split(module)
            name = prefix.format(part=part) + path
            found |= {f"{name}{letters[0]}": one.down, f"{name}{letters[1]}": one.up}
            if alpha:
                found[f"{name}.alpha"] = torch.tensor(one.alpha)
        return found

    return write


AB = (".lora_A.weight", ".lora_B.weight")


def old_diffusers(loras: Loras) -> Tensors:
    """diffusers of 2023: attention processors, and text encoders without q_proj's own name."""
    found: Tensors = {}
    for module, one in loras.items():
        part, path = _split(module)
        if part.startswith("text_encoder"):
            if ".self_attn." in path:
                path = re.sub(r"(q|k|v|out)_proj$", r"to_\1_lora", path)
            else:
                path = f"{path}.lora_linear_layer"
        elif re.search(r"\.attn[12]\.", path):
            path = re.sub(r"\.(attn[12])\.(to_[qkv]|to_out)(\.0)?$", r".\1.processor.\2_lora", path)
        else:
            path = f"{path}.lora"
        found |= {f"{part}.{path}.down.weight": one.down, f"{part}.{path}.up.weight": one.up}
    return found


def linear_layers(loras: Loras) -> Tensors:
    """diffusers of 2024: lora_linear_layer in text encoders, .lora. elsewhere."""
    found: Tensors = {}
    for module, one in loras.items():
        inner = "lora_linear_layer" if module.startswith("text_encoder") else "lora"
        found |= {f"{module}.{inner}.down.weight": one.down, f"{module}.{inner}.up.weight": one.up}
    return found


def flattened(write: Callable[[Loras], Tensors]) -> Callable[[Loras], Tensors]:
    """The same with text encoders as transformers names them since 5.6: without text_model."""
    return lambda loras: {re.sub(r"text_model[._]", "", key): value for key, value in write(loras).items()}


def saved(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    """The tensors in a file."""
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path, metadata)
    return path


def peft_settings(found: Loras, *, part: str | None = None, stabilised: bool = False) -> str:
    """adapter_config.json, or what diffusers keeps of it in the metadata, by part."""
    alphas = {_split(module)[1]: one.alpha for module, one in found.items()}
    usual = next(iter(alphas.values()))
    pattern = {path.removeprefix("text_model."): alpha for path, alpha in alphas.items() if alpha != usual}
    told = {"r": 3, "lora_alpha": usual, "alpha_pattern": pattern, "use_rslora": stabilised, "peft_type": "LORA"}
    return json.dumps({f"{part}.{key}" if part else key: value for key, value in told.items()})
