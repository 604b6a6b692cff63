"""What a LoRA file's metadata tells, in words: title, trigger phrase, training, hashes.

Kohya's programs write ss_* (sd-scripts, library/train_util.py), ModelSpec is at github.com/Stability-AI/ModelSpec, and
ai-toolkit keeps its steps in training_info.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sdtune.core.lora_names import SETTINGS

OF_WEIGHTS = ("sshs_model_hash", "modelspec.hash_sha256")
"""hashes of all that stands behind the header"""
HASHES = (*OF_WEIGHTS, "sshs_legacy_hash")
OF_THE_FILE = (*HASHES, SETTINGS, "format")
"""what holds for one file alone, and says nothing of what the LoRA is"""
STRENGTH = "modelspec.lora_default_weight"
"""at which it is best, by eval or by people: SwarmUI begins with it, and no standard has it"""
LONGEST_PROMPT = 80
"""letters of a command that people copy"""
LETTERS = 200
"""of a value in a table"""
PLAIN = "networks.lora"
STRONGEST = 100
_STRENGTH = re.compile(r"[0-9]{0,3}\.?[0-9]{1,20}")
NOTHING = ("", "None", "null", "{}", "[]")


def title_of(metadata: Mapping[str, str], otherwise: str) -> str:
    """What the LoRA is called."""
    return _first(metadata, "modelspec.title", "ss_output_name") or otherwise


def trigger_of(metadata: Mapping[str, str]) -> str | None:
    """The words that call up what it has learned, where it says so."""
    return _first(metadata, "modelspec.trigger_phrase", "trigger_phrase", "ss_trigger_words")


def prompt_of(trigger: str | None) -> str:
    """As much of a trigger phrase as goes into a command that people copy; empty where none of it does."""
    if not trigger or not trigger.isprintable():
        return ""
    return textwrap.shorten(trigger, LONGEST_PROMPT, placeholder="", break_long_words=False).rstrip(", ")


def strength_of(metadata: Mapping[str, str]) -> float | None:
    """The strength at which it is best, where it says so."""
    told = metadata.get(STRENGTH, "").strip()
    number = float(told) if _STRENGTH.fullmatch(told) else 0.0
    return number if 0 < number <= STRONGEST else None


def likely_trigger(metadata: Mapping[str, str]) -> str | None:
    """The tag that the most of the captions had, which kohya's programs keep by folder: ss_tag_frequency."""
    counts: Counter[str] = Counter()
    folders = _told(metadata.get("ss_tag_frequency", ""))
    for tags in folders.values():
        if isinstance(tags, dict):
            counts.update({str(tag).strip(): n for tag, n in tags.items() if type(n) is int and 0 < n < 2**31})
    del counts[""]
    return counts.most_common(1)[0][0][:LETTERS] if counts else None


def training_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """How it was trained, each under a word of ours; what is not told is left out."""
    told = {
        "base model": _base(metadata),
        "base version": _first(metadata, "ss_base_model_version", "modelspec.architecture"),
        "steps": _steps(metadata),
        "images": _images(metadata),
        "batch size": _first(metadata, "ss_total_batch_size", "ss_batch_size_per_device"),
        "learning rate": _rate(metadata),
        "optimizer": _optimizer(metadata),
        "schedule": _first(metadata, "ss_lr_scheduler"),
        "resolution": _resolution(metadata),
        "network": _network(metadata),
        "predicts": _first(metadata, "modelspec.prediction_type")
        or ("v" if metadata.get("ss_v_parameterization") == "True" else None),
        "clip skip": _first(metadata, "ss_clip_skip"),
        "seed": _first(metadata, "ss_seed"),
        "strength": f"{strength} (recommended)" if (strength := _first(metadata, STRENGTH)) else None,
        "date": _date(metadata),
        "author": _first(metadata, "modelspec.author"),
        "license": _first(metadata, "modelspec.license"),
        "tags": _first(metadata, "modelspec.tags"),
        "made by": _program(metadata),
    }
    return {name: value for name, value in told.items() if value}


def hashes_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """The hashes that the file says of itself."""
    return {name: value[:LETTERS] for name in HASHES if (value := metadata.get(name))}


def _first(metadata: Mapping[str, str], *names: str) -> str | None:
    values = (metadata.get(name, "").strip()[:LETTERS] for name in names)
    return next((value for value in values if value not in NOTHING), None)


def _told(text: str) -> dict[str, Any]:
    """What JSON says, {} where it is none."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _base(metadata: Mapping[str, str]) -> str | None:
    """The model's name, without the folders in which it lay where it was trained."""
    name = _first(metadata, "ss_sd_model_name")
    is_file = name and re.search(r"\.(safetensors|ckpt|pt|bin)$", name)
    return re.split(r"[\\/]", name)[-1] if name and is_file else name


def _steps(metadata: Mapping[str, str]) -> str | None:
    info = _told(metadata.get("training_info", ""))
    whole = str(info["step"]) if type(info.get("step")) is int else None
    steps, epochs = _first(metadata, "ss_steps", "ss_max_train_steps") or whole, _first(metadata, "ss_epoch")
    return f"{steps} ({epochs} epoch{'' if epochs == '1' else 's'})" if steps and epochs else steps


def _images(metadata: Mapping[str, str]) -> str | None:
    images, others = _first(metadata, "ss_num_train_images"), _first(metadata, "ss_num_reg_images")
    return f"{images}, and {others} for regularisation" if images and others not in (None, "0") else images


def _rate(metadata: Mapping[str, str]) -> str | None:
    usual = _first(metadata, "ss_learning_rate", "ss_unet_lr")
    text = _first(metadata, "ss_text_encoder_lr")
    return f"{usual}, of the text encoder {text}" if usual and text not in (None, usual) else usual


def _optimizer(metadata: Mapping[str, str]) -> str | None:
    """ "bitsandbytes.optim.adamw.AdamW8bit(weight_decay=0.1)" -> "AdamW8bit (weight_decay=0.1)"."""
    text = _first(metadata, "ss_optimizer")
    if not text:
        return None
    name, _, settings = text.partition("(")
    return name.rpartition(".")[2] + (f" ({settings}" if settings else "")


def _resolution(metadata: Mapping[str, str]) -> str | None:
    """ "(512, 512)" and "512x512" -> "512 x 512"."""
    text = _first(metadata, "ss_resolution", "modelspec.resolution")
    numbers = re.findall(r"\d+", text or "")
    return f"{numbers[0]} x {numbers[1]}" if len(numbers) == 2 else text


def _network(metadata: Mapping[str, str]) -> str | None:
    """The program's module, with its algorithm where it has several; kohya's own for plain LoRAs says nothing more."""
    module, settings = _first(metadata, "ss_network_module"), _told(metadata.get("ss_network_args", ""))
    algorithm = settings.get("algo")
    if module == PLAIN:
        return None
    return f"{module} ({algorithm})" if module and isinstance(algorithm, str) else module


def _date(metadata: Mapping[str, str]) -> str | None:
    date = _first(metadata, "modelspec.date")
    ended = _first(metadata, "ss_training_finished_at")
    if date or not ended:
        return date
    try:
        return datetime.fromtimestamp(float(ended), UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return None


def _program(metadata: Mapping[str, str]) -> str | None:
    """ai-toolkit says so itself; kohya's programs are told by their numbers, PEFT by its settings."""
    software = _told(metadata.get("software", "")).get("name")
    if isinstance(software, str):
        return software[:LETTERS]
    if "ss_sd_scripts_commit_hash" in metadata:
        return "sd-scripts"
    return "peft" if SETTINGS in metadata else None
