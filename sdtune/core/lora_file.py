"""A LoRA as one safetensors file: key names (kohya, peft, diffusers), alpha, metadata."""

from sdtune.core.lora import Lora, LoraModule, check_family, from_peft, load_into
from sdtune.core.lora_reader import MAX_RANK, read
from sdtune.core.lora_writer import DTYPES, Precision, write

__all__ = [
    "DTYPES",
    "MAX_RANK",
    "Lora",
    "LoraModule",
    "Precision",
    "check_family",
    "from_peft",
    "load_into",
    "read",
    "write",
]
