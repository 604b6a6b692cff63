"""sdtune lora convert: between all forms, from any file or run folder, with what the metadata shall say."""

from __future__ import annotations

import base64
import io
import json
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sdtune.core.convert_lora import convert_lora
from sdtune.core.header import read_header
from sdtune.core.lora import Lora, load_into
from sdtune.core.lora_reader import read
from sdtune.core.lora_reports import Written
from sdtune.core.lora_writer import write
from sdtune.core.reports import Note
from sdtune.errors import DataError, LoraError, OutputError
from sdtune.lora_config import Dtype, Form, LoraConvert
from tests import tiny
from tests.core.loras import agree, deltas, trained
from tests.core.test_lora_writer import NETWORKS, plain

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
FORMS: tuple[Form, ...] = ("kohya", "peft", "diffusers")


def convert(source: Path, out: Path, **options: Any) -> tuple[list[object], Written]:
    reports = list(convert_lora(LoraConvert(lora=source, out=out, **options)))
    assert isinstance(reports[-1], Written)
    return reports, reports[-1]


@cache
def one_alpha(family_name: str) -> Lora:
    """A LoRA, each of whose modules has the alpha that a part's modules can share."""
    lora, _, _ = trained(family_name)
    modules = {
        name: type(value)(value.down, value.up, 2.0)  # type: ignore[call-arg, attr-defined]
        for name, value in lora.modules.items()
    }
    return Lora(modules, lora.family, {"ss_seed": "1", "modelspec.title": "cats"})


def contents(path: Path) -> tuple[dict[str, tuple[str, bytes]], dict[str, str]]:
    """Dtype and bytes of each tensor, and the metadata."""
    tensors = load_file(path)
    bare = {
        key: (str(value.dtype), value.view(torch.uint8).numpy().tobytes())
        for key, value in tensors.items()
        if value.ndim
    }
    bare |= {key: (str(value.dtype), value.numpy().tobytes()) for key, value in tensors.items() if not value.ndim}
    return bare, dict(read_header(path, LoraError).metadata)


@pytest.mark.parametrize(
    ("here", "there", "dtype"),
    [(here, there, dtype) for here, there in product(FORMS, FORMS) for dtype in ("fp16", "bf16", "fp32")],
)
def test_there_and_back_gives_the_same_bytes(
    here: Form, there: Form, dtype: Dtype, family_name: str, tmp_path: Path
) -> None:
    first, second, third = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "third"))
    write(first, one_alpha(family_name), here, dtype)
    _, written = convert(first, second, form=there)
    assert written.dtype == dtype
    convert(second, third, form=here)
    if there == "diffusers" != here and family_name != "sd3":  # has no place for alpha, which the weights bear
        mine, others = read(first).modules, read(third).modules
        assert mine.keys() == others.keys()
        for name, value in mine.items():
            near = {"rtol": 1e-2, "atol": 1e-4} if dtype != "fp32" else {"rtol": 1e-6, "atol": 1e-8}
            torch.testing.assert_close(others[name].delta(), value.delta(), **near)
    else:
        assert third.read_bytes() == first.read_bytes()
        assert contents(third) == contents(first)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_converted_loads_in_diffusers_with_every_delta(form: Form, family_name: str, tmp_path: Path) -> None:
    lora, expected, parts = trained(family_name)  # with an alpha of its own in some modules
    write(tmp_path / "first.safetensors", lora, "peft", "fp32")
    between, out = tmp_path / "between.safetensors", tmp_path / "out.safetensors"
    convert(tmp_path / "first.safetensors", between, form=FORMS[FORMS.index(form) - 1])
    convert(between, out, form=form)
    pipe = tiny.pipeline(family_name)
    pipe.load_lora_weights(tmp_path, weight_name=out.name, adapter_name="again")
    agree(deltas(pipe, parts, "again"), expected, "fp32")


@pytest.mark.parametrize("network", NETWORKS)
def test_other_networks_keep_their_bytes_and_who_reads_them_is_said(network: str, tmp_path: Path) -> None:
    source, out = tmp_path / "it.safetensors", tmp_path / "out.safetensors"
    write(source, Lora({LAYER: NETWORKS[network]}, "sd1"))
    reports, _ = convert(source, out)
    assert contents(out) == contents(source)
    told = [report.text for report in reports if isinstance(report, Note)]
    words = {"DoRA by inputs": "read it alike", "DoRA by outputs": "of outputs", "difference": "whole weights"}
    assert len(told) == 1
    assert words.get(network, network) in told[0]
    assert "diffusers" in told[0]


def test_numbers_of_8_bits_become_fp16_without_loss(tmp_path: Path) -> None:
    source, out = tmp_path / "it.safetensors", tmp_path / "out.safetensors"
    write(source, Lora({LAYER: plain()}, "sd1"), dtype="fp32")
    small = {
        key: value if key.endswith(".alpha") else value.to(torch.float8_e4m3fn)
        for key, value in load_file(source).items()
    }
    save_file(small, source)
    reports, written = convert(source, out)
    assert written.dtype == "fp16"
    assert any("8 bits" in report.text for report in reports if isinstance(report, Note))
    for key, value in load_file(out).items():
        assert torch.equal(value.float(), small[key].float())


