"""What sdtune may build on next: which of bitsandbytes' optimizers and layers, and of torch.compile, work here."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from typing import Any

import bitsandbytes
import pytest
import torch
from torch import Tensor, nn

from sdtune.choices.networks import LoRA
from sdtune.core.families import Family, family_named
from tests import tiny
from tests.gpu.conftest import DEVICE, PRECISIONS

pytestmark = pytest.mark.gpu

Record = Callable[[str, Any], None]
WIDTH = 128  # a square of it has enough numbers for 8-bit states, which begin at 4096
DTYPE = {"bf16": torch.bfloat16, "fp32": torch.float32}[PRECISIONS[0]]

EIGHT_BIT = sorted(
    name for name, kind in inspect.getmembers(bitsandbytes.optim, inspect.isclass) if name.endswith("8bit")
)
OPTIONS: dict[str, dict[str, float]] = {"SGD8bit": {"momentum": 0.9}, "LARS8bit": {"momentum": 0.9}}
ONLY_CUDA = ("Paged",)
LAYERS = ("nf4", "nf4-double", "int8")


@pytest.mark.parametrize("name", EIGHT_BIT)
def test_8bit_optimizer(device: torch.device, name: str, record_property: Record) -> None:
    if device.type == "cpu" and name.startswith(ONLY_CUDA):
        pytest.skip("memory is paged between a card and the CPU")
    weight = nn.Parameter(torch.full((WIDTH, WIDTH), 1.0, device=device))
    try:
        optimizer = getattr(bitsandbytes.optim, name)([weight], lr=0.01, **OPTIONS.get(name, {}))
        for _ in range(5):
            (weight**2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    except (NotImplementedError, AttributeError, KeyError) as error:
        if device.type == "cpu":
            pytest.skip(f"not made for the CPU ({type(error).__name__})")
        raise
    states = {str(value.dtype) for value in optimizer.state[weight].values() if isinstance(value, Tensor)}
    record_property("state_dtypes", " ".join(sorted(states)))
    assert torch.isfinite(weight).all()
    assert weight.abs().mean() < 1.0, "five steps downhill should come closer to 0"
    assert "torch.uint8" in states, states


class Small(nn.Module):
    """Two layers, the first of which is frozen in few bits."""

    def __init__(self, kind: str | None, weights: nn.Sequential) -> None:
        super().__init__()
        self.first = quantised(kind, weights[0]) if kind else weights[0]
        self.second = weights[1]
        self.is_loaded_in_4bit = str(kind).startswith("nf4")  # where peft looks
        self.is_loaded_in_8bit = kind == "int8"

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.nn.functional.gelu(self.first(x)))


def quantised(kind: str, linear: nn.Module) -> nn.Module:
    """The layer in bitsandbytes' form, still on the CPU: it is quantised on its way to the device."""
    assert isinstance(linear, nn.Linear)
    size = (linear.in_features, linear.out_features)
    if kind == "int8":
        layer = bitsandbytes.nn.Linear8bitLt(*size, has_fp16_weights=False)
        layer.weight = bitsandbytes.nn.Int8Params(linear.weight.data.clone(), requires_grad=False)
    else:
        layer = bitsandbytes.nn.Linear4bit(
            *size, compute_dtype=DTYPE, quant_type="nf4", compress_statistics=kind == "nf4-double"
        )
        layer.weight = bitsandbytes.nn.Params4bit(
            linear.weight.data.clone(), requires_grad=False, quant_type="nf4", compress_statistics=kind == "nf4-double"
        )
    layer.bias = nn.Parameter(linear.bias.data.clone(), requires_grad=False)
    return layer


@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("kind", LAYERS)
def test_lora_on_a_quantised_layer(
    device: torch.device, kind: str, checkpointed: bool, record_property: Record
) -> None:
    from peft import inject_adapter_in_model

    torch.manual_seed(0)
    weights = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)).to(DTYPE).requires_grad_(False)
    exact = Small(None, weights).to(device)
    net = Small(kind, weights).to(device)
    stored = net.first.weight.dtype
    record_property("stored_as", str(stored))
    assert stored == (torch.int8 if kind == "int8" else torch.uint8)

    x = torch.randn(64, WIDTH, device=device, dtype=DTYPE)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        wanted, got = exact(x).float(), net(x).float()
    error = ((got - wanted).norm() / wanted.norm()).item()
    record_property("relative_error", round(error, 4))
    assert error < (0.05 if kind == "int8" else 0.2)

    inject_adapter_in_model(LoRA(rank=4, alpha=4).peft_config("first"), net, "default")
    trainable = [weight for weight in net.parameters() if weight.requires_grad]
    assert len(trainable) == 2
    net.first.lora_B["default"].weight.data.normal_(std=0.02)  # at 0, A would get no gradient
    net.train()
    x.requires_grad_()
    with torch.autocast(device.type, torch.bfloat16):
        y = torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False) if checkpointed else net(x)
        loss = y.float().square().mean()
    loss.backward()
    for weight in trainable:
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()
        assert weight.grad.abs().max() > 0
    assert x.grad is not None, "layers before a quantised one must learn, too"
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("family_name", ["sd1", "sd3"])
def test_compiled_step(device: torch.device, family_name: str, record_property: Record) -> None:
    """A compiled denoiser with a LoRA gives the loss and the gradients of the plain one."""
    if device.type == "cpu" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler for the CPU")
    family = family_named(family_name)
    pipe = tiny.pipeline(family_name)
    net = getattr(pipe, family.denoiser).requires_grad_(False)
    told = {name: value.detach().to(device) for name, value in family.encode_captions(pipe, ["a", "b"]).items()}
    torch.manual_seed(0)
    net.add_adapter(LoRA(rank=4, alpha=4, layers="attention").peft_config(family.lora_targets("attention")))
    net.to(device).train()
    x_t = torch.randn(2, net.config.in_channels, 8, 8, device=device)
    plain = loss_and_slope(family, net, x_t, told)
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters
    counted.clear()
    compiled = loss_and_slope(family, torch.compile(net), x_t, told)
    record_property("graph_breaks", sum(counted["graph_break"].values()))
    assert compiled == pytest.approx(plain, rel=0.02)
    assert plain[1] > 0


def loss_and_slope(family: Family, net: Any, x_t: Tensor, told: dict[str, Tensor]) -> tuple[float, float]:
    """(loss, norm of the gradient of all that is trained) of one step in the precision under test."""
    for weight in net.parameters():
        weight.grad = None
    timesteps = torch.tensor([500, 20], device=x_t.device)
    with torch.autocast(x_t.device.type, torch.bfloat16, enabled=DEVICE == "cuda"):
        loss = family.denoise(net, x_t, timesteps, told).float().square().mean()
    loss.backward()
    slopes = [weight.grad.float().norm() for weight in net.parameters() if weight.grad is not None]
    return loss.item(), torch.stack(slopes).norm().item()
