"""An embedding: a new word for CLIP's text encoders, of vectors of its own, in memory and as the file that UIs load.

Textual inversion (Gal et al. 2022, arXiv:2208.01618). The encoders' own words are not touched: the new vectors stand
beside them, under numbers that follow theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AddedToken

from sdtune.core.families import Family
from sdtune.core.header import read_header
from sdtune.core.lora import Lora
from sdtune.core.run_folder import safe_name, write_atomically
from sdtune.core.safetensors_bytes import serialised
from sdtune.errors import ConfigError, LoraError

ONE = "emb_params"
SEVERAL = ("clip_l", "clip_g")
"""what A1111 and ComfyUI call the vectors in a file: of the only encoder, or of the first and the second"""
WORD = "word"
"""metadata that tells the word; where it is missing, the file's name is the word, as in UIs"""
MOST = 75  # vectors, which fill a chunk


class Vocabulary(nn.Module):
    """The embedding of tokens, with that of one more word after it."""

    def __init__(self, base: nn.Module, first: int, rows: Tensor) -> None:
        super().__init__()
        self.base = base
        self.first = first
        """number of the word's first token"""
        self.rows = nn.Parameter(rows)
        """[vectors, width], fp32"""

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., width], in the precision of the encoder's own words."""
        is_new = ids >= self.first
        known: Tensor = self.base(ids.masked_fill(is_new, 0))
        own = self.rows[(ids - self.first).clamp(min=0)].to(known)
        return torch.where(is_new.unsqueeze(-1), own, known)


def check_word(pipe: Any, family: Family, word: str, init: str | None = None) -> None:
    """Stop at a word that cannot be new, and at an `init` without words; looks at the pipeline's tokenizers alone."""
    for tokenizer in _tokenizers(pipe, family).values():
        ids = tokenizer(word, add_special_tokens=False).input_ids
        if not ids:
            raise ConfigError(f'token.word (--new-token): "{word}" has nothing to read; give a word, such as sks-cat')
        if len(ids) == 1 or word in tokenizer.get_vocab():  # the beginning of a longer word may be a token, too
            raise ConfigError(
                f'token.word (--new-token): the model knows "{word}" already; give a new word, such as {word}-new'
            )
        if init and not tokenizer(init, add_special_tokens=False).input_ids:
            raise ConfigError(f'token.init: "{init}" has nothing to read; give known words, such as cat')


def add_word(pipe: Any, family: Family, word: str, vectors: int) -> None:
    """Makes the tokenizers of CLIP read it as so many tokens: word, word_1, word_2 ...

    Those who count a caption's tokens do so after it; the encoders learn of it with `put`.
    """
    names = [word, *(f"{word}_{number}" for number in range(1, vectors))]
    for tokenizer in _tokenizers(pipe, family).values():
        tokenizer.add_tokens([AddedToken(name, single_word=True, normalized=True) for name in names])


def has_word(pipe: Any, family: Family, word: str) -> bool:
    """Whether it has been added."""
    return all(word in tokenizer.get_added_vocab() for tokenizer in _tokenizers(pipe, family).values())


def put(pipe: Any, family: Family, word: str, rows: Mapping[str, Tensor]) -> dict[str, Vocabulary]:
    """Gives an added word its vectors {part: [vectors, width]}; returns each encoder's vocabulary."""
    found = {}
    for part, tokenizer in _tokenizers(pipe, family).items():
        encoder = getattr(pipe, part)
        first = tokenizer.get_added_vocab()[word]
        own = encoder.get_input_embeddings()
        found[part] = Vocabulary(own, first, rows[part].to(encoder.device, torch.float32))
        encoder.set_input_embeddings(found[part])
        # Models of before 2023 say 2 here, by which transformers takes the highest number for the mark of the end.
        getattr(encoder, "text_model", encoder).eos_token_id = tokenizer.eos_token_id
    return found


