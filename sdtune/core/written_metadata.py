"""What the metadata of a LoRA file says: of the LoRA itself, of its training, and never whose machine made it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping

from sdtune.core.adapters import Adapter
from sdtune.core.families import Family, family_named
from sdtune.core.lora import Lora
from sdtune.core.lora_metadata import OF_THE_FILE
from sdtune.core.shareable import clean

MOST_TAGS = 500
"""of ss_tag_frequency; a data set of free sentences would fill the header"""
LONGEST_TAG = 200
"""letters; what is longer is no tag"""


def carried_over(metadata: Mapping[str, str]) -> dict[str, str]:
    """What of a file's metadata holds for another one of the same LoRA, and may be shown to others."""
    return clean({key: value for key, value in metadata.items() if key not in OF_THE_FILE})


def of_structure(lora: Lora) -> dict[str, str]:
    """What follows from the LoRA itself, as kohya's programs and the ModelSpec standard (1.0.1) name it."""
    ranks = {value.rank for value in lora.modules.values() if value.rank is not None}
    alphas = {alpha for value in lora.modules.values() if (alpha := getattr(value, "alpha", None)) is not None}
    found = {
        "ss_network_module": _network_module(lora.modules.values()),
        "ss_network_dim": _one(map(str, ranks)),
        "ss_network_alpha": _one(f"{alpha:.12g}" for alpha in alphas),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": lora.metadata.get("modelspec.implementation", "diffusers"),
        "modelspec.title": lora.metadata.get("modelspec.title") or lora.metadata.get("ss_output_name") or "LoRA",
    }
    if lora.family:
        found |= _of_family(family_named(lora.family), lora.metadata)
    return found


def _of_family(family: Family, metadata: Mapping[str, str]) -> dict[str, str]:
    """Which base model it is for; what the LoRA said before is kept where it is of this family."""
    prediction = metadata.get("modelspec.prediction_type", "epsilon")
    found = {
        "ss_base_model_version": family.version(prediction),
        "modelspec.architecture": f"{family.architecture(prediction)}/lora",
    }
    if "modelspec.prediction_type" not in metadata:
        known = {key: metadata[key] for key in found if metadata.get(key, "").startswith(family.marks)}
        found |= known
    return found | {"ss_v2": str(family.base_version.startswith("sd_v2"))}


def _network_module(adapters: Iterable[Adapter]) -> str:
    """Whose program makes all of these: LyCORIS' loads plain LoRAs, too."""
    found = {adapter.module for adapter in adapters}
    return max(found, key=lambda name: (name != "networks.lora", name), default="networks.lora")


def _one(told: Iterable[str]) -> str:
    found = set(told)
    return found.pop() if len(found) == 1 else "Dynamic"


def tag_frequency(name: str, captions: Iterable[tuple[str, int]]) -> str:
    """ss_tag_frequency: how often each tag is shown, of (caption, repeats), the most frequent first.

    A1111 shows it beside a LoRA. Tags are what stands between commas.
    """
    counts: Counter[str] = Counter()
    for caption, repeats in captions:
        for tag in map(str.strip, caption.split(",")):
            if 0 < len(tag) <= LONGEST_TAG:
                counts[tag] += repeats
    most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_TAGS]
    return json.dumps({name: dict(most)}, ensure_ascii=False)
