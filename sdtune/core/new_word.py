"""A new word, checked before a training's work begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sdtune.config import TrainLora
from sdtune.core import model
from sdtune.core.data.folder import Example, triggers_of, with_trigger
from sdtune.core.data.weights import without_weights
from sdtune.core.data.wordings import wordings
from sdtune.core.embedding import check_word, embedding_path
from sdtune.core.families import Family
from sdtune.core.reports import Telling, Warned
from sdtune.errors import ConfigError


def check_word_early(config: TrainLora, identity: model.Identity, family: Family) -> Telling[None]:
    """Stop at a word that the model knows, where its tokenizers are here; tell of one that UIs will know otherwise."""
    word = config.token.word
    if not word:
        return
    if model.is_here(identity):
        tokenizers = model.load(identity, torch.float32, without=(family.denoiser, "vae", *family.text_encoders))
        check_word(tokenizers, family, word, config.token.init)
    file = embedding_path(Path(), word)
    if file.stem != word:
        remedy = "a word of letters, digits, - and _ is the same everywhere"
        yield Warned(f'--new-token {word}: UIs will know it as "{file.stem}", since its file is {file}; {remedy}')


def check_said(config: TrainLora, examples: Sequence[Example]) -> None:
    """Stop at a word that no caption of the images to learn says, as where another trigger stands in its place."""
    word = config.token.word
    if not word:
        return
    said = [caption for one in examples if not one.prior for caption in one.captions if caption]
    if not said:
        remedy = f"leave it out, since the task {config.task.kind} has no captions"
        raise ConfigError(f"token.word (--new-token): no caption has {word}, so it cannot be learned; {remedy}")
    if config.captions.dropout == 1:
        remedy = "give less, such as 0.05, or leave --new-token out"
        raise ConfigError(f"captions.dropout: 1 leaves out every caption, so {word} cannot be learned; {remedy}")
    if not any(_is_read(word, caption, config) for caption in said):
        remedy = "write it into captions, or give no other trigger, and it is put before them"
        raise ConfigError(f"token.word (--new-token): no caption has {word}, so it cannot be learned; {remedy}")


def _is_read(word: str, caption: str, config: TrainLora) -> bool:
    """Whether the caption says it on its way to the model: some of its wordings, without what weighs."""
    for text in wordings(caption, config.captions, triggers_of(config)):
        read = without_weights(text) if config.captions.weights else text
        if with_trigger(read, word) == read:
            return True
    return False
