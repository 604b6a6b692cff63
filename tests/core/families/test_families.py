"""Every family, by being there: its layers, its conditioning, and how it asks the denoiser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sdtune.core.families import Family, families, family_named
from sdtune.errors import ModelError
from tests import tiny

CAPTIONS = ["a red apple", "", "an apple, red"]


def encoded(family: Family, pipe: Any, captions: list[str]) -> dict[str, torch.Tensor]:
    """All that the denoiser is told of these captions, of square images of 64 pixels."""
    sizes = family.condition_on_size((64, 64), (0, 0), (64, 64))
    rows = {name: torch.stack([value] * len(captions)) for name, value in sizes.items()}
    with torch.no_grad():
        return family.encode_captions(pipe, captions) | rows


def test_a_family_is_found_by_its_file() -> None:
    folder = Path(__file__).parents[3] / "sdtune" / "core" / "families"
    files = {file.stem for file in folder.glob("*.py")} - {"__init__", "base", "clip", "unet"}
    assert set(families()) == files
    assert all(family.name == name for name, family in families().items())


def test_an_unknown_name_is_told_with_those_there_are() -> None:
    with pytest.raises(ModelError, match="sd9: no such model family; there are sd1, sd2, sd3, sdxl"):
        family_named("sd9")


def test_says_of_itself_what_its_pipeline_has(family_name: str) -> None:
    family, pipe = family_named(family_name), tiny.pipeline(family_name)
    assert type(pipe).__name__ == family.pipeline
    parts = set(pipe.components)
    assert {family.denoiser, *family.text_encoders, *family.optional_parts, *family.kohya_prefixes} <= parts | {
        "image_encoder"
    }
    assert set(family.kohya_prefixes) == {family.denoiser, *family.text_encoders}
    assert family.models


@pytest.mark.parametrize("layers", ["attention", "attention+ff", "attention+ff+conv"])
def test_targets_are_the_layers_that_are_named_and_nothing_else(family_name: str, layers: str) -> None:
    family = family_named(family_name)
    net = getattr(tiny.pipeline(family_name), family.denoiser)
    matrices = {path for path, layer in net.named_modules() if isinstance(layer, torch.nn.Linear)}
    within = {path for path in matrices if "transformer_blocks." in path and "norm" not in path}
    if layers == "attention":
        within = {path for path in within if ".ff" not in path}
    if layers == "attention+ff+conv":
        within |= {path for path, _ in net.named_modules() if ".resnets." in path and path.endswith(("conv1", "conv2"))}
    targets = {path for path, _ in net.named_modules() if re.fullmatch(family.lora_targets(layers), path)}
    assert targets == within


def test_denoising_equals_what_the_pipeline_does(family_name: str) -> None:
    """diffusers' own call of the denoiser at one step, captured, with the same latents and captions."""
    family, pipe = family_named(family_name), tiny.pipeline(family_name)
    net = getattr(pipe, family.denoiser)
    seen: dict[str, Any] = {}

    def capture(_: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        seen.update(latents=kwargs.get("hidden_states", args[0] if args else None), result=result[0])
        seen.update(timestep=kwargs.get("timestep", args[1] if len(args) > 1 else None))

    hook = net.register_forward_hook(capture, with_kwargs=True)
    side = 64
    pipe.set_progress_bar_config(disable=True)
    pipe("a red apple", num_inference_steps=1, guidance_scale=0.0, height=side, width=side, output_type="latent")
    hook.remove()
    with torch.no_grad():
        told = encoded(family, pipe, ["a red apple"])
        mine = family.denoise(net, seen["latents"], seen["timestep"].reshape(-1)[:1], told)
    torch.testing.assert_close(mine, seen["result"])


def test_captions_are_told_apart_and_one_by_one_as_together(family_name: str) -> None:
    family, pipe = family_named(family_name), tiny.pipeline(family_name)
    with torch.no_grad():
        together = family.encode_captions(pipe, CAPTIONS)
        apart = [family.encode_captions(pipe, [caption]) for caption in CAPTIONS]
    for row, alone in enumerate(apart):
        for name, value in together.items():
            assert len(value) == len(CAPTIONS)
            torch.testing.assert_close(value[row : row + 1], alone[name], rtol=1e-4, atol=1e-5)
    assert not torch.equal(*together["encoder_hidden_states"][:2])


def test_every_condition_matters(family_name: str) -> None:
    family, pipe = family_named(family_name), tiny.pipeline(family_name)
    net = getattr(pipe, family.denoiser)
    told = encoded(family, pipe, ["a red apple"])
    latents = torch.randn(1, net.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        usual = family.denoise(net, latents, torch.tensor([500]), told)
        for name, value in told.items():
            changed = family.denoise(net, latents, torch.tensor([500]), told | {name: value + 1})
            assert not torch.allclose(usual, changed, atol=1e-6), name


def test_sizes_are_told_to_sdxl_height_first() -> None:
    (row,) = family_named("sdxl").condition_on_size((1200, 800), (30, 20), (1024, 768)).values()
    assert row.tolist() == [800, 1200, 20, 30, 768, 1024]
    assert family_named("sd1").condition_on_size((1200, 800), (30, 20), (1024, 768)) == {}


def test_processes() -> None:
    told = {name: family.process(tiny.pipeline(name)).prediction for name, family in families().items()}
    assert told == {"sd1": "epsilon", "sd2": "v", "sd3": "flow", "sdxl": "epsilon"}
    assert families()["sd2"].process(tiny.pipeline("sd2", prediction="epsilon")).prediction == "epsilon"
    assert families()["sd3"].process(tiny.pipeline("sd3")).shift == 3


def test_sd3_without_t5_sees_zeros_where_t5_would_be() -> None:
    states = family_named("sd3").encode_captions(tiny.pipeline("sd3"), ["a red apple"])["encoder_hidden_states"]
    assert states.shape[1] == 77 + 256
    assert bool((states[:, 77:] == 0).all())
    assert not bool((states[:, :77] == 0).all())


@pytest.mark.parametrize(
    ("blocks", "name"),
    [
        (["joint_blocks.37.x_block.attn.qkv.weight"], "sd35-large"),
        (["joint_blocks.0.x_block.attn2.qkv.weight"], "sd35-medium"),
        (["joint_blocks.0.x_block.attn.qkv.weight"], "sd3"),
    ],
)
def test_each_release_of_sd3_has_configs_of_its_own(blocks: list[str], name: str) -> None:
    family = family_named("sd3")
    assert family.reference({f"model.diffusion_model.{block}": (1, 1) for block in blocks}) == family.models[name]
