"""Drawing as people ask for it: names, sheets, strengths, and what a picture says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sd_parsers import ParserManager

from sdtune import __version__
from sdtune.config import Sample, resolve
from sdtune.core import lora_file
from sdtune.core.families import family_named
from sdtune.core.lora import Lora, LoraModule, from_peft
from sdtune.core.reports import Drawn, Note, Report, Saved, Warned
from sdtune.core.sample import sample
from sdtune.errors import ConfigError, LoraError, ModelError, OutputError, SdtuneError
from tests import pictures, tiny


def draw(model: Path | None, **told: Any) -> list[Report]:
    tables = {"model": str(model)} if model else {}
    return list(sample(resolve(Sample, [{"prompt": ["a red apple"], "steps": 2, **tables}, told])))


def pictures_of(reports: list[Report]) -> list[Path]:
    return [report.path for report in reports if isinstance(report, Drawn)]


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA for the tiny sd1 that changes every picture, of rank 2 and alpha 1."""
    return write_lora("sd1", tmp_path_factory.mktemp("lora") / "style.safetensors")


def write_lora(family: str, path: Path) -> Path:
    from peft import LoraConfig

    pipe = tiny.pipeline(family)
    net = getattr(pipe, family_named(family).denoiser)
    targets = family_named(family).lora_targets("attention")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net.add_adapter(LoraConfig(r=2, lora_alpha=1, target_modules=targets, init_lora_weights=False))
    known = {"modelspec.trigger_phrase": "fluent3d"}
    lora_file.write(path, from_peft(net, family_named(family), known), dtype="fp32")
    return path


