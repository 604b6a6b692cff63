"""What is true of every captioner that writes, on tiny random models in folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdtune.choices.captioners import Auto, Blip, Florence2, Qwen3VL
from sdtune.core.captioners import Picture, load, resolve
from sdtune.errors import ModelError
from sdtune.tables import Memory
from tests.core.captioners import tiny

CPU = Memory(device="cpu")
KINDS: dict[str, Any] = {"florence2": Florence2, "blip": Blip, "qwen3-vl": Qwen3VL}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("captioners")
    return {kind: tiny.saved(kind, root / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """Three of other sizes and contents."""
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (96, 40), (33, 90)]
    noise = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in sizes]
    return [Picture(Path(f"{i}.png"), Image.fromarray(pixels)) for i, pixels in enumerate(noise)]


def settings(kind: str, folder: Path, **more: Any) -> Any:
    return KINDS[kind](model=str(folder), max_new_tokens=12, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_tells_what_one_by_one_tells(kind: str, folders: dict[str, Path], pictures: list[Picture]) -> None:
    describer = load(settings(kind, folders[kind]), CPU)
    together = describer.describe(pictures)
    assert together == [one for picture in pictures for one in describer.describe([picture])]
    assert all(len(told) == 1 and told[0].text for told in together)
    assert len({told[0].text for told in together}) > 1  # what is told depends on the picture
    assert not any(mark in told[0].text for told in together for mark in ("<", "[SEP]", "Describe"))


@pytest.mark.parametrize("kind", KINDS)
def test_variants_are_drawn_by_seed_and_name(kind: str, folders: dict[str, Path], pictures: list[Picture]) -> None:
    hot = settings(kind, folders[kind], temperature=3.0)
    first = load(hot, CPU, seed=1).describe(pictures, variants=4)
    assert first == load(hot, CPU, seed=1).describe(pictures[::-1], variants=4)[::-1]
    assert first != load(hot, CPU, seed=2).describe(pictures, variants=4)
    assert [told[:1] for told in first] == load(hot, CPU, seed=1).describe(pictures)
    assert max(len(told) for told in first) == 4
    twin = Picture(Path("twin.png"), pictures[0].image)
    assert load(hot, CPU, seed=1).describe([twin], variants=4) != first[:1]
    assert all(len({one.text for one in told}) == len(told) for told in first)
    assert not any(letter < " " for told in first for one in told for letter in one.text)


def test_blip_goes_on_from_the_prompt(folders: dict[str, Path], pictures: list[Picture]) -> None:
    begun = load(settings("blip", folders["blip"], prompt="a photo of"), CPU).describe(pictures)
    assert all(told[0].text.startswith("a photo of") for told in begun)


def test_florence2_is_asked_by_task(folders: dict[str, Path], pictures: list[Picture]) -> None:
    describer = load(settings("florence2", folders["florence2"], length="short"), CPU)
    ids = describer.inputs([pictures[0].image])["input_ids"][0]  # type: ignore[attr-defined]
    assert "What does the image describe?" in describer.tokenizer.decode(ids)  # type: ignore[attr-defined]


def test_florence2_without_a_name_for_the_image_token(
    folders: dict[str, Path], pictures: list[Picture], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["florence2"], tmp_path / "nameless"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config.pop("image_token") == "<image>"
    for name in ("extra_special_tokens", "model_specific_special_tokens"):
        config.pop(name, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    nameless, named = (load(settings("florence2", place), CPU) for place in (folder, folders["florence2"]))
    assert nameless.describe(pictures) == named.describe(pictures)


def test_qwen3_vl_is_asked_the_prompt_and_sees_no_more_pixels_than_asked(
    folders: dict[str, Path], pictures: list[Picture]
) -> None:
    for most, places in ((128 * 128, 16), (64 * 64, 4)):
        describer: Any = load(settings("qwen3-vl", folders["qwen3-vl"], prompt="What is it?", max_pixels=most), CPU)
        given = describer.inputs([pictures[0].image.resize((512, 512))])  # type: ignore[union-attr]
        chat = describer.tokenizer.decode(given["input_ids"][0])
        patches = "<|image_pad|>" * places
        asked = (
            f"<|im_start|>user\n<|vision_start|>{patches}<|vision_end|>What is it?<|im_end|>\n<|im_start|>assistant\n"
        )
        assert chat == asked


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_none_is_told_in_one_line(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    other = folders["blip" if kind != "blip" else "florence2"]
    whole = folders[kind]
    broken = {
        "no such folder": tmp_path / "nowhere",
        "a file": whole / "config.json",
        "no config.json": tmp_path,
        "give the folder of one that is": other,
        "only a pickle (pytorch_model.bin)": _without(whole, tmp_path / "pickled", "model.safetensors"),
        "no vocabulary": _without(whole, tmp_path / "wordless", "tokenizer.json", "vocab.txt", "vocab.json"),
        "no preprocessor_config.json": _without(whole, tmp_path / "blind", "preprocessor_config.json"),
        "bytes where its header tells of": _cut(whole, tmp_path / "cut"),
    }
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"PK")
    for told, folder in broken.items():
        if told == "no config.json":
            folder = _without(whole, tmp_path / "confused", "config.json")
        with pytest.raises(ModelError) as error:
            load(settings(kind, folder), CPU)
        assert told in str(error.value)
        assert "\n" not in str(error.value)


HOSTILE: list[tuple[str, str, Any, str]] = [
    ("preprocessor_config.json", "image_mean", [0.5], "image_mean is not three numbers"),
    ("preprocessor_config.json", "image_std", [0.5, 0, 0.5], "image_std is not above 0"),
    ("preprocessor_config.json", "image_mean", "0.5", "image_mean is not three numbers"),
    ("preprocessor_config.json", "size", {"height": 10**6, "width": 10**6}, "size.height is not a number"),
    ("preprocessor_config.json", "size", {"height": 0, "width": 8}, "size.height is not a number"),
    ("config.json", "num_hidden_layers", 10**9, "num_hidden_layers is not a number up to"),
    ("config.json", "encoder_layers", 10**9, "encoder_layers is not a number up to"),
    ("config.json", "num_labels", 10**9, "num_labels is not a number up to"),
    ("config.json", "vocab_size", 10**12, "vocab_size is not a number up to"),
    ("config.json", "vocab_size", 2**23, "weights where there are"),
    ("config.json", "hidden_size", "wide", "cannot be loaded"),
    ("config.json", "num_attention_heads", 0, "cannot be loaded"),
    ("config.json", "num_attention_heads", -3, "cannot be loaded"),
    ("config.json", "image_size", 10**9, "image_size is not a number up to"),
    ("preprocessor_config.json", None, [], "not a config in JSON"),
    ("config.json", None, [], "not a config in JSON"),
]


@pytest.mark.parametrize(("file", "name", "value", "words"), HOSTILE)
def test_configs_that_cannot_be_are_told_in_one_line(
    file: str, name: str | None, value: Any, words: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["blip"], tmp_path / "blip"))
    config = json.loads((folder / file).read_text())
    if name is not None and name != "size" and file == "config.json":
        for part in ("text_config", "vision_config"):
            config[part][name] = value
    (folder / file).write_text(json.dumps(value if name is None else {**config, name: value}))
    with pytest.raises(ModelError) as error:
        load(settings("blip", folder), CPU)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "told", [{}, {"decoder_start_token_id": 10**6, "bos_token_id": 10**6}, {"eos_token_id": "end"}, {"num_beams": "x"}]
)
def test_a_generation_config_that_does_not_work_is_told_in_one_line(
    kind: str, told: dict[str, Any], folders: dict[str, Path], pictures: list[Picture], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders[kind], tmp_path / kind))
    (folder / "generation_config.json").write_text(json.dumps(told))
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config.get("text_config", {})):
        for name in ("bos_token_id", "decoder_start_token_id"):
            part[name] = None
    (folder / "config.json").write_text(json.dumps(config))
    problem = None
    try:
        load(settings(kind, folder), CPU).describe(pictures[:1])  # what it does not need may be wrong
    except ModelError as error:
        problem = str(error)
    assert problem is None or ("cannot be loaded" in problem and "\n" not in problem)
    assert problem or (kind, told) not in [("florence2", {}), ("blip", {})]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("chat_template.jinja", "{% for x in %}"),
        ("chat_template.jinja", "{{ messages.x.y }}"),
        ("preprocessor_config.json", {"size": {"height": 32, "width": 32}}),
    ],
)
def test_a_chat_that_cannot_be_is_told_in_one_line(
    file: str, text: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["qwen3-vl"], tmp_path / "qwen"))
    told = text if isinstance(text, str) else json.dumps({**json.loads((folder / file).read_text()), **text})
    (folder / file).write_text(told)
    with pytest.raises(ModelError, match="cannot be loaded") as error:
        load(settings("qwen3-vl", folder), CPU)
    assert "\n" not in str(error.value)


def test_a_model_that_has_worked_keeps_its_errors(
    folders: dict[str, Path], pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first picture shows whether a model's files fit; what fails later is no matter of the files."""
    describer: Any = load(settings("blip", folders["blip"]), CPU)
    describer.describe(pictures[:1])
    monkeypatch.setattr(describer, "inputs", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        describer.describe(pictures[:1])
    fresh: Any = load(settings("blip", folders["blip"]), CPU)
    monkeypatch.setattr(fresh, "inputs", lambda _: 1 / 0)
    with pytest.raises(ModelError, match="cannot be loaded"):
        fresh.describe(pictures[:1])


def test_a_hub_name_that_cannot_be_reached_names_what_works_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"^florence-community/Florence-2-base is not on this machine.*mini"):
        load(Florence2(), CPU)


