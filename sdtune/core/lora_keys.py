"""What a LoRA file's tensors are, told by their names and shapes alone, without torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sdtune.core import lora_names as names
from sdtune.core.families import families
from sdtune.core.header import Header
from sdtune.core.lora_strangers import other_family, what_else
from sdtune.errors import LoraError


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


_WHOLE = (
    {"lora_down.weight", "lora_up.weight"},
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    *(
        {*first, *second}
        for first in (["lokr_w1"], ["lokr_w1_a", "lokr_w1_b"])
        for second in (["lokr_w2"], ["lokr_w2_a", "lokr_w2_b"])
    ),
    {"oft_blocks"},
    {"diff"},
    {"w_norm"},
)
_BESIDE = frozenset({"alpha", "lora_mid.weight", "hada_t1", "hada_t2", "lokr_t2", "rescale"}) | _MAGNITUDE
"""roles that may be left out; the others are together one of the sets above"""

_BIAS = "bias"
_OLD = {
    f"{between}{word}.weight": role
    for between in (".lora.", ".lora_linear_layer.", "_lora.")
    for word, role in (("down", "lora_down.weight"), ("up", "lora_up.weight"))
}
_ENDS = {f".{role}": role for network in NETWORKS.values() for role in network.roles} | _OLD
_ENDS |= {f".{role}": _BIAS for role in BIASES}
_ENDS |= {
    f".lora_{letter}{adapter}{weight}": role
    for letter, role in (("A", "lora_down.weight"), ("B", "lora_up.weight"))
    for adapter in ("", ".default")
    for weight in ("", ".weight")
}
_ENDS |= {f".lora_magnitude_vector{end}": "lora_magnitude_vector" for end in (".weight", ".default", ".default.weight")}
"""how keys end in every form, and the roles that these ends mean; bare lora_A is what Mochi's programs write"""
_END = re.compile("(?:" + "|".join(re.escape(end) for end in sorted(_ENDS)) + ")$")
_LONGEST_END = max(map(len, _ENDS))
_WORD = re.compile(r"bundle_emb\.([^.]+)\.(.+)")
_WORD_PARTS = {
    "string_to_param.*": "text_encoder",
    "emb_params": "text_encoder",
    "clip_l": "text_encoder",
    "clip_g": "text_encoder_2",
    "t5": "text_encoder_3",
    "t5xxl": "text_encoder_3",
}
_HARMLESS = "string_to_token.*"
"""the word's number in a vocabulary, which every program gives anew: nothing is lost without it"""


@dataclass(frozen=True)
class Keys:
    """Where everything stands in a LoRA file."""

    form: str
    """kohya, kohya (numbered blocks), kohya (joint blocks), peft, diffusers, diffusers (old), OneTrainer, LyCORIS,
    ComfyUI; several are joined by "and" """
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
    swapped: frozenset[str] = field(default=frozenset())
    """modules the halves of whose outputs change places: SD3's last modulations, which shift, then scale, but in
    diffusers scale, then shift"""


def keys_of(path: Path, header: Header) -> Keys:
    """Where everything stands; raises LoraError where the file is none, or holds what nobody knows."""
    if not header.shapes:
        raise LoraError(f"{path}: holds no weights; get it again")
    places: dict[str, dict[str, str]] = {}
    spelt: dict[str, str] = {}
    meant: dict[str, names.Named | None] = {}
    cuts, forms, originals, unknown = {}, set(), set(), []
    embeddings: dict[str, dict[str, str]] = {}
    for key in header.shapes:
        if key.startswith("bundle_emb."):
            if not _is_bundled(path, header, key, embeddings):
                unknown.append(key)
            continue
        end = _END.search(key, len(key) - _LONGEST_END)
        name = key[: end.start()] if end else ""
        if name not in meant:
            meant[name] = names.named(name)
        named = meant[name]
        if end is None or named is None:
            unknown.append(key)
            continue
        role = _ENDS[end[0]]
        forms.add(named.form or _dotted_form(name, end[0], header))
        for number, module in enumerate(named.modules):
            plain = name.replace(".processor.", ".")
            if spelt.setdefault(module, plain) != plain or role in places.setdefault(module, {}):
                raise LoraError(f"{path}: names {module} twice ({key}); the file is broken, choose another")
            places[module][role] = key
            if len(named.modules) > 1:
                cuts[module] = (number, len(named.modules))
            if named.original:
                originals.add(module)
    if unknown:
        told = unknown[0][:100] + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
        stranger = what_else(header.shapes, unknown)
        what = f"not a LoRA of a kind that sdtune reads (it does not know {told}); choose another file"
        raise LoraError(f"{path}: {stranger or what}")
    biases = {module: roles.pop(_BIAS) for module, roles in places.items() if _BIAS in roles}
    modules = {module: roles for module, roles in places.items() if roles}
    if not modules and not biases:
        raise LoraError(f"{path}: new words alone ({', '.join(embeddings)[:80]}), not a LoRA; choose another file")
    for module, roles in modules.items():
        _check(path, header, module, roles)
    keys = Keys(
        form=_joined(forms),
        modules=modules,
        kinds={module: _kind(roles) for module, roles in modules.items()},
        cuts=cuts,
        biases=biases,
        embeddings=embeddings,
        swapped=frozenset(module for module in originals if _shifts_first(header, module, places[module])),
    )
    if stranger := other_family(widths(keys, header)):
        raise LoraError(f"{path}: {stranger}")
    return keys


