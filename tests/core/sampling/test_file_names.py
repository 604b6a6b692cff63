"""Names of files: templates, prompts in any script, and what no file can be called."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdtune.errors import ConfigError
from tests.core.sampling.recipes import lora, recipe
from tests.core.sampling.test_shelf import put, shelf


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red apple!", "a-red-apple"),
        ("träume/../x", "träume-x"),
        ("(red:1.3) ((apple)) <lora:cats:0.8> [leaf]", "red-apple-leaf"),
        ("一个红苹果, 4k", "一个红苹果-4k"),
        ("תפוח \u202eאדום", "תפוח-אדום"),
        ("हिन्दी सेब", "हिन्दी-सेब"),
        ("❤\ufe0f apple 👩\u200d🌾", "apple"),
        ("a" * 100, "a" * 40),
        ("a " * 50_000, "a-" * 19 + "a"),
        ("(" * 100_000, None),
        ("\x1b[31m<b>\0", "31m"),
        ("🍎", None),
        ("", None),
    ],
)
def test_the_prompt_names_a_picture_in_any_script(prompt: str, name: str | None, tmp_path: Path) -> None:
    path = put(shelf(tmp_path), recipe(prompt=prompt))
    assert path.name == f"00001-7-{name}.png" if name else "00001-7.png"
    assert path.parent == tmp_path
    assert path.is_file()


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{seed}", "7.webp"),
        ("{number:03}_{seed:>04}", "001_0007.webp"),
        ("cat-{number}", "cat-00001.webp"),
        ("{seed}/{prompt}", "7/a-red-apple.webp"),
        ("{model}-{sampler}-{steps}-{guidance}-{width}x{height}", "owner-sd1-dpm++2m-20-7.5-64x48.webp"),
        ("{lora}@{strength} {line:02}", "cats+dogs@1+-0.5 03.webp"),
        ("{negative}", "none.webp"),
        ("{negative}/{seed}", "none/7.webp"),
        ("{{{seed}}}", "{7}.webp"),
        ("{prompt:.3}", "a-r.webp"),
        ("con", "con-.webp"),
    ],
)
def test_templates(template: str, name: str, tmp_path: Path) -> None:
    model = {"name": "owner/sd1", "family": "sd1", "weights": "0" * 64}
    one = recipe(loras=(lora("cats"),), model=model)
    place = shelf(tmp_path, name=template, format="webp")
    assert put(place, one, lora="cats+dogs", strength="1+-0.5", line=3) == tmp_path / name
    again = shelf(tmp_path, name=template, format="webp")
    assert again.there(one) == tmp_path / name


def test_names_are_as_long_as_file_systems_take(tmp_path: Path) -> None:
    every = "{prompt}-{negative}-{model}-{lora}-{number}"
    place = shelf(tmp_path, name=every)
    long = "红" * 300
    one = recipe(prompt=long, negative=long, model={"name": long, "family": "sd1", "weights": "0" * 64})
    paths = [put(place, one, lora=long) for _ in range(2)]
    assert [path.stem[-6:] for path in paths] == ["-00001", "-00002"]
    assert max(len(path.name.encode()) for path in paths) > 200


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{sede}", r"\{sede\} is no field; did you mean \{seed\}\?"),
        ("{}", r"\{\} is no field; give one of \{number\} \{seed\}"),
        ("{0}", "is no field"),
        ("{seed.real}", "is no field"),
        ("{seed[0]}", "is no field"),
        ("{seed!r}", r"\{seed!r\} has no format"),
        ("{seed!r:05}", r"\{seed!r:05\} has no format"),
        ("{seed}\n{number}", r"--name \{seed\}\?\{number\}: has line ends"),
        ("{seed:\n}", r"--name \{seed:\?\}: has line ends"),
        ("{seed:99999}", "has no format"),
        ("{seed:{number}}", "has no format"),
        ("{prompt:d}", "has no format"),
        ("{seed", "braces do not pair"),
        ("seed}", "braces do not pair"),
        ("/tmp/{seed}", "names a place of its own"),
        ("~/{seed}", "names a place of its own"),
        ("C:{seed}", "names a place of its own"),
        ("a\\{seed}", "names a place of its own"),
        ("../{seed}", "a part without a name"),
        ("a/../{seed}", "a part without a name"),
        ("a//{seed}", "a part without a name"),
        ("{seed}/", "a part without a name"),
        (" ", "a part without a name"),
        ("{seed}?", "characters that names of files cannot have"),
        ("{seed}.png", "leave out the ending"),
        (".{seed}", "leave the dot out"),
        ("{seed}/.{prompt}", "leave the dot out"),
        ("é" * 150, "too long"),
    ],
)
def test_templates_that_cannot_be_used_are_told_before_anything_is_drawn(
    template: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        shelf(tmp_path, name=template)
