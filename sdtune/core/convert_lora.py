"""The command `sdtune lora convert`: a LoRA of any form written in another, with what its metadata shall say."""

from __future__ import annotations

from collections.abc import Collection
from shlex import quote

from sdtune.core.adapters.dora import DoraModule
from sdtune.core.data.images import open_image
from sdtune.core.header import Header, read_header
from sdtune.core.home import expanded
from sdtune.core.inspect_lora import place_of
from sdtune.core.lora import Lora
from sdtune.core.lora_keys import keys_of
from sdtune.core.lora_reader import read
from sdtune.core.lora_reports import Written
from sdtune.core.lora_writer import form_of, precision_of, write
from sdtune.core.out_file import check_out
from sdtune.core.reports import Note, Telling, Warned
from sdtune.core.thumbnail import thumbnail_of
from sdtune.errors import LoraError
from sdtune.lora_config import LoraConvert

FP8 = ("F8_E4M3", "F8_E5M2")


def convert_lora(config: LoraConvert) -> Telling[None]:
    """Writes the file, and tells what came of it; nothing is written where something is wrong."""
    path, out = place_of(config.lora), expanded(config.out)
    check_out(out, config.overwrite, path)
    told = metadata_of(config)
    header = read_header(path, LoraError)
    before = keys_of(path, header).form
    lora = read(path)
    lora = Lora(lora.modules, lora.family, {**lora.metadata, **told}, lora.biases, lora.embeddings)
    dtype = config.dtype or precision_of(dtypes_in(header))
    form = form_of(lora, config.form)
    used = write(out, lora, config.form, dtype)
    if used != dtype:
        yield Warned(f"written in {used}, as its values are too large for {dtype}")
    elif not config.dtype and any(one in FP8 for one in header.dtypes.values()):
        yield Note(f"written in {used}, which holds its numbers of 8 bits exactly and which all programs read")
    if form != config.form != "auto":
        yield Note(f"LoRAs for {lora.family} are written in the {form} form alone, as no other is read right")
    for line in said_of_networks(lora):
        yield Note(line)
    yield Written(
        out=out,
        made=f"{before} to {form}",
        family=lora.family or "sd1 or sd2",
        form=form,
        dtype=used,
        modules=len(lora.modules),
        rank=ranks_of(lora),
        size=out.stat().st_size,
        try_next=f"sdtune lora inspect {quote(str(out))}",
    )


def metadata_of(config: LoraConvert) -> dict[str, str]:
    """What the user wants the metadata to say."""
    told = {
        "modelspec.title": config.title,
        "modelspec.trigger_phrase": config.trigger,
        "modelspec.tags": config.tags,
        "modelspec.thumbnail": thumbnail_of(open_image(expanded(config.thumbnail))) if config.thumbnail else None,
    }
    return {key: value for key, value in told.items() if value is not None}


def dtypes_in(header: Header) -> Collection[str]:
    """Of the weights, whose precision is kept; alphas take little and are told apart."""
    return {dtype for key, dtype in header.dtypes.items() if not key.endswith(".alpha")}


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
    others = sorted({value.kind for value in lora.modules.values()} - {"LoRA", "DoRA"})
    if others:
        told.append(
            f"{' and '.join(others)}: A1111, Forge and ComfyUI read it, and diffusers does not; "
            "sdtune lora resize makes a plain LoRA of it"
        )
    return told


def ranks_of(lora: Lora) -> str:
    """ "16", or "3-16"."""
    ranks = sorted({value.rank for value in lora.modules.values() if value.rank is not None})
    if not ranks:
        return "none"
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