def test_the_precision_that_is_asked_for_is_written(tmp_path: Path) -> None:
    source, out = tmp_path / "it.safetensors", tmp_path / "out.safetensors"
    write(source, Lora({LAYER: plain()}, "sd1"), dtype="fp32")
    assert convert(source, out, dtype="bf16")[1].dtype == "bf16"
    assert set(read_header(out, LoraError).dtypes.values()) == {"BF16", "F32"}  # alpha


def test_the_metadata_say_what_was_asked_for_and_carry_over_the_rest(tmp_path: Path) -> None:
    source, out, picture = tmp_path / "it.safetensors", tmp_path / "out.safetensors", tmp_path / "a.png"
    said = {"ss_training_comment": "by day", "ss_sd_model_name": "/home/CANARY/sd.safetensors", "ss_steps": "7"}
    said |= {"ss_dataset_dirs": json.dumps({"/home/CANARY/10_cats": {"img_count": 3}}), "hostname": "CANARY"}
    write(source, Lora({LAYER: plain()}, "sd1"))
    save_file(load_file(source), source, said)
    Image.new("RGB", (600, 300), "red").save(picture)
    convert(source, out, title="Cats", trigger="a sks cat", tags="cat, red", thumbnail=picture)
    told = read_header(out, LoraError).metadata
    assert "CANARY" not in out.read_bytes().decode("latin-1")
    assert (told["ss_training_comment"], told["ss_steps"], told["ss_sd_model_name"]) == (
        "by day",
        "7",
        "sd.safetensors",
    )
    assert json.loads(told["ss_dataset_dirs"]) == {"10_cats": {"img_count": 3}}
    asked = [told[f"modelspec.{key}"] for key in ("title", "trigger_phrase", "tags")]
    assert asked == ["Cats", "a sks cat", "cat, red"]
    kind, _, data = told["modelspec.thumbnail"].partition(",")
    small = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (kind, small.format, small.size) == ("data:image/jpeg;base64", "JPEG", (256, 128))
    red, green, blue = small.convert("RGB").getpixel((9, 9))  # type: ignore[misc]
    assert red > 200
    assert max(green, blue) < 50
    convert(out, tmp_path / "again.safetensors")
    assert contents(tmp_path / "again.safetensors") == contents(out)


def test_a_thumbnail_says_nothing_but_its_pixels(tmp_path: Path) -> None:
    source, out, picture = tmp_path / "it.safetensors", tmp_path / "out.safetensors", tmp_path / "a.jpg"
    write(source, Lora({LAYER: plain()}, "sd1"))
    exif = Image.Exif()
    exif[0x013B] = "CANARY"  # artist
    Image.new("RGB", (64, 64), "red").save(picture, exif=exif, comment=b"CANARY", icc_profile=b"CANARY")
    convert(source, out, thumbnail=picture)
    thumbnail = read_header(out, LoraError).metadata["modelspec.thumbnail"]
    assert b"CANARY" not in base64.b64decode(thumbnail.partition(",")[2])


def test_a_run_folder_stands_for_its_lora(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write(tmp_path / "run/run.safetensors", Lora({LAYER: plain()}, "sd1"))
    reports, written = convert(tmp_path / "run", tmp_path / "out.safetensors", form="peft")
    assert (written.made, written.form, written.modules, written.rank) == ("kohya to peft", "peft", 1, "4")
    assert written.size == (tmp_path / "out.safetensors").stat().st_size
    assert str(tmp_path / "out.safetensors") in written.try_next
    pipe = tiny.pipeline("sd1")
    with pytest.raises(LoraError, match="in the model it is"):
        load_into(pipe, read(written.out))
    assert len(reports) == 1


def test_of_sd3_there_is_one_form_and_that_is_said(tmp_path: Path) -> None:
    write(tmp_path / "it.safetensors", Lora({"transformer.transformer_blocks.0.attn.to_q": plain()}, "sd3"))
    reports, written = convert(tmp_path / "it.safetensors", tmp_path / "out.safetensors", form="kohya")
    assert written.form == "diffusers"
    assert any("LoRAs for sd3 are written" in report.text for report in reports if isinstance(report, Note))


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"out": "it.safetensors"}, OutputError, "is what the work begins with.*--overwrite"),
        ({"out": "there.safetensors"}, OutputError, "is there already.*--overwrite"),
        ({"out": "new.pt"}, OutputError, "--out"),
        ({"lora": "none.safetensors"}, LoraError, "none"),
        ({"lora": "there.safetensors"}, LoraError, "not a safetensors file"),
        ({"thumbnail": "there.safetensors"}, DataError, "there"),
        ({"thumbnail": "none.png"}, DataError, r"none.png: no such file; give a picture with --thumbnail$"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(
    change: dict[str, str], error: type[Exception], told: str, tmp_path: Path
) -> None:
    write(tmp_path / "it.safetensors", Lora({LAYER: plain()}, "sd1"))
    (tmp_path / "there.safetensors").write_text("hello, I am text")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    options = {"lora": "it.safetensors", "out": "new.safetensors"} | change
    with pytest.raises(error, match=told):
        list(convert_lora(LoraConvert(**{key: tmp_path / value for key, value in options.items()})))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_lora_is_replaced_by_itself_where_that_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "it.safetensors", Lora({LAYER: plain()}, "sd1"))
    convert(tmp_path / "it.safetensors", tmp_path / "it.safetensors", form="peft", overwrite=True)
    assert set(load_file(tmp_path / "it.safetensors")) == {f"{LAYER}.lora_{letter}.weight" for letter in "AB"}
