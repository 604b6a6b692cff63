"""What README says of LoRA files, as one shell pipeline on the built-in model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples" / "fluent-3d"

SCRIPT = """
set -euo pipefail
sdtune() { "$PYTHON" -m sdtune "$@"; }
train() { sdtune train-lora "$EXAMPLES" --steps 3 --lr 1e-2 --samples.off --validation.off "$@" > log.txt; }
train --rank 4 --out runs/a
train --rank 8 --out runs/b
sdtune lora inspect runs/a --json > inspected.jsonl
sdtune lora inspect runs/a --weights > inspected.txt
sdtune merge mini runs/a:0.8 --out merged.safetensors --json > merged.jsonl
sdtune merge mini runs/a:0.8 --out merged/ --json > merged-folder.jsonl
sdtune merge runs/a:0.7 runs/b:0.4 --out both.safetensors --json > both.jsonl
sdtune lora resize both.safetensors --rank 3 --out small.safetensors --json > small.jsonl
sdtune lora convert runs/a --form peft --out a-peft.safetensors --json > peft.jsonl
sdtune lora convert a-peft.safetensors --out a-kohya.safetensors --json > kohya.jsonl
sdtune lora diff runs/a a-kohya.safetensors --json > same.jsonl
sdtune lora diff runs/a small.safetensors > diff.txt
sdtune lora extract mini merged/ --rank 4 --dtype fp32 --out extracted.safetensors --json > extracted.jsonl
draw() { sdtune sample --prompt "a red apple" --steps 4 --seed 3 --guidance 2 "$@" > log.txt; }
draw --model mini --lora runs/a:0.8 --out stacked.png
draw --model merged --out merged.png
draw --model merged.safetensors --out merged-file.png
draw --model mini --lora extracted.safetensors --out extracted.png
draw --model mini --out base.png
"""


def last(path: Path) -> dict[str, object]:
    """The last report of a command."""
    told: dict[str, object] = json.loads(path.read_text().splitlines()[-1])
    return told


def grey(path: Path) -> numpy.typing.NDArray[numpy.float64]:
    with Image.open(path) as image:
        return numpy.asarray(image, dtype=numpy.float64)


def test_loras_are_looked_into_merged_resized_converted_and_extracted(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHON": sys.executable, "EXAMPLES": str(EXAMPLES), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    inspected = last(tmp_path / "inspected.jsonl")
    assert (inspected["report"], inspected["rank"], inspected["networks"]) == ("inspected", "4", ["LoRA"])
    merged = last(tmp_path / "merged.jsonl")
    assert merged["layout"] == "original"
    assert 0 <= merged["layers"] < 1e-2  # type: ignore[operator]
    assert 0 <= merged["denoised"] < 1e-2  # type: ignore[operator]
    assert last(tmp_path / "both.jsonl")["rank"] == "12"
    small = last(tmp_path / "small.jsonl")
    assert (small["rank"], small["form"]) == ("3", "kohya")
    assert 0 < small["lost"] < 1  # type: ignore[operator]
    assert last(tmp_path / "same.jsonl")["equal"] is True
    base, stacked = grey(tmp_path / "base.png"), grey(tmp_path / "stacked.png")
    assert abs(stacked - base).mean() > 1, "the LoRA does something"
    assert abs(stacked - grey(tmp_path / "merged.png")).max() <= 2
    assert abs(stacked - grey(tmp_path / "merged-file.png")).max() <= 2
    assert abs(stacked - grey(tmp_path / "extracted.png")).max() <= 8
