"""The command `sdtune lora convert`: a LoRA of any form written in another, with what its metadata shall say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sdtune.core.adapters.dora import DoraModule
from sdtune.core.data.images import open_image
from sdtune.core.elsewhere import of_networks
from sdtune.core.header import read_header, what_is
from sdtune.core.home import expanded
from sdtune.core.lora import Lora
from sdtune.core.lora_keys import keys_of
from sdtune.core.lora_place import lora_at
from sdtune.core.lora_reader import read
from sdtune.core.lora_writer import form_of, precision_of
from sdtune.core.made_lora import write_made
from sdtune.core.out_file import check_out
from sdtune.core.reports import Note, Telling
from sdtune.core.thumbnail import thumbnail_of
from sdtune.core.truncation import Losses
from sdtune.errors import DataError, LoraError
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
    for line in _of_networks(lora):
        yield Note(line)
    yield from write_made(out, lora, config.form, dtype, f"{before} to {form_of(lora, config.form)}", Losses())


def metadata_of(config: LoraConvert) -> dict[str, str]:
    """What the user wants the metadata to say."""
    told = {
        "modelspec.title": config.title,
        "modelspec.trigger_phrase": config.trigger,
        "modelspec.tags": config.tags,
        "modelspec.thumbnail": _picture(expanded(config.thumbnail)) if config.thumbnail else None,
    }
    return {key: value for key, value in told.items() if value is not None}


def _of_networks(lora: Lora) -> Iterator[str]:
    """What the user should know of who reads networks that are no plain LoRA."""
    modules = lora.modules.values()
    by_outputs = any(one.of_outputs for one in modules if isinstance(one, DoraModule))
    return of_networks({one.kind for one in modules}, "sdtune lora resize", by_outputs)


def _picture(path: Path) -> str:
    """A picture's file, small."""
    if what_is(path, DataError) is None:
        raise DataError(f"{path}: no such file; give a picture with --thumbnail")
    return thumbnail_of(open_image(path))
