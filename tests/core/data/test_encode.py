"""Images and captions are encoded once, each as it would be alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdtune.config import TrainLora
from sdtune.core.data import encode
from sdtune.core.data.folder import read_folders
from sdtune.core.families import family_named
from sdtune.core.reports import Progress
from sdtune.tables import Data
from tests import pictures, tiny


def result(work: Any) -> tuple[Any, list[Progress]]:
    """What a generator returns, and the progress that it told."""
    told = []
    while True:
        try:
            told.append(next(work))
        except StopIteration as end:
            return end.value, [one for one in told if isinstance(one, Progress)]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.pipeline("sd1")


def test_every_image_is_encoded_as_it_would_be_alone(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = family_named("sd1")
    folder = pictures.folder(tmp_path, 7, ((128, 128), (160, 96), (96, 160)))
    examples, _ = result(read_folders(TrainLora(data=Data(folder=folder))))
    told = {one.caption: {"number": torch.tensor([float(n)])} for n, one in enumerate(examples)}
    together, progress = result(encode.encode_examples(examples, told, family, pipe.vae, 128))
    assert {tuple(one.mean.shape) for one in together} == {(4, 16, 16), (4, 12, 20), (4, 20, 12)}
    for number, example in enumerate(examples):
        (alone,), _ = result(encode.encode_examples([example], told, family, pipe.vae, 128))
        assert torch.allclose(together[number].mean, alone.mean, atol=1e-5)
        assert torch.allclose(together[number].std, alone.std, atol=1e-5)
        assert together[number].conditionings == (told[example.caption],)
    assert progress[-1] == Progress("encoding images", 7, 7)

    monkeypatch.setattr(encode, "PIXELS_AT_ONCE", 1)
    singly, progress = result(encode.encode_examples(examples, told, family, pipe.vae, 128))
    assert [one.number for one in progress] == [1, 2, 3, 4, 5, 6, 7]
    assert all(torch.allclose(one.mean, other.mean, atol=1e-5) for one, other in zip(singly, together, strict=True))


def test_equal_captions_are_encoded_once_and_the_encoders_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    family, device = family_named("sd1"), torch.device("cpu")
    monkeypatch.setattr(encode, "CAPTIONS_AT_ONCE", 2)
    captions = ["a red apple", "", "a blue disc", "a red apple"]
    pipe = tiny.pipeline("sd1")
    found, progress = result(encode.encode_captions(captions, family, pipe, device))
    assert pipe.text_encoder is None
    assert progress[-1] == Progress("encoding captions", 3, 3)
    states = [one["encoder_hidden_states"] for one in found]
    assert torch.equal(states[0], states[3])
    assert not torch.equal(states[0], states[1])
    for caption, state in zip(captions, states, strict=True):
        (alone,), _ = result(encode.encode_captions([caption], family, tiny.pipeline("sd1"), device))
        assert torch.allclose(alone["encoder_hidden_states"], state, atol=1e-5)
        assert state.dtype == torch.float32
