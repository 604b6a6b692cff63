"""Many prompts, many LoRAs, pictures to begin with: what one picture is does not depend on the others."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from sdtune.core import lora_file
from sdtune.core.data.cache import Store
from sdtune.core.lora import Lora, LoraModule
from sdtune.core.reports import Note, Report, Saved, Warned
from sdtune.core.sampling import parts, scripts
from sdtune.errors import ConfigError, DataError, LoraError, SdtuneError
from tests import pictures
from tests.core.test_sample import draw, pictures_of, write_lora


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA for the tiny sd1."""
    return write_lora("sd1", tmp_path_factory.mktemp("lora") / "style.safetensors")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the tiny models' size, of noise and colour."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    values = numpy.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=numpy.uint8)
    Image.fromarray(values).save(path)
    return path


def drawn_bytes(reports: list[Report]) -> list[bytes]:
    return [path.read_bytes() for path in pictures_of(reports)]


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3"])
def test_a_picture_is_the_same_bytes_alone_in_batches_and_beside_others(
    family: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """Others are longer by chunks, edited by step, of other sizes."""
    told: dict[str, Any] = {"sampler": "euler-a"} if family != "sd3" else {}
    alone = drawn_bytes(draw(tiny_models[family], **told, seed=1, out=tmp_path / "alone"))
    others = ["a red apple", "a [cat:dog:1] " + "and more " * 60, "two BREAK chunks --w 96 --d 5 --s 3"]
    for size in (1, 2, 4):
        many = draw(tiny_models[family], **told, prompt=others, count=2, batch_size=size, out=tmp_path / str(size))
        assert drawn_bytes(many)[1:2] == alone
        assert len(pictures_of(many)) == 6
    by_size = [[path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in "124"]
    assert by_size[0] == by_size[1] == by_size[2]


def test_prompts_come_from_a_file_and_from_standard_input(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "# of mine\na cat --n dark --w 96 --h 64 --d 7 --l 3.5 --s 3\n\na dog\r\n"
    (tmp_path / "prompts.txt").write_text(text)
    (one, two) = pictures_of(draw(tiny_models["sd1"], prompt=[], prompts=tmp_path / "prompts.txt", out=tmp_path / "a"))
    assert (one.name, two.name) == ("00001-7-a-cat.png", "00002-0-a-dog.png")
    with Image.open(one) as picture:
        assert picture.size == (96, 64)
        assert "Negative prompt: dark\nSteps: 3, " in picture.info["parameters"]
        assert "CFG scale: 3.5, Seed: 7, Size: 96x64" in picture.info["parameters"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    piped = draw(tiny_models["sd1"], prompt=[], prompts=Path("-"), out=tmp_path / "b")
    assert drawn_bytes(piped) == [one.read_bytes(), two.read_bytes()]
    (tmp_path / "prompts.txt").write_text("a\na cat --w 5x\n")
    with pytest.raises(ConfigError, match=r"prompts\.txt, line 2, column 7"):
        draw(tiny_models["sd1"], prompt=[], prompts=tmp_path / "prompts.txt", out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_lora_in_the_prompt_is_one_on_the_command_line(
    tiny_models: dict[str, Path], lora: Path, tmp_path: Path
) -> None:
    (whole,) = pictures_of(draw(tiny_models["sd1"], lora=[f"{lora}:0.5"], out=tmp_path / "a"))
    prompts = ["a red apple", "a red apple<lora:style:0.5>", "a red apple", "a red apple <lora:style:0>"]
    told: dict[str, Any] = {"prompt": prompts, "lora_folder": lora.parent, "name": "{line}"}
    draw(tiny_models["sd1"], **told, out=tmp_path / "b")
    in_prompts = {path.stem: pictures.pixels(path) for path in (tmp_path / "b").iterdir()}
    assert (in_prompts["2"] == pictures.pixels(whole)).all()
    assert not (in_prompts["1"] == in_prompts["2"]).all()
    assert (in_prompts["1"] == in_prompts["3"]).all(), "the LoRA was taken out again"
    assert (in_prompts["1"] == in_prompts["4"]).all(), "at no strength it is the base"
    same = draw(tiny_models["sd1"], prompt=["a red apple <lora:style:0.5>"], lora_folder=lora.parent, out=whole.parent)
    assert not pictures_of(same), "with a blank before it, too"
    with pytest.raises(ConfigError, match="styl"):
        draw(tiny_models["sd1"], prompt=["a <lora:styl:1>"], lora_folder=lora.parent, out=tmp_path / "c")


@pytest.mark.parametrize("small", [0, 10**9])
def test_loras_that_cannot_act_are_refused_before_the_first_picture(
    small: int, tiny_models: dict[str, Path], lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "SMALL", small)
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    wrong = Lora({name: LoraModule(torch.ones(1, 7), torch.ones(9, 1), 1.0)}, "sd1")
    lora_file.write(tmp_path / "wrong.safetensors", wrong)
    told: dict[str, Any] = {"lora_folder": tmp_path, "out": tmp_path / "out", "steps": 1}
    with pytest.raises(LoraError, match=r"wrong\.safetensors: the LoRA changes .*to_q"):
        draw(tiny_models["sd1"], prompt=["a", "a <lora:wrong:1>"], **told)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="--prompt: 33 LoRAs, and 32 are the most of a picture; `sdtune merge`"):
        draw(tiny_models["sd1"], lora=[f"{lora}:0.1"] * 33, **told)
    assert not (tmp_path / "out").exists()


def test_many_prompts_lie_on_disk_until_they_are_drawn(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [f"{word} {number}" for number in range(4) for word in ("a", "b")]
    few = drawn_bytes(draw(tiny_models["sd1"], prompt=prompts, steps=1, out=tmp_path / "few"))
    folders: list[Path | None] = []

    def store(folder: Path | None, held: int) -> Store:
        folders.append(folder)
        return Store(folder, held)

    monkeypatch.setattr(scripts, "IN_MEMORY", 3)
    monkeypatch.setattr(scripts, "HELD", 0)
    monkeypatch.setattr(scripts, "Store", store)
    many = drawn_bytes(draw(tiny_models["sd1"], prompt=prompts, steps=1, out=tmp_path / "many"))
    assert few == many
    assert [folder is not None and not folder.exists() for folder in folders] == [True], "on disk, and gone again"


def test_a_comparison_has_the_base_beside_the_lora(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    base = draw(tiny_models["sd1"], out=tmp_path / "base")
    both = draw(tiny_models["sd1"], lora=[f"{lora}:0.8"], compare=True, out=tmp_path / "both")
    assert len(pictures_of(both)) == 2
    assert drawn_bytes(both)[0] == drawn_bytes(base)[0]
    assert [report.path.suffix for report in both if isinstance(report, Saved)] == [".png", ".html"]
    alone = draw(tiny_models["sd1"], lora=[f"{lora}:0.8"], out=tmp_path / "alone")
    assert drawn_bytes(both)[1] == drawn_bytes(alone)[0]


def test_a_grid_crosses_two_settings(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    grid = ["strength=0,0.5 x seed=1..3"]
    reports = draw(tiny_models["sd1"], lora=[str(lora)], grid=grid, steps=1, out=tmp_path)
    assert len(pictures_of(reports)) == 6
    sheet, page = (report.path for report in reports if isinstance(report, Saved))
    with Image.open(sheet) as picture:
        assert picture.width > picture.height
    html = page.read_text()
    assert all(path.name in html for path in pictures_of(reports))
    assert "<script" not in html


def test_an_animation_goes_through_the_strengths(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    reports = draw(tiny_models["sd1"], lora=[str(lora)], animate="strength=0,0.5,1", steps=1, out=tmp_path)
    (saved,) = (report.path for report in reports if isinstance(report, Saved))
    with Image.open(saved) as film:
        assert (film.format, getattr(film, "n_frames", 1)) == ("WEBP", 4)


def test_img2img_begins_with_a_picture(tiny_models: dict[str, Path], photo: Path, tmp_path: Path) -> None:
    drawn = []
    for strength in (0.0, 0.5, 1.0):
        (path,) = pictures_of(
            draw(tiny_models["sd1"], init=photo, strength=strength, steps=4, out=tmp_path / f"{strength}.png")
        )
        drawn.append(pictures.pixels(path))
    assert not (drawn[0] == drawn[1]).all()
    assert not (drawn[1] == drawn[2]).all()
    with pytest.raises(DataError, match="--init"):
        draw(tiny_models["sd1"], init=Path(__file__), out=tmp_path / "x.png")


def test_what_is_black_in_the_mask_stays_to_the_byte(tiny_models: dict[str, Path], photo: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 24, 48, 56))
    mask.save(tmp_path / "mask.png")
    (path,) = pictures_of(draw(tiny_models["sd1"], init=photo, mask=tmp_path / "mask.png", out=tmp_path / "a.png"))
    before, after = pictures.pixels(photo), pictures.pixels(path)
    white = numpy.asarray(mask) > 0
    assert (before[~white] == after[~white]).all()
    assert (before[white] != after[white]).mean() > 0.5
    Image.new("L", (32, 64)).save(tmp_path / "other.png")
    told: dict[str, Any] = {"init": photo, "mask": tmp_path / "mask.png", "steps": 1}
    for name, count in (("a.jpg", 1), ("b.webp", 0)):
        reports = draw(tiny_models["sd1"], **told, out=tmp_path / name)
        lines = [report.text for report in reports if isinstance(report, Warned)]
        assert sum("what is black in the mask changes" in line for line in lines) == count
    with pytest.raises(SdtuneError, match="32 x 64"):
        draw(tiny_models["sd1"], init=photo, mask=tmp_path / "other.png", out=tmp_path / "b.png")


def test_a_second_pass_draws_larger(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    (path,) = pictures_of(draw(tiny_models["sd1"], hires={"scale": 2}, out=tmp_path / "a.png"))
    assert pictures.pixels(path).shape == (128, 128, 3)


def test_nothing_and_everything_is_drawn_in_one_line_where_it_cannot_be(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    def refused(match: str, **told: Any) -> None:
        with pytest.raises(SdtuneError, match=match) as problem:
            draw(tiny_models["sd1"], out=tmp_path / "x", **told)
        assert len(str(problem.value)) < 400

    refused(r"column 3.*weight", prompt=["a (apple:1.x)"])
    refused(r"__nowhere__", prompt=["a __nowhere__"])
    refused(r"nearest is 96", width=100)
    refused(r"100000 characters", prompt=["a" * 100_000])
    refused(r"tokens", prompt=["a " * 5_000])
    assert not (tmp_path / "x").exists()


def test_steps_of_a_prompt_are_told(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    reports = draw(tiny_models["sd1"], prompt=["a --s 3", "b"], out=tmp_path)
    (told,) = (report.text for report in reports if isinstance(report, Note) and report.text.startswith("drawing with"))
    assert "steps" not in told
