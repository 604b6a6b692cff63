"""What other programs make of LoRA files: measured again where diffusers is concerned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from peft.tuners.lora import LoraLayer

from sdtune.core.elsewhere import of_networks, of_text
from sdtune.core.lora import Lora
from sdtune.core.lora_writer import write
from sdtune.core.made_lora import write_made
from sdtune.core.reports import Warned
from sdtune.core.truncation import Losses
from sdtune.lora_config import Form
from tests import tiny
from tests.core.some_loras import lora

FORMS: tuple[Form, ...] = ("kohya", "peft", "diffusers")
WITHOUT = {
    "nothing": (),
    "no out_proj": ("out_proj",),
    "no out_proj in the first": (
        "text_encoder.text_model.encoder.layers.0.self_attn.out_proj",
        "text_encoder.text_model.encoder.layers.1.self_attn.out_proj",
    ),
    "feed-forward alone": ("self_attn",),
}


def without(family: str, left: str) -> Lora:
    whole = lora(family)
    kept = {name: one for name, one in whole.modules.items() if not any(told in name for told in WITHOUT[left])}
    return replace(whole, modules=kept)


def read_by_diffusers(path: Path, family: str) -> int | None:
    """How many modules of text encoders it reads; None where it refuses the file."""
    pipe = tiny.pipeline(family)
    try:
        pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name="it")
    except ValueError:
        return None
    encoders = (getattr(pipe, part, None) for part in ("text_encoder", "text_encoder_2"))
    layers = (layer for one in encoders if one is not None for layer in one.modules())
    return sum(isinstance(layer, LoraLayer) and bool(layer.lora_B["it"].weight.any()) for layer in layers)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("left", WITHOUT)
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_what_diffusers_does_not_read_of_text_encoders_is_what_is_told(
    family: str, left: str, form: Form, tmp_path: Path
) -> None:
    it, path = without(family, left), tmp_path / "it.safetensors"
    write(path, it, form, "fp32")
    of_encoders = sum(name.startswith("text_encoder") for name in it.modules)
    found = of_text(form, it.modules)
    assert (read_by_diffusers(path, family) == of_encoders) == (found is None)
    if found:
        write(path, it, found[1], "fp32")  # type: ignore[arg-type]
        assert read_by_diffusers(path, family) == of_encoders


def test_it_is_said_with_the_form_that_diffusers_reads(tmp_path: Path) -> None:
    reports = list(
        write_made(tmp_path / "a.safetensors", without("sd1", "no out_proj"), "auto", "fp16", "made", Losses())
    )
    (told,) = [one.text for one in reports if isinstance(one, Warned)]
    assert told == (
        "without an out_proj of the text_encoder diffusers leaves all its attention out; "
        "--form peft writes one that it reads whole"
    )
    whole = write_made(tmp_path / "b.safetensors", lora("sd1"), "auto", "fp16", "made", Losses())
    assert not any(isinstance(one, Warned) for one in whole)


def test_networks_are_told_with_what_to_do() -> None:
    assert not list(of_networks({"LoRA"}, "resize"))
    doras = [*(next(of_networks({"DoRA"}, "resize", told)) for told in (None, False, True))]
    assert len({*doras}) == 3
    assert all("magnitudes out" in one for one in doras)
    (packed,) = of_networks({"LoKr", "LoHa", "LoRA"}, "resize it")
    assert packed.startswith("LoHa and LoKr: ")
    assert packed.endswith("; to make a plain LoRA of it: resize it")
    assert len(list(of_networks({"OFT", "difference"}, "resize"))) == 2
