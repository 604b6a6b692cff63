"""Part by part, a model is what it is when all of it is loaded at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdtune.core.autoencoder import native_side, pixels_a_patch
from sdtune.core.families import Family, family_named
from sdtune.core.model import identify, load
from sdtune.core.sampling import parts
from sdtune.core.sampling.parts import drawer, reader
from tests import original, tiny


def state(net: Any) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in net.state_dict().items()} if net is not None else {}


def check(place: Path, family: Family, *, apart: bool) -> None:
    identity = identify(str(place))
    whole = load(identity, torch.float32)
    pipe = reader(identity, torch.float32)
    for part in family.text_encoders:
        assert state(getattr(pipe, part)) == state(getattr(whole, part))
    net = getattr(pipe, family.denoiser)
    assert all(weight.is_meta == apart for part in (net, pipe.vae) for weight in part.parameters())
    sides = [native_side(getattr(one, family.denoiser).config, one.vae, 8) for one in (pipe, whole)]
    units = [pixels_a_patch(getattr(one, family.denoiser).config, one.vae) for one in (pipe, whole)]
    assert sides[0] == sides[1]
    assert units[0] == units[1]
    told = [family.encode_captions(one, ["a red apple"]) for one in (pipe, whole)]
    assert all(torch.equal(told[0][name], told[1][name]) for name in told[1])

    tokenizer = pipe.tokenizer
    drawing = drawer(pipe, identity, torch.float32)
    assert drawing is pipe
    assert pipe.tokenizer is tokenizer
    assert all(getattr(pipe, part) is None for part in family.text_encoders)
    for part in (family.denoiser, "vae"):
        found = getattr(pipe, part)
        assert isinstance(found, nn.Module)
        assert state(found) == state(getattr(whole, part))
        assert not found.training
        assert not any(weight.requires_grad for weight in found.parameters())
    assert dict(pipe.scheduler.config) == dict(whole.scheduler.config)
    again = getattr(pipe, family.denoiser)
    assert getattr(drawer(pipe, identity, torch.float32), family.denoiser) is again, "once is enough"


@pytest.mark.parametrize("apart", [False, True])
def test_of_a_folder(
    family_name: str, apart: bool, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if apart:
        monkeypatch.setattr(parts, "SMALL", 10**5)
    check(tiny_models[family_name], family_named(family_name), apart=apart)


@pytest.mark.parametrize("apart", [False, True])
def test_of_a_single_file(apart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if apart:
        monkeypatch.setattr(parts, "SMALL", 10**5)
    tiny.saved("sdxl", tmp_path)
    original.save(tiny.pipeline("sdxl"), "sdxl", tmp_path / "a.safetensors", {})
    check(tmp_path / "a.safetensors", family_named("sdxl"), apart=apart)


def test_precision_is_kept(tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "SMALL", 0)
    identity = identify(str(tiny_models["sd1"]))
    pipe = reader(identity, torch.bfloat16)
    assert pipe.text_encoder.dtype == torch.bfloat16
    drawer(pipe, identity, torch.bfloat16)
    assert (pipe.unet.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.float32)
