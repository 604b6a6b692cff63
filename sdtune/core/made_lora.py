"""A LoRA that was made out of something else, written, and what is told of it in the end."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from sdtune.core.adapters import LoraModule
from sdtune.core.elsewhere import of_text
from sdtune.core.lora import Lora
from sdtune.core.lora_facts import spread
from sdtune.core.lora_metadata import prompt_of, trigger_of
from sdtune.core.lora_reports import Written
from sdtune.core.lora_writer import form_of, write
from sdtune.core.reports import Note, Telling, Warned
from sdtune.core.truncation import Losses
from sdtune.errors import LoraError, TrainingError
from sdtune.lora_config import Dtype, Form


def write_made(
    out: Path, lora: Lora, form: Form, dtype: Dtype, made: str, losses: Losses, measured: str = "the update"
) -> Telling[None]:
    """Saves it, and tells its size and what was lost on the way, by what that is `measured`.

    `made` says in a few words how it came about.
    """
    taken, used = form_of(lora, form), _written(out, lora, form, dtype)
    if used != dtype:
        yield Warned(f"written in {used}, as some of its values are too large or too small for {dtype}")
    if taken != form != "auto":
        yield Note(f"LoRAs for {lora.family} are written in the {taken} form alone, as no other is read right")
    plain = [name for name, module in lora.modules.items() if isinstance(module, LoraModule)]
    if unread := of_text(taken, plain):
        what, other = unread
        yield Warned(f"{what}; --form {other} writes one that it reads whole")
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
        measured=measured,
        try_next=shlex.join(
            ["sdtune", "sample", "--prompt", prompt_of(trigger_of(lora.metadata)) or "TEXT", "--lora", str(out)]
        ),
    )


def _written(out: Path, lora: Lora, form: Form, dtype: Dtype) -> Dtype:
    try:
        return write(Path(os.path.realpath(out)), lora, form, dtype)
    except TrainingError:
        raise LoraError(
            f"{out}: not made, as its values are too large for any precision; give lower strengths, or other LoRAs"
        ) from None