def test_safetensors_are_taken_from_where_the_converter_put_them(
    monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path], tmp_path: Path, pictures: list[Picture]
) -> None:
    asked = []

    def fetch(name: str, files: Any, instead: str) -> Path:
        asked.append((name, "model.safetensors" in files or "*.safetensors" in files, "mini" in instead))
        return folders["blip"] if "@" in name else _without(folders["blip"], tmp_path / "main", "model.safetensors")

    monkeypatch.setattr("sdtune.core.hub.fetch", fetch)
    assert load(Blip(max_new_tokens=4), CPU).describe(pictures)
    name = "Salesforce/blip-image-captioning-base"
    assert asked == [(name, True, True), (f"{name}@refs/pr/38", True, True)]


def test_half_precision(folders: dict[str, Path], pictures: list[Picture]) -> None:
    for kind in KINDS:
        describer: Any = load(settings(kind, folders[kind]), Memory(device="cpu", precision="bf16"))
        assert describer.model.dtype == torch.bfloat16
        assert all(told[0].text for told in describer.describe(pictures))


def test_a_card_less_machine_takes_florence2() -> None:
    assert resolve(Auto(), CPU) == Florence2()
    assert resolve(Blip(), CPU) == Blip()


@pytest.mark.parametrize(("free", "chosen"), [(6 * 2**30, Qwen3VL()), (6 * 2**30 - 1, Florence2())])
def test_a_card_with_room_takes_qwen3_vl(free: int, chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, 2**40))
    assert resolve(Auto(), Memory()) == chosen
    assert resolve(Auto(), CPU) == Florence2()


def _without(folder: Path, copy: Path, *files: str) -> Path:
    return Path(shutil.copytree(folder, copy, ignore=lambda *_: files))


def _cut(folder: Path, copy: Path) -> Path:
    shutil.copytree(folder, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return copy
