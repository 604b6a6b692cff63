"""A LoRA that was made out of something else, written, and what is told of it in the end."""

from __future__ import annotations

import shlex
from pathlib import Path

from sdtune.core.lora import Lora
from sdtune.core.lora_facts import spread
from sdtune.core.lora_metadata import trigger_of
from sdtune.core.lora_reports import Written
from sdtune.core.lora_writer import form_of, write
from sdtune.core.reports import Note, Telling, Warned
from sdtune.core.truncation import Losses
from sdtune.lora_config import Dtype, Form


def write_made(out: Path, lora: Lora, form: Form, dtype: Dtype, made: str, losses: Losses) -> Telling[None]:
    """Saves it, and tells its size and what was lost on the way; `made` says in a few words how it came about."""
    taken, used = form_of(lora, form), write(out, lora, form, dtype)
    if used != dtype:
        yield Warned(f"written in {used}, as its values are too large for {dtype}")
    if taken != form != "auto":
        yield Note(f"LoRAs for {lora.family} are written in the {taken} form alone, as no other is read right")
    words = trigger_of(lora.metadata) or "TEXT"
    yield Written(
        out=out,
        made=made,
        family=lora.family,
        form=taken,
        dtype=used,
        modules=len({*lora.modules, *lora.biases}),
        rank=spread(module.rank for module in lora.modules.values()),
        size=out.stat().st_size,
        blocks=losses.blocks(),
        lost=losses.whole(),
        try_next=shlex.join(["sdtune", "sample", "--prompt", words, "--lora", str(out)]),
    )
