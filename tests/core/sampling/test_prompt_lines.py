"""Prompts with flags of their own are read, from wherever they come; all that is wrong is told at its place."""

from __future__ import annotations

import io
import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from sdtune.core.sampling import prompt_lines
from sdtune.core.sampling.prompt_lines import FLAGS, Line, is_typed, lines_of
from sdtune.errors import ConfigError
from sdtune.sample_config import STDIN

VALUES: dict[str, tuple[str, Any]] = {
    "n": ("blurred, dark", "blurred, dark"),
    "w": ("512", 512),
    "h": ("768", 768),
    "d": ("7", 7),
    "l": ("6.5", 6.5),
    "s": ("30", 30),
}


def one(text: str) -> Line:
    (line,) = lines_of((text,), None)
    return line


def problems(text: str | bytes, tmp_path: Path) -> tuple[str, ...]:
    file = tmp_path / "prompts.txt"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        lines_of((), file)
    return tuple(problem.replace(str(file), "prompts.txt") for problem in caught.value.problems)


def test_flags_stand_in_any_order() -> None:
    assert set(VALUES) == set(FLAGS)
    wanted = Line("a cat", "--prompt", **{FLAGS[name].field: value for name, (_, value) in VALUES.items()})
    for order in permutations(VALUES):
        assert one("a cat " + " ".join(f"--{name} {VALUES[name][0]}" for name in order)) == wanted
    for name, (told, value) in VALUES.items():
        assert one(f"a cat  --{name.upper()}   {told}  ") == Line("a cat", "--prompt", **{FLAGS[name].field: value})


@pytest.mark.parametrize("text", ["", "a -- b", "a cat--w 512", "a — b", "x --", "(a:1.3) [b|c] {d|e}", "--", "- -w 3"])
def test_other_dashes_are_text(text: str) -> None:
    assert one(text) == Line(text, "--prompt")


def test_two_dashes_can_be_written() -> None:
    assert one(r"a \--w 512 --n b \--h 2") == Line("a --w 512", "--prompt", negative="b --h 2")


def test_to_the_letter_nothing_is_a_flag() -> None:
    text = r"  a cat \--x --w 512 --zz "
    assert lines_of((text,), None, flags=False) == [Line(text, "--prompt")]


@pytest.mark.parametrize(("name", "least", "most"), [(n, f.least, f.most) for n, f in FLAGS.items() if n != "n"])
def test_bounds_are_those_of_the_command(name: str, least: int, most: int) -> None:
    from sdtune.config import Sample

    field = FLAGS[name].field
    for value in (least, most):
        assert getattr(one(f"a --{name} {value}"), field) == value
        Sample(prompt=("a",), **{field: value})
    for value in (least - 1, most + 1):
        with pytest.raises(ConfigError, match=rf"column 3: --{name} {value}: should be from {least} to {most}"):
            one(f"a --{name} {value}")
        with pytest.raises(ValueError, match=field):
            Sample(prompt=("a",), **{field: value})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("--w 5x", "--w 5x: should be a whole number of pixels, as in --w 512"),
        ("--w 5.5", "--w 5.5: should be a whole number of pixels, as in --w 512"),
        ("--w 512 and more", "--w 512 and more: should be a whole number of pixels, as in --w 512"),
        ("--w=512", "--w =512: should be a whole number of pixels, as in --w 512"),
        ("--w 500", "--w 500: sides of pictures are multiples of 8 pixels; the nearest is 496"),
        ("--h 9", "--h 9: sides of pictures are multiples of 8 pixels; the nearest is 8"),
        ("--h 8191", "--h 8191: sides of pictures are multiples of 8 pixels; the nearest is 8192"),
        ("--l six", "--l six: should be a number, as in --l 6.5"),
        ("--l nan", "--l nan: should be a number, as in --l 6.5"),
        ("--s ٣", "--s ٣: should be a whole number, as in --s 30"),
        ("--h", "--h: its value is missing; give a whole number of pixels from 8 to 8192, as in --h 768"),
        ("--d 1 --d 2", "--d is given twice; give it once"),
        ("--seed 3", "--seed: no flag of a prompt; did you mean --d? "),
        ("--ss euler", "--ss: no flag of a prompt; it is a setting of the whole command, --sampler "),
        ("--ar 16:9", r"--ar: no flag of a prompt; give one of --n, --w, --h, --d, --l, --s (text with two dashes is"),
        ("--w " + "1" * 5000, f"--w {'1' * 40}...: should be a whole number of pixels"),
    ],
)
def test_what_is_wrong_is_told_with_its_column(text: str, told: str, tmp_path: Path) -> None:
    (problem,) = problems(f"# kept\n\n  a cat {text}\n", tmp_path)
    column = 15 if "twice" in told else 9
    assert problem.startswith(f"prompts.txt, line 3, column {column}: {told}")


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    assert len(problems("a --w x --h y\nb\nc --q\n", tmp_path)) == 3
    many = problems("a --w x\n" * 99, tmp_path)
    assert (len(many), many[-1]) == (11, "and 89 more like these")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("mark", "code"), [("", "utf-8"), ("\ufeff", "utf-8"), ("\ufeff", "utf-16-le")])
