"""A LoRA as one safetensors file: key names (kohya, peft, diffusers), alpha, metadata."""

from sdtune.core.adapters import LoraModule
from sdtune.core.lora import Lora, check_family, from_peft, load_into
from sdtune.core.lora_precision import DTYPES
from sdtune.core.lora_reader import read
from sdtune.core.lora_writer import write

__all__ = [
    "DTYPES",
    "Lora",
    "LoraModule",
    "check_family",
    "from_peft",
    "load_into",
    "read",
    "write",
]
