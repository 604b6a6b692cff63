"""Captions through CLIP's text encoders, in chunks of 75 tokens whose states stand one after another.

As A1111 and kohya's programs do it: each chunk is read by itself between its own marks of begin and end, so that a
caption may be longer than the 77 tokens that CLIP was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdtune.core.data.weights import broken
from sdtune.core.data.weights import weighted as by_weight

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 75
"""tokens of a chunk, without its two marks"""
BACK = 20
"""how far before its end a chunk rather ends at a comma; A1111's comma_padding_backtrack"""
END = "</w>"
"""what the vocabulary marks the last token of a word with"""
FLAT = 1e-3
"""means smaller than this share of the states' size are rounding, and no measure of anything"""


@dataclass(frozen=True)
class Tokens:
    """A caption as a tokenizer reads it, without marks of begin and end."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    """how strongly each counts"""
    ends: tuple[bool, ...]
    """whether a word ends with it"""
    commas: tuple[bool, ...]
    breaks: tuple[int, ...] = ()
    """how many tokens stand before each BREAK"""

    def __len__(self) -> int:
        return len(self.ids)


def tokens_of(tokenizer: Any, caption: str, *, weighted: bool = False, breaks: bool = False) -> Tokens:
    """The caption in tokens; an added word of several vectors becomes all of them: word, word_1, word_2.

    `breaks`: as A1111 reads a prompt, by weight and with BREAK at the end of a chunk.
    """
    added = tokenizer.get_added_vocab()
    further = {number: _further(name, added) for name, number in added.items()}
    found: list[tuple[int, float, bool]] = []
    stops: list[int] = []
    pieces = broken(caption) if breaks else [by_weight(caption) if weighted else [(caption, 1.0)]]
    for piece in pieces:
        for text, weight in piece:
            ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
            for token, name in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True):
                whole = [token, *further.get(token, ())]
                found += [(one, weight, False) for one in whole[:-1]]
                found.append((whole[-1], weight, token in further or name.endswith(END)))
        stops.append(len(found))
    ids, weights, ends = zip(*found, strict=True) if found else ((), (), ())
    comma = tokenizer.convert_tokens_to_ids("," + END)
    return Tokens(ids, weights, ends, tuple(token == comma for token in ids), tuple(stops[:-1]))


def chunked(tokens: Tokens) -> list[range]:
    """Places of each chunk's tokens, one chunk or more.

    A chunk ends where 75 are full, but rather after a comma among the last 20 of them, or else after a whole word; and
    at a BREAK, with nothing in it, too, but for the last.
    """
    chunks: list[range] = []
    start = 0
    for stop in (*tokens.breaks, len(tokens)):
        while stop - start > CHUNK:
            chunks.append(range(start, _end(tokens, start)))
            start = chunks[-1].stop
        chunks.append(range(start, stop))
        start = stop
    return chunks if len(chunks) == 1 or chunks[-1] else chunks[:-1]


def encode(
    encoder: Any,
    tokenizer: Any,
    captions: Sequence[str],
    *,
    chunks: int,
    weighted: bool = False,
    breaks: bool = False,
    layer: int = 1,
    normed: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """States [n, chunks x 77, width], and the first chunk's projection [n, width'] where the encoder has one.

    `layer` is counted from the last, 1; `normed`: its states go through the encoder's last normalisation, as the last
    layer's always do.
    """
    read = [tokens_of(tokenizer, caption, weighted=weighted, breaks=breaks) for caption in captions]
    ids, weights = _ids(tokenizer, read, chunks)
    told = encoder(ids.flatten(0, 1).to(encoder.device), output_hidden_states=True)
    states = told.hidden_states[-layer]
    if normed:
        states = getattr(encoder, "text_model", encoder).final_layer_norm(states)
    if weighted or breaks:
        states = _emphasised(states, weights.flatten(0, 1).to(states))
    pooled = getattr(told, "text_embeds", None)
    return states.unflatten(0, ids.shape[:2]).flatten(1, 2), None if pooled is None else pooled[::chunks]


def encode_both(
    pipe: Any, captions: Sequence[str], *, chunks: int, weighted: bool = False, breaks: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """States of the last layer but one of both CLIPs side by side, and their projections (sdxl: the second's alone)."""
    import torch

    parts = ((pipe.text_encoder, pipe.tokenizer), (pipe.text_encoder_2, pipe.tokenizer_2))
    told = [
        encode(encoder, tokenizer, captions, chunks=chunks, weighted=weighted, breaks=breaks, layer=2, normed=False)
        for encoder, tokenizer in parts
    ]
    first, second = (states for states, _ in told)
    return torch.cat([first.to(second), second], dim=-1), [
        pooled.to(second) for _, pooled in told if pooled is not None
    ]


def _further(name: str, added: dict[str, int]) -> list[int]:
    """The further vectors of an added word."""
    found: list[int] = []
    while f"{name}_{len(found) + 1}" in added:
        found.append(added[f"{name}_{len(found) + 1}"])
    return found


def _end(tokens: Tokens, start: int) -> int:
    """Where a chunk that starts there ends, since not all that follows fits."""
    full = start + CHUNK
    if tokens.commas[full] and tokens.ends[full - 1]:
        return full
    comma = next((end for end in range(full, full - BACK, -1) if tokens.commas[end - 1]), None)
    return comma or next((end for end in range(full, start, -1) if tokens.ends[end - 1]), full)


def _ids(tokenizer: Any, captions: Sequence[Tokens], chunks: int) -> tuple[Tensor, Tensor]:
    """Token numbers and weights [n, chunks, 77], with marks and padding as the tokenizer has them."""
    import torch

    shape = (len(captions), chunks, CHUNK + 2)
    ids = torch.full(shape, tokenizer.pad_token_id)
    weights = torch.ones(shape)
    ids[:, :, 0] = tokenizer.bos_token_id
    ids[:, :, 1] = tokenizer.eos_token_id
    for row, tokens in enumerate(captions):
        places = chunked(tokens)
        assert len(places) <= chunks, f"a caption of {len(places)} chunks was to be read in {chunks}"
        for column, place in enumerate(places):
            inside = slice(1, 1 + len(place))
            ids[row, column, inside] = torch.tensor([tokens.ids[i] for i in place], dtype=torch.long)
            ids[row, column, inside.stop] = tokenizer.eos_token_id
            weights[row, column, inside] = torch.tensor([tokens.weights[i] for i in place])
    return ids, weights


def _emphasised(states: Tensor, weights: Tensor) -> Tensor:
    """Each token's states times its weight, the mean over the chunk as it was: A1111's emphasis "original"."""
    import torch

    changed = states * weights.unsqueeze(-1)
    before, after = (value.float().mean(dim=(1, 2), keepdim=True) for value in (states, changed))
    told = after.abs() > FLAT * changed.float().abs().mean(dim=(1, 2), keepdim=True)
    return changed * torch.where(told, before / torch.where(told, after, 1), 1).to(changed)
