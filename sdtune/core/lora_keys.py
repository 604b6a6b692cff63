"""What a LoRA file's tensors are, told by their names and shapes alone, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdtune.core.header import Header


@dataclass(frozen=True)
class Network:
    """A kind of network, as its tensors are named."""

    kind: str
    """as in Adapter.kind"""
    roles: frozenset[str]
    """all that may stand behind a module's name, as kohya's form and LyCORIS spell it"""
    marks: frozenset[str]
    """roles of which one is enough to tell the network"""


_LORA = frozenset({"lora_down.weight", "lora_up.weight", "lora_mid.weight"})
_LOHA = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"})
_LOKR = frozenset(
    {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"},
)
_MAGNITUDE = frozenset({"dora_scale", "lora_magnitude_vector"})
"""kohya's and LyCORIS', of outputs or inputs by its shape; peft's, of outputs always"""

NETWORKS: Mapping[str, Network] = {
    one.kind: one
    for one in (
        Network("DoRA", _LORA | _LOHA | _LOKR | _MAGNITUDE | {"alpha"}, _MAGNITUDE),
        Network("LoRA", _LORA | {"alpha"}, _LORA),
        Network("LoHa", _LOHA | {"alpha"}, _LOHA),
        Network("LoKr", _LOKR | {"alpha"}, _LOKR),
        Network("OFT", frozenset({"oft_blocks", "rescale", "alpha"}), frozenset({"oft_blocks"})),
        Network("difference", frozenset({"diff", "w_norm"}), frozenset({"diff", "w_norm"})),
    )
}
"""the first of which a mark is there is the module's network: a DoRA is one of LoRA, LoHa or LoKr with a magnitude"""

BIASES = frozenset({"diff_b", "b_norm"})
"""roles of what is added to biases, beside a network or alone"""


@dataclass(frozen=True)
class Keys:
    """Where everything stands in a LoRA file."""

    form: str
    """kohya, kohya (numbered blocks), peft, diffusers, diffusers (old) ..."""
    modules: Mapping[str, Mapping[str, str]]
    """{module: {role: key}}; the module by part and diffusers' path, the role as in NETWORKS, whatever the form"""
    kinds: Mapping[str, str]
    """{module: kind of network}"""
    cuts: Mapping[str, tuple[int, int]]
    """{module: (number, of)} of modules that are one of several equal shares of a tensor's outputs (a fused q, k, v)"""
    biases: Mapping[str, str]
    """{module: key} of what is added to biases"""
    embeddings: Mapping[str, Mapping[str, str]]
    """{word: {part of the pipeline: key}} of bundled new words"""


def keys_of(path: Path, header: Header) -> Keys:
    """Where everything stands; raises LoraError where the file is none, or holds what nobody knows."""
    raise NotImplementedError
