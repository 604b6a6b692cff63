"""The built-in model is a whole Stable Diffusion of the SD1 family, small enough to ship, and draws what it is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from sdtune.config import Sample, resolve
from sdtune.core.header import read_header
from sdtune.core.model import MINI, identify, load
from sdtune.core.reports import Drawn
from sdtune.core.sample import sample
from sdtune.errors import ModelError
from tests import pictures


def test_it_is_small_and_in_half_precision() -> None:
    files = list(MINI.rglob("*.safetensors"))
    assert {file.parent.name for file in files} >= {"unet", "vae", "text_encoder"}
    assert sum(file.stat().st_size for file in MINI.rglob("*") if file.is_file()) <= 40e6
    for file in files:
        assert file.stat().st_size <= 16 * 2**20
        assert set(read_header(file, ModelError).dtypes.values()) <= {"F16", "I64"}
    (text_encoder,) = MINI.glob("text_encoder/*.safetensors")
    assert all(key.startswith("text_model.") for key in read_header(text_encoder, ModelError).shapes)


def test_it_is_an_sd1_with_the_noise_of_sd1() -> None:
    identity = identify("mini")
    assert (identity.family, identity.name) == ("sd1", "mini")
    pipe = load(identity, torch.float32)
    noise = pipe.scheduler.config
    assert (noise.beta_start, noise.beta_end, noise.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert (noise.prediction_type, noise.num_train_timesteps) == ("epsilon", 1000)
    assert (pipe.unet.config.sample_size, pipe.vae.config.latent_channels) == (16, 4)
    assert pipe.tokenizer.model_max_length == 77
    ids = pipe.tokenizer("a red apple").input_ids
    assert ids[0] == pipe.tokenizer.bos_token_id
    assert ids[-1] == pipe.tokenizer.eos_token_id == pipe.text_encoder.config.eos_token_id


def test_the_card_tells_measured_figures_licence_and_limits() -> None:
    card = (MINI / "README.md").read_text()
    for word in ("PSNR", "top-1", "top 5", "Apache-2.0", "Noto", "emojibase"):
        assert word in card
    assert re.search(r"\d+\.\d+ dB", card)
    assert (MINI / "NOTICE").is_file()
    figures = [path for path in MINI.rglob("*.json") if "psnr" in path.read_text().lower()]
    for path in figures:
        json.loads(path.read_text())


@pytest.mark.parametrize(("prompt", "channel"), [("a red apple", 0), ("a green apple", 1), ("a blue heart", 2)])
def test_colours_follow_the_words(prompt: str, channel: int, tmp_path: Path) -> None:
    told = {"prompt": [prompt], "out": tmp_path, "count": 2, "memory": {"device": "cpu"}}
    drawn = [report.path for report in sample(resolve(Sample, [told])) if isinstance(report, Drawn)]
    for path in drawn:
        pixels = pictures.pixels(path)
        assert pixels.shape == (128, 128, 3)
        coloured = pixels[pixels.min(axis=2) < 200]
        assert len(coloured) > 500, "something stands on the white ground"
        assert coloured.mean(axis=0).argmax() == channel
