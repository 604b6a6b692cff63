"""sdtune: fine-tune Stable Diffusion with LoRA on the card you own.

The library's face, loaded on first use: `train_lora(TrainLora(...))` and `sample(Sample(...))` are generators of
reports; `config.resolve` makes their settings from presets and flags.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = [
    "CacheFolder",
    "Caption",
    "Evaluate",
    "EvaluateCompare",
    "LoraConvert",
    "LoraDiff",
    "LoraExtract",
    "LoraInspect",
    "LoraResize",
    "Merge",
    "Prepare",
    "Runs",
    "Sample",
    "TrainLora",
    "__version__",
    "cache",
    "caption",
    "convert_lora",
    "diff_loras",
    "evaluate",
    "evaluate_compare",
    "extract_lora",
    "inspect_lora",
    "merge",
    "prepare",
    "resize_lora",
    "runs",
    "sample",
    "train_lora",
]

_HOMES = {
    "CacheFolder": "sdtune.config",
    "Caption": "sdtune.config",
    "Evaluate": "sdtune.config",
    "EvaluateCompare": "sdtune.config",
    "LoraConvert": "sdtune.config",
    "LoraDiff": "sdtune.config",
    "LoraExtract": "sdtune.config",
    "LoraInspect": "sdtune.config",
    "LoraResize": "sdtune.config",
    "Merge": "sdtune.config",
    "Prepare": "sdtune.config",
    "Runs": "sdtune.config",
    "TrainLora": "sdtune.config",
    "Sample": "sdtune.config",
    "cache": "sdtune.core.cache",
    "caption": "sdtune.core.caption",
    "convert_lora": "sdtune.core.convert_lora",
    "diff_loras": "sdtune.core.diff_loras",
    "evaluate": "sdtune.core.evaluate",
    "evaluate_compare": "sdtune.core.evaluate_compare",
    "extract_lora": "sdtune.core.extract_lora",
    "inspect_lora": "sdtune.core.inspect_lora",
    "merge": "sdtune.core.merge",
    "resize_lora": "sdtune.core.resize_lora",
    "prepare": "sdtune.core.prepare",
    "runs": "sdtune.core.runs",
    "train_lora": "sdtune.core.train_lora",
    "sample": "sdtune.core.sample",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sdtune' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