def test_names_are_free_and_tell_number_seed_and_prompt(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    first = draw(tiny_models["sd1"], out=tmp_path, prompt=["A red apple!", "träume/../x"], count=2, seed=7)
    names = [path.name for path in pictures_of(first)]
    assert names == [
        "00001-7-a-red-apple.png",
        "00002-8-a-red-apple.png",
        "00003-7-träume-x.png",
        "00004-8-träume-x.png",
    ]
    assert [report.path.name for report in first if isinstance(report, Saved)] == ["grid-00005.png"]
    again = draw(tiny_models["sd1"], out=tmp_path)
    assert [path.name for path in pictures_of(again)] == ["00006-0-a-red-apple.png"]


def test_the_same_seed_draws_the_same_bytes(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    one, two, other = (
        pictures_of(draw(tiny_models["sd1"], out=tmp_path / f"{n}.png", seed=seed))[0].read_bytes()
        for n, seed in enumerate((5, 5, 6))
    )
    assert one == two != other


def test_a_picture_says_how_it_was_made(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    told = {"negative": "blurred, dark", "seed": 9, "guidance": 3.5, "sampler": "euler-a", "lora": [f"{lora}:0.5"]}
    (path,) = pictures_of(draw(tiny_models["sd1"], out=tmp_path / "a.png", **told))
    parsed = ParserManager().parse(path)
    assert parsed is not None
    assert [prompt.value for prompt in parsed.prompts] == ["a red apple <lora:style:0.5>"]
    assert [prompt.value for prompt in parsed.negative_prompts] == ["blurred, dark"]
    (sampler,) = parsed.samplers
    assert sampler.name == "Euler a"
    assert sampler.parameters["cfg_scale"] == "3.5"
    assert sampler.parameters["seed"] == "9"
    with Image.open(path) as picture:
        assert picture.info["parameters"].endswith(f"Version: sdtune {__version__}")


def test_loras_act_by_their_strength_and_add_up(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    def drawn(name: str, *loras: str) -> NDArray[numpy.int64]:
        (path,) = pictures_of(draw(tiny_models["sd1"], out=tmp_path / name, lora=loras))
        return pictures.pixels(path)

    base = drawn("base.png")
    none = drawn("none.png", f"{lora}:0")
    half = drawn("half.png", f"{lora}:0.5")
    whole = drawn("whole.png", str(lora))
    twice = drawn("twice.png", f"{lora}:0.5", f"{lora}:0.5")
    assert (base == none).all()
    assert not (base == half).all()
    assert not (half == whole).all()
    assert numpy.abs(whole - twice).max() <= 1


def test_the_trigger_is_told(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    reports = draw(tiny_models["sd1"], out=tmp_path / "a.png", lora=[str(lora)])
    assert any("(trigger: fluent3d)" in report.text for report in reports if isinstance(report, Note))


def test_how_it_is_drawn_is_told(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    """Also where that is the default, or said by the model's own preset."""
    out = tmp_path / "a.png"
    told = {"guidance": 3.5, "sampler": "euler-a", "lora": [f"{lora}:1:text_encoder=2"]}
    reports = draw(tiny_models["sd1"], out=out, width=96, **told)
    notes = [report.text for report in reports if isinstance(report, Note)]
    assert "drawing with Euler a, 2 steps, guidance 3.5, 96 x 64 pixels" in notes
    (warned,) = (report.text for report in reports if isinstance(report, Warned))
    assert warned == f"{lora}: text_encoder=2 changes nothing, as the LoRA has nothing there"
    (path,) = pictures_of(draw(None, out=tmp_path / "mini.png"))
    with Image.open(path) as picture:
        assert "CFG scale: 2," in picture.info["parameters"]
    notes = [report.text for report in draw(None, out=tmp_path / "b.png") if isinstance(report, Note)]
    assert any(note.startswith("drawing with ") and ", guidance 2, 128 x 128" in note for note in notes)


def test_every_sampler_and_other_shapes(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    seen = set()
    for sampler in ("dpm++2m", "ddim", "euler", "euler-a"):
        (path,) = pictures_of(draw(tiny_models["sd1"], out=tmp_path / f"{sampler}.png", sampler=sampler, width=96))
        assert pictures.pixels(path).shape == (64, 96, 3)
        seen.add(path.read_bytes())
    assert len(seen) == 4


def test_what_cannot_be_drawn_is_refused_in_one_line(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    with pytest.raises(LoraError, match=r"style.safetensors: a LoRA for Stable Diffusion 1.x, but the model is .* XL"):
        draw(tiny_models["sdxl"], lora=[str(lora)], out=tmp_path / "x.png")
    with pytest.raises(LoraError, match="no such LoRA file or run folder"):
        draw(tiny_models["sd1"], lora=["nowhere.safetensors"])
    with pytest.raises(LoraError, match=r"no \.safetensors in this folder"):
        draw(tiny_models["sd1"], lora=[str(tmp_path)])
    with pytest.raises(ConfigError, match="names one picture, but 2 are asked for"):
        draw(tiny_models["sd1"], out=tmp_path / "x.png", count=2)
    for wrong in ("abc", "nan", "1e309", "1e5", ""):
        with pytest.raises(LoraError, match="its strength should be a number from -100 to 100"):
            draw(tiny_models["sd1"], lora=[f"{lora}:{wrong}"], out=tmp_path / "x.png")
    with pytest.raises(LoraError, match="--lora: is empty"):
        draw(tiny_models["sd1"], lora=[" "])
    with pytest.raises(
        ConfigError, match=r"^--width and --height: 72 x 64: .* multiples of 16 pixels; the nearest are"
    ):
        draw(tiny_models["sd3"], width=72, height=64, out=tmp_path / "x.png")
    with pytest.raises(ConfigError, match=r"^--prompt, number 2: 72 x \d+: .* multiples of 16 pixels") as caught:
        draw(tiny_models["sd3"], prompt=["a", *["b --w 72", "c --h 8", "d --w 72"] * 5], out=tmp_path)
    assert caught.value.problems[-1] == "and 5 more like these"
    with pytest.raises(ConfigError, match="the last would be over"):
        draw(tiny_models["sd1"], seed=2**63 - 1, count=2)
    with pytest.raises(OutputError, match="cannot be written"):
        draw(tiny_models["sd1"], out=tmp_path / ("x" * 300))
    (tmp_path / "taken.png").symlink_to("nowhere")
    with pytest.raises(OutputError, match="is a link"):
        draw(tiny_models["sd1"], out=tmp_path / "taken.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.png"]


def test_what_is_surely_not_meant_is_told_and_drawn(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    reports = draw(tiny_models["sd1"], prompt=["a AND b"], lora=[str(lora), f"{lora}:0.5"], out=tmp_path)
    told = [report.text for report in reports if isinstance(report, Warned)]
    assert [line.partition(":")[0] for line in told] == ["--prompt", "style.safetensors"]
    assert len(pictures_of(reports)) == 1


def test_prompts_of_a_grid_are_enough(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    reports = draw(tiny_models["sd1"], prompt=[], grid=["prompt=a|b x seed=1,2"], out=tmp_path)
    assert [report.prompt for report in reports if isinstance(report, Drawn)] == ["a", "a", "b", "b"]


def test_a_lora_that_does_not_fit_the_model_names_its_file(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    wrong = Lora({name: LoraModule(torch.ones(1, 7), torch.ones(9, 1), 1.0)}, "sd1")
    lora_file.write(tmp_path / "wrong.safetensors", wrong)
    with pytest.raises(LoraError, match=r"wrong\.safetensors: the LoRA changes .*to_q"):
        draw(tiny_models["sd1"], lora=[str(tmp_path / "wrong.safetensors")], out=tmp_path / "a.png")


def test_a_run_folder_brings_its_model(tiny_models: dict[str, Path], lora: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/style.safetensors").write_bytes(lora.read_bytes())
    (tmp_path / "run/run.toml").write_text(f'model = "{tiny_models["sd1"]}"\n')
    reports = draw(None, lora=[str(tmp_path / "run")], out=tmp_path / "a.png")
    assert any(report.text.startswith("model: sd1") for report in reports if isinstance(report, Note))
    (tmp_path / "run/run.toml").write_text('model = "minni"')
    with pytest.raises(ModelError, match=r"run\.toml: its model: minni: .* \(--model gives another\)"):
        draw(None, lora=[str(tmp_path / "run")], out=tmp_path / "b.png")
    with pytest.raises(ModelError, match=r"^minnie: "):
        draw(Path("minnie"), lora=[str(tmp_path / "run")], out=tmp_path / "b.png")
    (tmp_path / "run/run.toml").write_text(f'model = "{tiny_models["sd1"]}"\n[text]\nclip_skip = 0\n')
    with pytest.raises(ConfigError, match=r"run\.toml: text\.clip_skip is 0, which is none of 1 to 12"):
        draw(None, lora=[str(tmp_path / "run")], out=tmp_path / "b.png")
    (tmp_path / "run/run.toml").write_text("model = ")
    with pytest.raises(LoraError, match=r"run\.toml: cannot be read; say with --model"):
        draw(None, lora=[str(tmp_path / "run")], out=tmp_path / "b.png")
    (tmp_path / "run/other.safetensors").write_bytes(lora.read_bytes())
    with pytest.raises(LoraError, match=r"several LoRAs; give one of other\.safetensors, style\.safetensors"):
        draw(tiny_models["sd1"], lora=[str(tmp_path / "run")], out=tmp_path / "b.png")


def test_what_comes_out_as_no_numbers_is_no_picture(
    tiny_models: dict[str, Path], lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdtune.core.applied.STRONGEST", 1e39)
    with pytest.raises(SdtuneError, match="what was drawn is no numbers; lower --guidance or a LoRA's strength"):
        draw(tiny_models["sd1"], lora=[f"{lora}:1e38"], out=tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