def embedding_path(folder: Path, word: str) -> Path:
    """Where the file of a word stands; UIs take its name for the word."""
    return folder / f"{safe_name(word)}.safetensors"


def save_embedding(path: Path, family: Family, word: str, rows: Mapping[str, Tensor]) -> None:
    """Writes the vectors {part: [vectors, width]} of a word, as A1111 and ComfyUI read them."""
    names = _names(family)
    tensors = {names[part]: value.detach().float().cpu().contiguous() for part, value in rows.items()}
    data = serialised(tensors, {WORD: word, "format": "pt"})
    write_atomically(path, lambda place: place.write_bytes(data))


def word_in(path: Path) -> str:
    """The word that a file of an embedding teaches."""
    return read_header(path, LoraError).metadata.get(WORD) or path.stem


def load_embedding(pipe: Any, family: Family, path: Path) -> str:
    """Teaches the pipeline the word in a file of ours or of A1111's or ComfyUI's form; returns the word."""
    word = word_in(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as problem:
        raise LoraError(f"{path}: a broken safetensors file ({problem}); get it again from where it came") from None
    names = _names(family)
    if len(names) == 1 and len(tensors) == 1:  # under whatever name
        tensors = dict.fromkeys(names.values(), next(iter(tensors.values())))
    if set(tensors) != set(names.values()):
        told = ", ".join(sorted(tensors)[:4]) or "nothing"
        raise LoraError(f"{path}: no embedding for {family.title}, as it holds {told}; choose one that was made for it")
    _teach(pipe, family, word, {part: tensors[name] for part, name in names.items()}, str(path))
    return word


def embeddings_into(pipe: Any, family: Family, lora: Lora) -> list[str]:
    """Teaches the pipeline the words that are bundled with a LoRA; returns them."""
    for word, rows in lora.embeddings.items():
        where = f'"{word}", bundled with the LoRA'
        missing = sorted(set(family.clips) - set(rows))
        if missing:
            told = f"no embedding for {family.title}, as it has none for its {' and '.join(missing)}"
            raise LoraError(f"{where}: {told}; choose the model that the LoRA was made for")
        _teach(pipe, family, word, rows, where)
    return list(lora.embeddings)


def _teach(pipe: Any, family: Family, word: str, given: Mapping[str, Tensor], where: str) -> None:
    """A word with its vectors {part: [vectors, width]}, or [width] of one; `where` they were found tells an error."""
    rows = {part: torch.atleast_2d(given[part]).float() for part in family.clips}
    for part, value in rows.items():
        width = getattr(pipe, part).config.hidden_size
        if value.ndim != 2 or value.shape[1] != width:
            told = f"its vectors are {value.shape[-1]} wide, and the model's {width}"
            raise LoraError(f"{where}: no embedding for this model: {told}; choose one that was made for it")
        if not value.isfinite().all():
            raise LoraError(f"{where}: holds values that are no numbers; the file is broken, choose another")
    counts = {len(value) for value in rows.values()}
    if len(counts) > 1 or not 1 <= max(counts) <= MOST:
        raise LoraError(f"{where}: holds {' and '.join(map(str, sorted(counts)))} vectors; choose another file")
    if has_word(pipe, family, word):
        raise LoraError(f'{where}: "{word}" was taught by another embedding already; give one of them')
    if any(word in tokenizer.get_vocab() for tokenizer in _tokenizers(pipe, family).values()):
        raise LoraError(f'{where}: the model knows "{word}" itself; give it a name that is no word, such as {word}-new')
    add_word(pipe, family, word, *counts)
    put(pipe, family, word, rows)


def _tokenizers(pipe: Any, family: Family) -> dict[str, Any]:
    """CLIP's, by the part that reads what they make."""
    return {part: getattr(pipe, part.replace("text_encoder", "tokenizer")) for part in family.clips}


def _names(family: Family) -> dict[str, str]:
    """{part: name of its vectors in a file}."""
    return dict(zip(family.clips, SEVERAL if len(family.clips) > 1 else (ONE,), strict=True))
