"""The words of the mini model: a byte-pair vocabulary of its own in CLIP's layout."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from tools.mini.captions import TEMPLATES
from tools.mini.emoji import Emoji

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def train(emoji: list[Emoji], size: int, folder: Path) -> CLIPTokenizer:
    """A vocabulary of at most `size` tokens learned from labels and tags, written into `folder`."""
    merges = _merges(_sentences(emoji), size)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = letters + [letter + WORD_END for letter in letters] + ["".join(pair) for pair in merges] + [START, END]
    assert len(set(tokens)) == len(tokens), "two merges make the same token"
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, indent=0), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), encoding="utf-8")
    return load(folder)


def load(folder: Path) -> CLIPTokenizer:
    """The vocabulary in a folder."""
    return CLIPTokenizer.from_pretrained(folder)


def _sentences(emoji: list[Emoji]) -> Iterator[str]:
    for e in emoji:
        yield e.label
        yield from e.tags
    for template in TEMPLATES:
        yield from [template.replace("{label}", "")] * 20


def _merges(sentences: Iterable[str], size: int) -> list[tuple[str, str]]:
    """Pairs to join, in order, so that bytes, bytes at a word's end, merges and two marks are `size` tokens."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    clip = CLIPTokenizer().backend_tokenizer  # its own way of cutting a text into words
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = clip.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, end_of_word_suffix=WORD_END, show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(pair) for pair in merges][: size - 2 * len(alphabet) - 2]
