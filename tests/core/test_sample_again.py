"""What a second command finds: pictures that are there, and a picture that is to be drawn once more."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sdtune.core import autoencoder
from sdtune.core.picture_file import save_picture
from sdtune.core.reports import Drawn, Note, Report, Saved, There
from sdtune.core.sample import sample
from sdtune.core.sampling.again import recipe_in
from sdtune.errors import ConfigError, LoraError, OutputError, SdtuneError
from sdtune.sample_config import Sample
from tests import tiny
from tests.core.test_sample import draw, pictures_of, write_lora
from tests.pictures import pixels


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA for the tiny sd1."""
    return write_lora("sd1", tmp_path_factory.mktemp("lora") / "style.safetensors")


def there(reports: list[Report]) -> list[Path]:
    return [report.path for report in reports if isinstance(report, There)]


def notes(reports: list[Report]) -> str:
    return "\n".join(report.text for report in reports if isinstance(report, Note))


def test_a_second_run_goes_on_where_the_first_stopped(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    asked: dict[str, Any] = {"prompt": ["a", "b", "c"], "out": tmp_path / "out", "count": 2}
    work = sample(Sample(model=str(tiny_models["sd1"]), steps=2, **asked))
    first = []
    for report in work:
        first.append(report)
        if len(pictures_of(first)) == 3:
            work.close()
            break
    assert sorted(tmp_path.rglob("*.png")) == pictures_of(first)
    rest = draw(tiny_models["sd1"], **asked)
    assert there(rest) == pictures_of(first)
    assert len(pictures_of(rest)) == 3
    whole = draw(tiny_models["sd1"], **(asked | {"out": tmp_path / "whole"}))
    both = sorted(there(rest) + pictures_of(rest))
    assert [path.read_bytes() for path in both] == [path.read_bytes() for path in pictures_of(whole)]
    once_more = draw(tiny_models["sd1"], **asked)
    assert not pictures_of(once_more)
    assert "all 6 pictures are there already; --overwrite draws them again" in notes(once_more)
    assert "all 6" not in notes(rest)
    assert not [report for report in once_more if isinstance(report, Saved)]
    other = draw(tiny_models["sd1"], **(asked | {"steps": 3}))
    assert len(pictures_of(other)) == 6
    before = both[0].read_bytes()
    both[0].write_bytes(before[:-20])
    assert len(pictures_of(draw(tiny_models["sd1"], **asked, overwrite=True))) == 6
    assert both[0].read_bytes() == before


def test_a_picture_is_drawn_again_by_its_file(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    told: dict[str, Any] = {"prompt": ["a [red:green:1] (apple:1.2), {x|y}"], "negative": "dark", "seed": 4}
    told |= {"lora": [f"{lora}:0.5:mid_block=0.2"], "guidance": 3.5, "sampler": "euler-a", "width": 96}
    for suffix in ("png", "webp", "jpg"):
        (path,) = pictures_of(draw(tiny_models["sd1"], **told, out=tmp_path / f"first.{suffix}"))
        reports = list(
            sample(
                Sample(
                    again=path,
                    out=tmp_path / f"second.{suffix}",
                    model=str(tiny_models["sd1"]),
                    lora=(str(lora),),
                )
            )
        )
        (second,) = pictures_of(reports)
        assert second.read_bytes() == path.read_bytes()
        assert "the same bytes" in notes(reports)


@pytest.mark.parametrize(
    ("large", "told"),
    [
        (2 * 96 * 64, {"width": 96, "height": 64, "hires": {"scale": 2, "steps": 2}}),  # the second pass alone
        (96 * 64 - 1, {"width": 96, "height": 64}),
        (96 * 64, {"width": 96, "height": 64}),
    ],
)
def test_what_was_decoded_in_tiles_is_again(
    large: int, told: dict[str, Any], tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoencoder, "LARGE", large)
    model = tiny_models["sd1"]
    for tiles in ("auto", "on", "off"):
        (path,) = pictures_of(draw(model, **told, tiles=tiles, out=tmp_path / f"{tiles}.png"))
        (second,) = pictures_of(list(sample(Sample(again=path, out=tmp_path / f"again-{tiles}.png", model=str(model)))))
        assert second.read_bytes() == path.read_bytes()
    whole, auto = ((tmp_path / f"{tiles}.png").read_bytes() for tiles in ("off", "auto"))
    assert (whole == auto) == (large == 96 * 64), "the recipe is the same where nothing is large enough"


def test_a_picture_of_another_model_or_precision_is_not_there(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_models["sd1"], model)

    def drawn(**told: Any) -> int:
        return len(pictures_of(draw(model, out=tmp_path / "out", **told)))

    assert (drawn(), drawn()) == (1, 0)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    name = max(tensors, key=lambda one: tensors[one].numel())
    tensors[name].view(-1)[tensors[name].numel() // 2] += 1
    save_file(tensors, weights, {"format": "pt"})
    assert (drawn(), drawn()) == (1, 0)
    vocabulary = model / "tokenizer" / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text() + "\n")
    assert (drawn(), drawn()) == (1, 0)
    narrow = {"memory": {"precision": "bf16"}}
    assert (drawn(**narrow), drawn(**narrow), drawn()) == (1, 0, 0)


def test_a_new_word_under_another_name_is_another_picture(
    tiny_models: dict[str, Path], lora: Path, tmp_path: Path
) -> None:
    run, words = tmp_path / "cats-1", tmp_path / "cats-1" / "embeddings"
    words.mkdir(parents=True)
    (run / "run.toml").write_text("")
    shutil.copy(lora, run / "cats.safetensors")
    word = words / "sks.safetensors"
    save_file({"emb_params": torch.ones(1, tiny.WIDTH)}, word)

    def drawn() -> list[Path]:
        told: dict[str, Any] = {"prompt": ["a sks cat"], "lora": [str(run / "cats.safetensors")]}
        return pictures_of(draw(tiny_models["sd1"], out=tmp_path / "out", **told))

    (first,), none = drawn(), drawn()
    assert not none
    assert [use.word for use in recipe_in(first).words] == ["sks"]
    word.rename(words / "zwx.safetensors")
    (second,) = drawn()
    assert [use.word for use in recipe_in(second).words] == ["zwx"]
    assert not (pixels(first) == pixels(second)).all()
    (words / "zwx.safetensors").unlink()
    save_file({"emb_params": torch.ones(1, tiny.WIDTH)}, words / "moved.safetensors", {"word": "sks"})
    (third,) = drawn()
    assert [use.word for use in recipe_in(third).words] == ["sks"]


def test_again_says_what_is_missing_or_otherwise(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    (path,) = pictures_of(draw(tiny_models["sd1"], lora=[str(lora)], out=tmp_path / "first.png"))
    model = str(tiny_models["sd1"])
    with pytest.raises(LoraError, match=r"style\.safetensors.*--lora"):
        list(sample(Sample(again=path, out=tmp_path / "second.png", model=model)))
    with pytest.raises(ConfigError, match="seed"):
        list(sample(Sample(again=path, out=tmp_path / "second.png", model=model, lora=(str(lora),), seed=3)))
    Image.new("RGB", (64, 64)).save(tmp_path / "other.png")
    with pytest.raises(SdtuneError, match=r"other\.png"):
        list(sample(Sample(again=tmp_path / "other.png")))
    with pytest.raises(SdtuneError, match="nowhere"):
        list(sample(Sample(again=tmp_path / "nowhere.png")))
    assert not (tmp_path / "second.png").exists()


def test_no_file_is_replaced_unless_that_is_asked(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    draw(tiny_models["sd1"], out=path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"a\.png"):
        draw(tiny_models["sd1"], out=path, seed=5)
    assert path.read_bytes() == before
    draw(tiny_models["sd1"], out=path, seed=5, overwrite=True)
    assert path.read_bytes() != before
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"a\.png"):
        draw(tiny_models["sd1"], out=path)
    assert path.read_bytes() == b"mine"


def test_names_by_template(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    told: dict[str, Any] = {"name": "{seed:03}-{steps}-{prompt}", "format": "webp"}
    reports = draw(tiny_models["sd1"], prompt=["A cat/dog"], count=2, out=tmp_path, **told)
    assert sorted(path.name for path in pictures_of(reports)) == ["000-2-a-cat-dog.webp", "001-2-a-cat-dog.webp"]
    with pytest.raises(ConfigError, match="sede"):
        draw(tiny_models["sd1"], out=tmp_path, name="{sede}")


def test_drawn_tells_path_seed_prompt_and_time(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    (drawn,) = (report for report in draw(tiny_models["sd1"], out=tmp_path, seed=3) if isinstance(report, Drawn))
    assert (drawn.prompt, drawn.seed, drawn.seconds > 0) == ("a red apple", 3, True)


@pytest.mark.parametrize("told", [{"grid": ["seed=1,2"]}, {"compare": True}, {"animate": "strength=0,1"}])
def test_a_second_run_leaves_no_second_sheet(
    told: dict[str, Any], tiny_models: dict[str, Path], lora: Path, tmp_path: Path
) -> None:
    def saved() -> list[tuple[str, Path]]:
        reports = draw(tiny_models["sd1"], lora=[str(lora)], steps=1, out=tmp_path, **told)
        return [(report.what, report.path) for report in reports if isinstance(report, Saved)]

    first, files = saved(), sorted(tmp_path.iterdir())
    assert saved() == [(f"{what} (there already)", path) for what, path in first]
    assert sorted(tmp_path.iterdir()) == files
    grids = [path for what, path in first]
    grids[0].write_bytes(b"of another")
    assert saved()[0] == (first[0][0], tmp_path / f"{grids[0].stem[:-5]}{len(files) + 1:05d}{grids[0].suffix}")


def test_again_ends_with_an_error_where_pixels_are_others_now(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    (path,) = pictures_of(draw(tiny_models["sd1"], steps=1, out=tmp_path / "first.png"))
    recipe = recipe_in(path)
    save_picture(path, Image.new("RGB", (64, 64), "red"), recipe, overwrite=True)
    work = sample(Sample(again=path, out=tmp_path / "second.png", model=str(tiny_models["sd1"])))
    with pytest.raises(SdtuneError, match=r"second\.png: differs from .*first\.png") as problem:
        list(work)
    assert problem.value.exit_code == 1
    assert recipe_in(tmp_path / "second.png") == recipe, "it stays, to be looked at"
