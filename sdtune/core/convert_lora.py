"""The command `sdtune lora convert`: a LoRA of any form written in another, with what its metadata shall say."""

from __future__ import annotations

from dataclasses import replace

from sdtune.core.adapters.dora import DoraModule
from sdtune.core.data.images import open_image
from sdtune.core.header import read_header
from sdtune.core.home import expanded
from sdtune.core.lora import Lora
from sdtune.core.lora_keys import keys_of
from sdtune.core.lora_reader import read
from sdtune.core.lora_writer import form_of, precision_of
from sdtune.core.made_lora import write_made
from sdtune.core.out_file import check_out
from sdtune.core.reports import Note, Telling
from sdtune.core.run_folder import lora_at
from sdtune.core.thumbnail import thumbnail_of
from sdtune.core.truncation import Losses
from sdtune.errors import LoraError
from sdtune.lora_config import LoraConvert

FP8 = ("F8_E4M3", "F8_E5M2")


def convert_lora(config: LoraConvert) -> Telling[None]:
    """Writes the file, and tells what came of it; nothing is written where something is wrong."""
    path, out = lora_at(config.lora), expanded(config.out)
    check_out(out, config.overwrite, path)
    told = metadata_of(config)
    header = read_header(path, LoraError)
    before = keys_of(path, header).form
    lora = read(path)
    lora = replace(lora, metadata={**lora.metadata, **told})
    dtype = config.dtype or precision_of(header)
    if not config.dtype and any(one in FP8 for one in header.dtypes.values()):
        yield Note(f"written in {dtype}, which holds its numbers of 8 bits exactly and which all programs read")
    for line in said_of_networks(lora):
        yield Note(line)
    yield from write_made(out, lora, config.form, dtype, f"{before} to {form_of(lora, config.form)}", Losses())


def metadata_of(config: LoraConvert) -> dict[str, str]:
    """What the user wants the metadata to say."""
    told = {
        "modelspec.title": config.title,
        "modelspec.trigger_phrase": config.trigger,
        "modelspec.tags": config.tags,
        "modelspec.thumbnail": thumbnail_of(open_image(expanded(config.thumbnail))) if config.thumbnail else None,
    }
    return {key: value for key, value in told.items() if value is not None}


def said_of_networks(lora: Lora) -> list[str]:
    """What the user should know of who reads networks that are no plain LoRA."""
    told = []
    doras = [value for value in lora.modules.values() if isinstance(value, DoraModule)]
    if doras:
        how = (
            "its magnitudes are of outputs (out, 1), which ComfyUI, Forge and InvokeAI each read otherwise"
            if any(value.of_outputs for value in doras)
            else "ComfyUI, Forge and InvokeAI read it alike"
        )
        told.append(
            f"a DoRA: {how}, and diffusers leaves the magnitudes out; sdtune merge puts it into a model exactly"
        )
    kinds = {value.kind for value in lora.modules.values()}
    if others := sorted(kinds & {"LoHa", "LoKr"}):
        told.append(
            f"{' and '.join(others)}: ComfyUI, Forge and InvokeAI read it, and diffusers does not; "
            "sdtune lora resize makes a plain LoRA of it"
        )
    if "OFT" in kinds:
        told.append(
            "an OFT: ComfyUI reads it, right at strength 1 alone, and Forge, InvokeAI and diffusers do not; "
            "sdtune merge puts it into a model exactly"
        )
    if "difference" in kinds:
        told.append(
            "it changes whole weights (norms, or a difference): diffusers refuses such a file; "
            "sdtune merge puts it into a model"
        )
    return told
