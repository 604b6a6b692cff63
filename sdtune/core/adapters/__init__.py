"""What a LoRA file adds to one module: a class a network, one file each, found by being there."""

from sdtune.core.adapters.base import Adapter
from sdtune.core.adapters.lora import LoraModule

__all__ = ["Adapter", "LoraModule"]