def test_a_file_holds_a_prompt_a_line(end: str, mark: str, code: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    lines = ["# prompts", "a cat", "", "   ", "\t# more", "ein Bär, 熊 --d 7", "a\u2028b \x1b[31m\x0cred"]
    for last in ("", end):
        file.write_bytes((mark + end.join(lines) + last).encode(code))
        assert lines_of(("first",), file) == [
            Line("first", "--prompt"),
            Line("a cat", f"{file}, line 2"),
            Line("ein Bär, 熊", f"{file}, line 6", seed=7),
            Line("a b  [31m red", f"{file}, line 7"),
        ]


def test_standard_input_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffa cat\r\nb --w 9x".encode())))
    with pytest.raises(ConfigError, match=r"^standard input, line 2, column 3: --w 9x: should"):
        lines_of((), STDIN)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("ein Bär".encode()), encoding="ascii"))
    assert lines_of((), STDIN) == [Line("ein Bär", "standard input, line 1")]
    assert not is_typed(STDIN)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert is_typed(STDIN)
    assert not is_typed(Path("prompts.txt"))
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match=r"^standard input: holds no prompt"):
        lines_of((), STDIN)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "prompts.txt: holds no prompt; write one a line into it"),
        (b"# all\n\n \n", "prompts.txt: holds no prompt; write one a line into it"),
        (b"caf\xe9\n", "prompts.txt: not text in UTF-8, or with zero bytes in it; save it as UTF-8"),
        (b"a\0b\n", "prompts.txt: not text in UTF-8, or with zero bytes in it; save it as UTF-8"),
        (b"a\n" * 1001, "prompts.txt: over 1,000 lines; split it"),
        (b"a" * 5000, "prompts.txt: over 0 MB; split it"),
    ],
)
def test_files_that_cannot_be_read(data: bytes, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_lines, "MAX_LINES", 1000)
    monkeypatch.setattr(prompt_lines, "MAX_BYTES", 4000)
    assert problems(data, tmp_path) == (told,)


@pytest.mark.parametrize(
    ("name", "told"),
    [("no.txt", "no such file"), (".", "is a folder"), ("x" * 5000, "cannot be read"), ("a\0b", "cannot be read")],
)
def test_places_without_a_file(name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^--prompts .*: {told}") as caught:
        lines_of((), Path(name))
    assert len(str(caught.value)) < 400


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert one("caf\udce9") == Line("caf\ufffd", "--prompt")


@pytest.mark.parametrize("piece", [" --x", " --w", " --n a", " --w 1"])
def test_100_kb_of_flags_are_answered(piece: str, tmp_path: Path) -> None:
    found = problems(piece * (100_000 // len(piece)), tmp_path)
    assert len(found) == 11
    assert max(map(len, found)) < 200


@pytest.mark.parametrize("piece", ["--", " --", "\\--", "{", " a"])
def test_100_kb_of_text_are_answered(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    assert one(text).text == text.replace("\\", "").strip()


def test_several_prompts_are_numbered() -> None:
    with pytest.raises(ConfigError, match=r"^--prompt, number 2, column 3: --w x"):
        lines_of(("a", "b --w x"), None)
