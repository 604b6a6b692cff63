"""Text encoders that learn with the denoiser, so that each step reads its captions afresh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import inject_adapter_in_model
from torch import Tensor, nn

from sdtune.config import TrainLora
from sdtune.core.draws import generator
from sdtune.core.embedding import Vocabulary, add_word, check_word, has_word, put
from sdtune.core.families import Family
from sdtune.tables import Token

_ATTENTION = r"self_attn\.(q|k|v|out)_proj"
_FEED_FORWARD = r"mlp\.fc[12]"
NOISE = 0.01
"""of a vector's length, by which those that start from one word differ"""


class LiveText:
    """The text encoders of a pipeline, with a LoRA in CLIP's or a new word for them, or both; T5 is read as it is."""

    def __init__(self, pipe: Any, family: Family, config: TrainLora, device: torch.device, chunks: int) -> None:
        self._pipe, self._family, self._config, self._chunks = pipe, family, config, chunks
        for part in family.text_encoders:
            if getattr(pipe, part) is not None:
                getattr(pipe, part).to(device).requires_grad_(False)
        trained = family.clips if config.text.train else ()
        self.parts: Mapping[str, nn.Module] = {part: _with_lora(pipe, family, part, config) for part in trained}
        """the encoders that have a LoRA, by their names in the pipeline"""
        self._words = _new_word(pipe, family, config.token, config.seed) if config.token.word else {}

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer, each with its learning rate and the names of its parameters."""
        text, token = self._config.text, self._config.token
        groups = []
        for part, encoder in self.parts.items():
            own = {id(parameter) for word in self._words.values() for parameter in word.parameters()}
            lora = {
                f"{part}.{path}": one
                for path, one in encoder.named_parameters()
                if one.requires_grad and id(one) not in own
            }
            rate = text.lr_2 if part.endswith("_2") and text.lr_2 is not None else text.lr
            groups.append({"params": list(lora.values()), "names": list(lora), "lr": rate})
        if self._words:
            rows = {f"token.{part}": word.rows for part, word in self._words.items()}
            groups.append({"params": list(rows.values()), "names": list(rows), "lr": token.lr})
        return groups

    def read(self, captions: Sequence[str], chunks: int | None = None) -> dict[str, Tensor]:
        """What the denoiser is told of each caption, with gradients to what is trained: {name: [n, ...]}.

        `chunks`: other than those of the data set. A wording that is drawn may need more of them than any before.
        """
        weighted = self._config.captions.weights
        needed = self._family.count_chunks(self._pipe, captions, weighted=weighted)
        return self._family.encode_captions(
            self._pipe,
            captions,
            chunks=max(chunks or self._chunks, *needed),
            clip_skip=self._config.text.clip_skip,
            weighted=weighted,
        )

    def embeddings(self) -> dict[str, Tensor]:
        """The new word's vectors as they are now, by encoder: {part: [vectors, width]} on the CPU in fp32."""
        return {part: word.rows.detach().float().cpu().clone() for part, word in self._words.items()}


def _with_lora(pipe: Any, family: Family, part: str, config: TrainLora) -> nn.Module:
    """The encoder with a fresh LoRA in fp32 in those of its layers that are read, the same for the same seed."""
    encoder = getattr(pipe, part)
    read = encoder.config.num_hidden_layers - family.unread_layers(part, config.text.clip_skip)
    layers = "|".join(map(str, range(read)))
    inside = _ATTENTION if "ff" not in config.network.layers else f"({_ATTENTION}|{_FEED_FORWARD})"
    with torch.random.fork_rng():
        torch.manual_seed(generator(config.seed, "network", part).initial_seed())
        inject_adapter_in_model(config.network.peft_config(rf"(.*\.)?layers\.({layers})\.{inside}"), encoder)
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trained: nn.Module = encoder
    return trained


def _new_word(pipe: Any, family: Family, token: Token, seed: int) -> dict[str, Vocabulary]:
    """Gives the word its first vectors: those of known words in turn, else the mean of all, each a bit off."""
    assert token.word is not None, "there is no new word"
    if not has_word(pipe, family, token.word):
        check_word(pipe, family, token.word, token.init)
        add_word(pipe, family, token.word, token.vectors)
    rows = {}
    for part in family.clips:
        known = getattr(pipe, part).get_input_embeddings().weight.detach().float()
        usual = known.norm(dim=1).mean()
        if token.init:
            tokenizer = getattr(pipe, part.replace("text_encoder", "tokenizer"))
            ids = tokenizer(token.init, add_special_tokens=False).input_ids
            start = known[[ids[number % len(ids)] for number in range(token.vectors)]]
        else:  # the mean is far shorter than any word
            start = (known.mean(dim=0) * usual / known.mean(dim=0).norm()).expand(token.vectors, -1)
        off = torch.randn(start.shape, generator=generator(seed, "token", part)).to(start)
        rows[part] = start + NOISE * usual * off / off.norm(dim=1, keepdim=True)
    return put(pipe, family, token.word, rows)
