"""One shell pipeline from ugly files to a picture, as a CI job without a network runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageFilter

EXAMPLES = Path(__file__).parent.parent / "examples" / "fluent-3d"

SCRIPT = """
set -euo pipefail
sdtune() { "$PYTHON" -m sdtune "$@"; }
sdtune prepare photos --out dataset --resolution 128 --json > prepare.jsonl
sdtune caption dataset --captioner mini --json > caption.jsonl
sdtune train-lora dataset --rank 4 --steps 2 --samples.off --json > train.jsonl
sdtune sample --prompt "a red apple" --lora runs/dataset-1 --steps 2 --json > sample.jsonl
tail -qn1 prepare.jsonl caption.jsonl train.jsonl sample.jsonl
"""


def photos(folder: Path) -> None:
    """Pictures as people have them: turned, for print, deep, doubled, blurred, broken, some without a caption."""
    folder.mkdir()
    names = sorted(path.stem for path in EXAMPLES.glob("*.png"))[:10]
    for name in names[:5]:
        shutil.copy(EXAMPLES / f"{name}.png", folder)
        shutil.copy(EXAMPLES / f"{name}.txt", folder)
    pictures = [Image.open(EXAMPLES / f"{name}.png").convert("RGB") for name in names]
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures[5].rotate(90).save(folder / "IMG_2041.jpg", exif=exif, quality=95)
    pictures[6].convert("CMYK").save(folder / "for print.jpg", quality=95)
    pictures[7].convert("L").save(folder / "old scan.png")
    pictures[0].resize((180, 180)).save(folder / "smaller copy.jpg")
    pictures[8].filter(ImageFilter.GaussianBlur(9)).save(folder / "out of focus.png")
    (folder / "broken.png").write_bytes((EXAMPLES / f"{names[9]}.png").read_bytes()[:2000])
    (folder / "notes.docx").write_text("no image")


def test_ugly_files_become_a_data_set_captions_a_lora_and_a_picture(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    prepared, described, trained, drawn = map(json.loads, done.stdout.splitlines())
    assert (prepared["images"], prepared["set_aside"]) == (8, {"near-duplicate": 1, "blurred": 1})
    assert (prepared["skipped"], prepared["left"], prepared["described"]) == (1, 1, 5)
    assert (described["report"], described["images"], described["skipped"]) == ("described", 3, 0)
    captions = {path.stem: path.read_text() for path in (tmp_path / "dataset").glob("*.txt")}
    assert len(captions) == 8
    assert all(len(text.split()) >= 2 for text in captions.values())
    assert (tmp_path / trained["lora"]).stat().st_size > 10_000
    with Image.open(tmp_path / drawn["path"]) as picture:
        assert picture.size == (128, 128)
