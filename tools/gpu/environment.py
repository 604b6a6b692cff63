"""What this machine has, as JSON: python -m tools.gpu.environment FILE."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "bitsandbytes", "xformers", "triton", "sdtune")


def environment() -> dict[str, Any]:
    """Python, packages and card; what is missing is None."""
    import torch

    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cpus": torch.get_num_threads(),
        "card": card() if torch.cuda.is_available() else None,
        "imports": {name: import_problem(name) for name in ("bitsandbytes", "xformers.ops")},
    }


def card() -> dict[str, Any]:
    """The first CUDA card."""
    import torch

    told = torch.cuda.get_device_properties(0)
    return {
        "name": told.name,
        "memory_bytes": told.total_memory,
        "free_bytes": torch.cuda.mem_get_info()[0],
        "capability": f"{told.major}.{told.minor}",
        "multiprocessors": told.multi_processor_count,
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    }


def version(package: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def import_problem(module: str) -> str | None:
    """None where it imports, else why not."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a build for another CUDA fails in many ways
        return f"{type(error).__name__}: {error}"[:300]
    return None


if __name__ == "__main__":
    text = json.dumps(environment(), indent=2)
    Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")
    print(text)
