"""Put into a pipeline, every network makes of a layer what its change of the weights says."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from sdtune.core import lora_names
from sdtune.core.adapters import Adapter, adapters
from sdtune.core.adapters.base import flat
from sdtune.core.applied import Applied
from sdtune.core.blocks import Strength
from sdtune.core.families import family_named
from sdtune.core.lora import Lora, changed, check_shape, load_all, load_into
from sdtune.errors import LoraError
from tests import tiny

ATTENTION = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
NORM = "unet.conv_norm_out"


def numbers(shape: Sequence[int], seed: int = 0) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) / 5


def network(kind: str, weight: Sequence[int], seed: int = 0) -> Adapter:
    """One of any kind for weights of this shape."""
    out, rows, kernel = weight[0], weight[1] if weight[1:] else 1, weight[2:]
    ones = [1] * len(kernel)
    lora = {"lora_down.weight": numbers((4, rows, *kernel), seed), "lora_up.weight": numbers((out, 4, *ones), seed + 1)}
    width = flat(weight)[1]
    tensors = {
        "LoRA": lora,
        "DoRA": lora | {"dora_scale": numbers((out, 1, *ones), seed + 2) + 2},
        "LoHa": {
            f"hada_w{n}_{end}": numbers((out, 4) if end == "a" else (4, width), n) for n in (1, 2) for end in "ab"
        },
        "LoKr": {"lokr_w1": numbers((2, 2), seed), "lokr_w2": numbers((out // 2, rows // 2, *kernel), seed + 1)},
        "OFT": {"oft_blocks": numbers((out // 4, 4, 4), seed)},
        "difference": {"diff": numbers(weight, seed)},
    }[kind]
    return adapters()[kind].from_tensors(tensors, 6.0)


def layer_of(pipe: Any, name: str) -> Any:
    part, _ = lora_names.split(name)
    net = getattr(pipe, part)
    return net.get_submodule(lora_names.in_model(name, dict(net.named_modules())))


def layers(pipe: Any, family_name: str) -> dict[str, nn.Module]:
    """One of each kind of layer in the denoiser and the text encoders: linear, convolutions, norms, words."""
    found: dict[str, nn.Module] = {}
    kinds = set()
    family = family_named(family_name)
    for part in (family.denoiser, *family.text_encoders):
        for path, layer in getattr(pipe, part).named_modules() if getattr(pipe, part) else ():
            kind = (part, type(layer), getattr(layer, "kernel_size", None))
            name = lora_names.from_dotted(f"{part}.{path}")
            if name and isinstance(getattr(layer, "weight", None), Tensor) and kind not in kinds:
                kinds.add(kind)
                found[name] = layer
    assert len(found) >= 8
    return found


def told(layer: nn.Module) -> Tensor:
    """Something for it to read."""
    if isinstance(layer, nn.Embedding):
        return torch.arange(7)
    if isinstance(layer, nn.Conv2d):
        return numbers((2, layer.in_channels, 8, 8))
    if isinstance(layer, nn.Linear):
        return numbers((3, layer.in_features))
    return numbers((3, len(layer.weight), 5, 5) if isinstance(layer, nn.GroupNorm) else (3, len(layer.weight)))


def with_weights(layer: nn.Module, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """The same layer with other weights."""
    other = copy.deepcopy(layer)
    other.weight.data = weight
    if bias is not None:
        other.bias.data = bias
    return other


def frozen(pipe: Any) -> dict[str, Tensor]:
    """All weights of the U-Net and the text encoder, by name."""
    return {
        f"{part}.{name}": value.clone()
        for part in ("unet", "text_encoder")
        for name, value in getattr(pipe, part).state_dict().items()
    }


@pytest.mark.parametrize("kind", adapters())
def test_each_network_acts_as_the_changed_weights_do(family_name: str, kind: str) -> None:
    before, pipe = tiny.pipeline(family_name), tiny.pipeline(family_name)
    chosen = {
        name: layer
        for name, layer in layers(before, family_name).items()
        if layer.weight.ndim > 1 or kind == "difference"
    }
    modules = {name: network(kind, layer.weight.shape, n) for n, (name, layer) in enumerate(chosen.items())}
    biased = {name: layer for name, layer in chosen.items() if getattr(layer, "bias", None) is not None}
    biases = {name: numbers(layer.bias.shape, 9) for name, layer in biased.items()}
    load_into(pipe, Lora(modules, family_name, biases=biases), 0.7)
    for name, layer in chosen.items():
        weight = layer.weight.detach()
        delta = modules[name].delta(weight.reshape(flat(weight.shape))).reshape(weight.shape)
        bias = layer.bias.detach() + 0.7 * biases[name] if name in biases else None
        with torch.no_grad():
            expected = with_weights(layer, weight + 0.7 * delta, bias)(told(layer))
            found = layer_of(pipe, name)(told(layer))
            assert not torch.allclose(found, layer(told(layer)), atol=1e-3)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for name, layer in layers(before, family_name).items():  # of 1 dimension, where nothing was given
        if name not in chosen:
            assert torch.equal(layer_of(pipe, name).weight, layer.weight)


def applied(*loras: tuple[dict[str, Adapter], float]) -> list[Applied]:
    return [
        Applied(Path(f"{number}.safetensors"), Lora(modules, "sd1"), Strength(strength))
        for number, (modules, strength) in enumerate(loras)
    ]


@pytest.mark.parametrize("reverse", [False, True])
def test_several_change_the_model_each_as_if_it_were_alone(reverse: bool) -> None:
    kinds = ["DoRA", "LoRA", "DoRA", "OFT", "LoKr", "LoRA"]
    several = applied(*(({ATTENTION: network(kind, (32, 32), n)}, 0.3 * n - 0.7) for n, kind in enumerate(kinds)))
    pipe, before = tiny.pipeline("sd1"), layer_of(tiny.pipeline("sd1"), ATTENTION)
    load_all(pipe, several[::-1] if reverse else several)
    weight = before.weight.detach()
    total = weight + sum(one.strength.usual * one.lora.modules[ATTENTION].delta(weight) for one in several)
    with torch.no_grad():
        found, expected = layer_of(pipe, ATTENTION)(told(before)), with_weights(before, total)(told(before))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kinds", [("LoRA", "DoRA"), ("DoRA", "LoRA"), ("LoHa", "difference")])
def test_one_after_the_other_they_stand_together(kinds: tuple[str, str]) -> None:
    pipe, before = tiny.pipeline("sd1"), layer_of(tiny.pipeline("sd1"), ATTENTION)
    weight = before.weight.detach()
    modules = [network(kind, (32, 32), n) for n, kind in enumerate(kinds)]
    for number, module in enumerate(modules):
        load_into(pipe, Lora({ATTENTION: module}, "sd1"), 0.5, f"lora{number}")
    total = weight + sum(0.5 * module.delta(weight) for module in modules)
    with torch.no_grad():
        found, expected = layer_of(pipe, ATTENTION)(told(before)), with_weights(before, total)(told(before))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", adapters())
def test_modules_may_have_strengths_of_their_own(kind: str) -> None:
    pipe, before = tiny.pipeline("sd1"), tiny.pipeline("sd1")
    text = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"
    up = ATTENTION.replace("mid_block.", "up_blocks.1.")
    modules = {name: network(kind, (32, 32), n) for n, name in enumerate((ATTENTION, up, text))}
    load_into(pipe, Lora(modules, "sd1"), Strength(0.5, {"text_encoder": 0.0, "mid_block": -2.0}))
    for name, strength in ((ATTENTION, -2.0), (up, 0.5)):
        layer = layer_of(before, name)
        weight = layer.weight.detach()
        with torch.no_grad():
            expected = with_weights(layer, weight + strength * modules[name].delta(weight))(told(layer))
            torch.testing.assert_close(layer_of(pipe, name)(told(layer)), expected, rtol=1e-5, atol=1e-5)
    untouched = layer_of(pipe, text)
    assert type(untouched) is nn.Linear
    assert torch.equal(untouched.weight, layer_of(before, text).weight)


def test_at_no_strength_nothing_is_put_in() -> None:
    pipe = tiny.pipeline("sd1")
    before = frozen(pipe)
    modules = {ATTENTION: network("LoRA", (32, 32)), NORM: network("difference", (32,))}
    load_into(pipe, Lora(modules, "sd1", biases={NORM: torch.ones(32)}), 0.0)
    after = frozen(pipe)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_are_made_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    pipe = tiny.pipeline("sd1")
    pipe.unet.to(dtype)
    layer = layer_of(pipe, ATTENTION)
    weight = layer.weight.detach().float()
    several = [network(kind, (32, 32), n) for n, kind in enumerate(("LoHa", "LoKr", "difference"))]
    load_all(pipe, applied(*(({ATTENTION: one}, 0.01) for one in several)))
    assert layer.weight.dtype == dtype
    exact = weight + sum(0.01 * one.delta(weight) for one in several)
    torch.testing.assert_close(layer.weight, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=0)
    torch.testing.assert_close(changed(weight, [(one, 0.01) for one in several]), exact)


class Packed(nn.Linear):
    """A layer whose weights stand two in a byte, as bitsandbytes' do."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features)
        self.weight = nn.Parameter(torch.zeros(layer.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)


@pytest.mark.parametrize("kind", [kind for kind in adapters() if kind != "LoRA"])
def test_packed_weights_are_told_of(kind: str) -> None:
    pipe = tiny.pipeline("sd1")
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    attention.to_q = Packed(attention.to_q)
    with pytest.raises(LoraError, match=rf"{kind} of unet.*attn1\.to_q is added .* packed \(Packed\); choose .* merge"):
        load_into(pipe, Lora({ATTENTION: network(kind, (32, 32))}, "sd1"))
    load_into(pipe, Lora({ATTENTION: network("LoRA", (32, 32))}, "sd1"))
    assert isinstance(attention.to_q, LoraLayer), "a plain LoRA stands beside them"


@pytest.mark.parametrize(
    ("name", "kind", "shape", "problem"),
    [
        (ATTENTION, "LoHa", (32, 8), r"as \(32, 8\), but in the model it is \(32, 32\); choose the model"),
        (ATTENTION, "OFT", (64, 32), r"as \(64,\), but in the model it is \(32, 32\)"),
        ("unet.conv_in", "LoKr", (32, 4, 1, 1), r"as \(32, 4\), but in the model it is \(32, 36\)"),
        ("unet.conv_in", "DoRA", (32, 8, 3, 3), r"as \(32, 72\), but in the model it is \(32, 36\)"),
        (
            "unet.conv_in",
            "LoRA",
            (32, 9, 2, 2),
            "conv_in as kernels of 2 x 2, but in the model it is as kernels of 3 x 3",
        ),
        ("unet.conv_in", "LoRA", (32, 1, 6, 6), "conv_in as kernels of 6 x 6, but in the model it is as kernels of 3"),
        ("unet.conv_in", "LoRA", (32, 36), "conv_in as a layer without kernels, but in the model it is as kernels of"),
        (NORM, "difference", (16,), r"as \(16, 1\), but in the model it is \(32, 1\)"),
        (NORM, "LoRA", (32, 32), r"as \(32, 32\), but in the model it is \(32, 1\)"),
        ("unet.mid_block", "difference", (32, 32), "changes unet.mid_block, which the model has not"),
        ("unet.mid_block.attentions.7.proj_in", "LoHa", (32, 32), "proj_in, which the model has not"),
        (
            "text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
            "LoHa",
            (64, 32),
            "a text_encoder_2, which the model has",
        ),
    ],
)
def test_what_does_not_fit_changes_nothing(name: str, kind: str, shape: tuple[int, ...], problem: str) -> None:
    pipe = tiny.pipeline("sd1")
    before = frozen(pipe)
    fitting = {
        "unet.conv_out": network("difference", (4, 32, 3, 3)),
        "unet.mid_block.attentions.0.proj_in": network("LoRA", (32, 32)),
    }
    with pytest.raises(LoraError, match=problem) as caught:
        load_into(pipe, Lora(fitting | {name: network(kind, shape)}, "sd1"))
    assert len(caught.value.problems) == 1
    after = frozen(pipe)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize(
    ("name", "size", "problem"),
    [
        (NORM, 16, r"the bias of unet\.conv_norm_out as \(16, 1\), but in the model it is \(32, 1\)"),
        (ATTENTION, 32, "changes the bias of unet.*to_q, which the model has not"),
    ],
)
def test_biases_that_do_not_fit_are_refused(name: str, size: int, problem: str) -> None:
    with pytest.raises(LoraError, match=problem):
        load_into(tiny.pipeline("sd1"), Lora({}, "sd1", biases={name: torch.ones(size)}))


def test_of_several_none_is_put_in_where_one_does_not_fit() -> None:
    pipe = tiny.pipeline("sd1")
    before = frozen(pipe)
    several = applied(({ATTENTION: network("LoHa", (32, 32))}, 1.0), ({ATTENTION: network("LoHa", (32, 8))}, 1.0))
    with pytest.raises(LoraError, match=r"^1\.safetensors: the LoRA changes .* as \(32, 8\)"):
        load_all(pipe, several)
    assert all(torch.equal(value, frozen(pipe)[name]) for name, value in before.items())


def test_shapes_are_checked_without_a_pipeline() -> None:
    for kind in adapters():
        check_shape(ATTENTION, network(kind, (32, 16, 3, 3)), (32, 16, 3, 3))
        with pytest.raises(LoraError, match=f"the LoRA changes {ATTENTION} as .*, but in the model it is"):
            check_shape(ATTENTION, network(kind, (32, 16, 3, 3)), (28, 16, 3, 3))


def test_what_has_no_strength_need_not_fit() -> None:
    """As in merge: strengths of zero leave out what the model has not, or has in another shape."""
    modules = {
        ATTENTION: network("LoRA", (32, 32)),
        "text_encoder_3.encoder.block.0.layer.0.SelfAttention.q": network("LoRA", (32, 32)),
        "unet.mid_block.attentions.7.proj_in": network("LoRA", (32, 32)),
        NORM: network("LoRA", (64, 64)),
    }
    some = Lora(modules, "sd1", biases={"unet.mid_block.attentions.7.proj_out": torch.ones(32)})
    pipe = tiny.pipeline("sd1")
    left = {"text_encoder_3": 0.0, "mid_block.attentions.7": 0.0, "conv_norm_out": 0.0}
    for name in left:
        with pytest.raises(LoraError, match=r"which the model has not|but in the model it is"):
            load_into(pipe, some, Strength(1.0, left | {name: 1.0}))
    with pytest.raises(LoraError, match=r"a text_encoder_3, which the model has not; .* with text_encoder_3=0 behind"):
        load_into(pipe, some, Strength(1.0, left | {"text_encoder_3": 1.0}))
    load_into(pipe, some, Strength(1.0, left))
    put_in = [name for name, layer in pipe.unet.named_modules() if isinstance(layer, LoraLayer)]
    assert put_in == [ATTENTION.removeprefix("unet.")]