def family_of(keys: Keys, header: Header) -> str | None:
    """By shapes and names where these are sure, else by what the metadata says; None where neither tells."""
    shapes = {module: (0, width) for module, width in widths(keys, header).items()}
    sure = (family.name for family in families().values() if family.recognises_lora(shapes))
    return next(sure, None) or said_family(header.metadata)


def said_family(metadata: Mapping[str, str]) -> str | None:
    """The family that the metadata names."""
    said = [metadata.get(key, "") for key in ("modelspec.architecture", "ss_base_model_version")]
    return next((one.name for one in families().values() if any(text.startswith(one.marks) for text in said)), None)


def widths(keys: Keys, header: Header) -> dict[str, int]:
    """How many inputs each module has (of a convolution channels); 0 where shapes do not tell."""
    found = {module: _sides(header, roles)[1] for module, roles in keys.modules.items()}
    readers = (".attn2.to_k", ".attn2.to_v")  # by which families are told apart, so rather left out than unknown
    return {module: width for module, width in found.items() if width or not module.endswith(readers)}


def _is_bundled(path: Path, header: Header, key: str, embeddings: dict[str, dict[str, str]]) -> bool:
    """Whether a key is of a bundled new word, which then stands in `embeddings`."""
    match = _WORD.fullmatch(key)
    if not match or match[2] not in (*_WORD_PARTS, _HARMLESS):
        return False
    if match[2] == _HARMLESS:
        return True
    word, part = match[1], _WORD_PARTS[match[2]]
    if part in embeddings.setdefault(word, {}):
        raise LoraError(f"{path}: holds the word {word} twice ({key}); the file is broken, choose another")
    shape = header.shapes[key]
    if len(shape) not in (1, 2) or not math.prod(shape):
        raise LoraError(f"{path}: the vectors of its word {word} have shape {shape}, which are none; get it again")
    _refuse_whole_numbers(path, header, f"the word {word}", key)
    embeddings[word][part] = key
    return True


def _dotted_form(name: str, end: str, header: Header) -> str:
    if end in _OLD or ".processor." in name:
        return "diffusers (old)"
    of_peft = name.startswith("base_model.model.") or ".default" in end or names.SETTINGS in header.metadata
    return "peft" if of_peft else "diffusers"


def _joined(forms: Iterable[str]) -> str:
    """Text encoders are spelt alike in several forms, of which the denoiser tells."""
    told = sorted(forms)
    if len(told) > 1 and "kohya" in told and all(form.startswith(("kohya", "OneTrainer")) for form in told):
        told.remove("kohya")
    return " and ".join(told) or "kohya"


def _check(path: Path, header: Header, module: str, roles: Mapping[str, str]) -> None:
    """Stop at a module that lacks something, is of several networks, or is made of whole numbers."""
    if set(roles) - _BESIDE not in _WHOLE:
        told = " and ".join(sorted(roles))
        raise LoraError(f"{path}: {module} has {told} alone; the file is not whole, get it again")
    for role, key in roles.items():
        if role != "alpha":
            _refuse_whole_numbers(path, header, module, key)
        elif math.prod(header.shapes[key]) != 1:
            raise LoraError(f"{path}: {module} has an alpha of {math.prod(header.shapes[key])} numbers; get it again")


def _refuse_whole_numbers(path: Path, header: Header, what: str, key: str) -> None:
    if not header.dtypes[key].startswith(("F", "BF")):
        told = f"holds whole numbers ({header.dtypes[key]})"
        raise LoraError(f"{path}: {what} {told}, which no LoRA is made of; choose another")


def _kind(roles: Mapping[str, str]) -> str:
    return next(kind for kind, network in NETWORKS.items() if network.marks & roles.keys())


def _shifts_first(header: Header, module: str, roles: Mapping[str, str]) -> bool:
    """Whether it is the last modulation of images, or of captions: that has 2 outputs for each input, others 6."""
    if module.endswith(".norm1_context.linear"):
        outputs, inputs = _sides(header, roles)
        return bool(inputs) and outputs == 2 * inputs
    return module.endswith(".norm_out.linear")


def _sides(header: Header, roles: Mapping[str, str]) -> tuple[int, int]:
    """Outputs and inputs of a module's weights, as far as shapes tell; else 0."""

    def side(dimension: int, *wanted: str) -> int:
        shapes = [header.shapes[roles[role]] for role in wanted if role in roles]
        return shapes[0][dimension] if shapes and len(shapes[0]) > 1 else 0

    if {"hada_t1", "lokr_t2"} & roles.keys():
        return 0, 0
    outputs = side(0, "lora_up.weight", "hada_w1_a", "diff")
    inputs = side(1, "lora_down.weight", "hada_w1_b", "diff")
    return (
        outputs or side(0, "lokr_w1", "lokr_w1_a") * side(0, "lokr_w2", "lokr_w2_a"),
        inputs or side(1, "lokr_w1", "lokr_w1_b") * side(1, "lokr_w2", "lokr_w2_b"),
    )
