"""The rack: LoRAs that are put into a model and taken out again, as one picture after the other wants them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdtune.core.adapters import Adapter
from sdtune.core.applied import Applied
from sdtune.core.beside import Beside, fill_beside, form, put_beside, take_out
from sdtune.core.embedding import embeddings_into, load_embedding
from sdtune.core.families import Family
from sdtune.core.lora import Fitted, Lora, all_fitted, by_weight, changed, digest_of, name_of
from sdtune.core.lora_names import split
from sdtune.core.run_folder import embeddings_beside
from sdtune.core.sampling.fingerprint import of_file
from sdtune.errors import LoraError


class Rack:
    """The LoRAs that act on some parts of a pipeline, and the new words that come with them.

    What is taken out leaves no trace: the weights are those of the model again, bit for bit, and so are the vocabulary
    and the tokenizers, which `use` replaces by copies that know the words. Words have no strength: they are known at 0.
    """

    def __init__(self, pipe: Any, family: Family, parts: Collection[str]) -> None:
        self.pipe, self.family, self.parts = pipe, family, tuple(parts)
        self.words: dict[str, Path] = {}
        """the new words that are known now, and the file that each is from"""
        self._used: tuple[tuple[Lora, object, Path], ...] | None = None
        """what acts now; None after a failure, for nothing is known then"""
        self._beside: dict[str, list[tuple[str, Beside]]] = {}
        """by part, what is beside its weights: (name, what is wanted)"""
        self._originals: dict[Tensor, Tensor] = {}
        """weights that are changed now as they were, on the CPU"""
        self._changes: dict[Tensor, list[tuple[Adapter, float]]] = {}
        self._vocabulary: dict[str, tuple[Any, Any, Any]] = {}
        """by text encoder before the first new word: its tokenizer, its vocabulary and its mark of the end"""

    def use(self, applied: Sequence[Applied]) -> None:
        """Have these act, and no others; nothing is done where they do already. LoraError where one does not fit.

        Parts of the model that are not this rack's are left alone; that the LoRAs fit the denoiser is checked where the
        pipeline has one, with weights or without.
        """
        used = tuple((one.lora, (one.strength.usual, dict(one.strength.blocks)), one.path) for one in applied)
        if self._used is not None and _same(self._used, used):
            return
        self._used = None
        self._forget_words()
        denoiser = self.family.denoiser
        elsewhere = {*self.family.text_encoders, *([] if getattr(self.pipe, denoiser, None) else [denoiser])}
        loras = all_fitted(self.pipe, applied, elsewhere - set(self.parts))
        for part in self.parts:
            self._put_beside(part, loras)
        self._change_weights(by_weight(loras, self.parts))
        if set(self.family.clips) & set(self.parts):
            self._learn_words(applied)
        self._used = used

    def _put_beside(self, part: str, loras: Sequence[Fitted]) -> None:
        """Plain LoRAs; those of other numbers or strengths take the places of those that are there."""
        now = self._beside.get(part, [])
        wanted = [(name_of(number), one.beside[part]) for number, one in enumerate(loras) if part in one.beside]
        net = getattr(self.pipe, part, None)
        alike = [(name, form(one)) for name, one in now] == [(name, form(one)) for name, one in wanted]
        if not alike and net is not None:
            self._beside.pop(part, None)
            take_out(net)
        for name, one in wanted:
            (fill_beside if alike else put_beside)(net, one, name)
        self._beside[part] = wanted

    def _change_weights(self, wanted: dict[Tensor, list[tuple[Adapter, float]]]) -> None:
        """All other networks, each time from the weights as they were."""
        for weight in [weight for weight in self._originals if weight not in wanted]:
            weight.data.copy_(self._originals.pop(weight))
            self._changes.pop(weight, None)
        for weight, changes in wanted.items():
            before = self._changes.pop(weight, [])
            if [(id(one), strength) for one, strength in before] != [(id(one), strength) for one, strength in changes]:
                if weight not in self._originals:
                    self._originals[weight] = weight.detach().to("cpu", copy=True)
                weight.data.copy_(changed(self._originals[weight], changes))
            self._changes[weight] = changes

    def _learn_words(self, applied: Sequence[Applied]) -> None:
        """Those that are bundled with the LoRAs, and those in their run folders."""
        bundled: dict[str, Any] = {}
        for one in applied:
            known = [word for word, rows in one.lora.embeddings.items() if _equal(rows, bundled.get(word))]
            new = {word: rows for word, rows in one.lora.embeddings.items() if word not in known}
            if new:
                self._remember_vocabulary()
                try:
                    words = embeddings_into(self.pipe, self.family, replace(one.lora, embeddings=new))
                except LoraError as problem:
                    raise LoraError(f"{one.path}: {problem}") from None
                bundled |= new
                self.words |= dict.fromkeys(words, one.path)
        for path in sorted({path for one in applied for path in embeddings_beside(one.path)}):
            self._remember_vocabulary()
            self.words[load_embedding(self.pipe, self.family, path)] = path

    def _remember_vocabulary(self) -> None:
        """Tokenizers cannot forget a word, so copies learn."""
        if self._vocabulary:
            return
        for part in self.family.clips:
            encoder, name = getattr(self.pipe, part), part.replace("text_encoder", "tokenizer")
            tokenizer = getattr(self.pipe, name)
            inner = getattr(encoder, "text_model", encoder)
            self._vocabulary[part] = (tokenizer, encoder.get_input_embeddings(), inner.eos_token_id)
            setattr(self.pipe, name, copy.deepcopy(tokenizer))

    def _forget_words(self) -> None:
        for part, (tokenizer, vocabulary, end) in self._vocabulary.items():
            encoder = getattr(self.pipe, part)
            encoder.set_input_embeddings(vocabulary)
            getattr(encoder, "text_model", encoder).eos_token_id = end
            setattr(self.pipe, part.replace("text_encoder", "tokenizer"), tokenizer)
        self._vocabulary, self.words = {}, {}


def must_fit_all(pipe: Any, applied: Iterable[Applied]) -> None:
    """Stop at a LoRA that does not fit the pipeline, whose weights need not be there.

    Each is looked at once, however many its strengths are, but for those that leave other blocks out.
    """
    apart: dict[object, Applied] = {}
    for one in applied:
        left_out = tuple(block for block, value in one.strength.blocks.items() if not value)
        apart.setdefault((id(one.lora), not one.strength.usual, tuple(one.strength.blocks), left_out), one)
    all_fitted(pipe, list(apart.values()))


def acting_on(applied: Sequence[Applied], parts: Collection[str]) -> str:
    """What stands for all that LoRAs do to some parts, "" for nothing; new words are among what changes text encoders.

    The same for sets that change these parts alike, whatever they do to others, and wherever their files are.
    """
    digest, count = hashlib.sha256(), 0
    of_words = any(part.startswith("text_encoder") for part in parts)
    for one in applied:
        told = [
            f"{name} {strength!r} {one.lora.digest_of(name)}"
            for name in sorted({*one.lora.modules, *one.lora.biases})
            if split(name)[0] in parts and (strength := one.strength(name))
        ]
        told += [f"{word!r} {_digest(rows)}" for word, rows in one.lora.embeddings.items() if of_words]
        if told:
            digest.update("\n".join([*told, "and\n"]).encode())
        count += len(told)
    for path in sorted({path for one in applied for path in embeddings_beside(one.path)}) if of_words else ():
        count += 1
        digest.update(f"{path.name!r} {of_file(path)}\n".encode())
    return digest.hexdigest() if count else ""


def _digest(rows: Mapping[str, Tensor]) -> str:
    """A hash of a word's vectors."""
    return digest_of({part: vectors.float() for part, vectors in rows.items()})


def _same(now: Sequence[tuple[Lora, object, Path]], wanted: Sequence[tuple[Lora, object, Path]]) -> bool:
    """Whether they are the same LoRAs in memory, at the same strengths."""
    return [(id(lora), strength, path) for lora, strength, path in now] == [
        (id(lora), strength, path) for lora, strength, path in wanted
    ]


def _equal(rows: Any, other: Any) -> bool:
    """Whether a word has the same vectors in both."""
    return other is not None and rows.keys() == other.keys() and all(torch.equal(rows[p], other[p]) for p in rows)
