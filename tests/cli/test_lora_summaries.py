"""What the commands about LoRA files say: in columns that fit a terminal, harmless, and whole as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sdtune.cli.console import JsonLines, Terminal
from sdtune.cli.lora_summaries import LEGEND, LEGEND_OF_TWO, differing, inspected, merged, share, table, written
from sdtune.core.lora_reports import Apart, BlockFacts, Differing, Inspected, Merged, Truncated, Written

MERGED = Merged(Path("cats.safetensors"), "original", "sdxl", "fp16", 6_938_040_736, 722, 2515, 0.00021, None, 62.4, "")
WRITTEN = Written(
    Path("small.safetensors"),
    "rank 16 to 4",
    "sd1",
    "kohya",
    "fp16",
    264,
    "2-4",
    4_100_000,
    (Truncated("text_encoder", 72, "4", "16", 0.012), Truncated("up_blocks.1.attentions", 60, "1-2", "16", 0.25)),
    0.031,
    "the update",
    "sdtune sample --lora small.safetensors",
)
BLOCKS = (
    BlockFacts("text_encoder", 72, "LoRA", "16", "8", 1.234567, 0.2, 9.12),
    BlockFacts("transformer_blocks.16-23", 1192, "LoRA", "16-128", "0.5-128", 12345.678, 1e-7, 12.345),
)
INSPECTED = Inspected(
    path=Path("cats.safetensors"),
    size=4_100_000,
    family="sd1",
    title="cats",
    form="kohya",
    networks=("LoRA",),
    dtype="fp16",
    modules=264,
    parts={"unet": 192, "text_encoder": 72},
    rank="16",
    alpha="8",
    trigger="ohwx cat",
    trained={"base model": "mini", "steps": "800"},
    hashes={"sshs_model_hash": "ab" * 32, "AutoV3": "ABABABABABAB"},
    hash_holds=True,
    embeddings=("ohwx",),
    blocks=BLOCKS[:1],
    metadata={"ss_steps": "800", "modelspec.thumbnail": "data:image/jpeg;base64," + "A" * 40_000, "x": "y" * 500},
    problems=("it is old; train another",),
    try_next="sdtune sample",
)
DIFFERING = Differing(
    Path("a.safetensors"),
    Path("b.safetensors"),
    False,
    0.123,
    0.98765,
    (Apart("up_blocks.1.attentions", 60, 1.5, 1.6, 0.0002, 0.99999), Apart("mid_block", 4, 0, 1, 1, 0)),
    tuple(f"unet.{n}" for n in range(14)),
    (),
    {"ss_seed": ("1", None), "sshs_model_hash": ("a", "b"), "ss_comment": ("z" * 200, "short")},
)
ALL = (MERGED, WRITTEN, INSPECTED, DIFFERING)


def test_a_merge() -> None:
    assert list(merged(MERGED)) == [
        "model       cats.safetensors, 6.9 GB",
        "is          Stable Diffusion XL, original layout, fp16",
        "changed     722 of 2,515 modules",
        "differs     from the base with its LoRAs beside it: layers by 0.021 % at most",
    ]
    more = dataclasses.replace(MERGED, denoised=0.005, try_next="sdtune sample")
    assert list(merged(more))[3:] == [
        "differs     from the base with its LoRAs beside it: layers by 0.021 % at most, the whole prediction by 0.5 %",
        "try next    sdtune sample",
    ]


def test_a_file_that_was_made() -> None:
    assert list(written(WRITTEN)) == [
        "LoRA        small.safetensors, 4.1 MB",
        "made        rank 16 to 4",
        "is          Stable Diffusion 1.x, kohya form, fp16, 264 modules of rank 2-4",
        "lost        3.1 % of the update",
        "",
        "block                   modules  rank  now   lost",
        "text_encoder                 72    16    4  1.2 %",
        "up_blocks.1.attentions       60    16  1-2   25 %",
        "",
        "try next    sdtune sample --lora small.safetensors",
    ]
    exact = dataclasses.replace(WRITTEN, blocks=(), lost=None, try_next="")
    assert len(list(written(exact))) == 3
    bare = dataclasses.replace(exact, family=None, rank="-", modules=1)
    assert list(written(bare))[2] == "is          Stable Diffusion 1.x or 2.x, kohya form, fp16, 1 module"


def test_a_file_that_is_looked_at() -> None:
    assert list(inspected(INSPECTED)) == [
        "file        cats.safetensors, 4.1 MB",
        "title       cats",
        "family      Stable Diffusion 1.x",
        "form        kohya, fp16",
        "network     LoRA; rank 16, alpha 8",
        "modules     264 (unet 192, text_encoder 72)",
        "trigger     ohwx cat",
        "new words   ohwx",
        "trained     base model  mini",
        "            steps       800",
        f"hashes      sshs_model_hash  {'ab' * 10}...",
        "            AutoV3           ABABABABABAB",
        "            the hash holds: these are the weights that it was made with",
        "",
        "ss_steps = 800",
        "modelspec.thumbnail = image/jpeg, 30.0 kB",
        f"x = {'y' * 300}... (500 letters)",
        "",
        "block         modules  rank  alpha  norm  largest  in use",
        "text_encoder       72    16      8  1.23      0.2    9.12",
        *LEGEND,
        "",
        "note        it is old",
        "            train another",
        "",
        "try next    sdtune sample",
    ]


def test_hashes_that_nothing_is_said_of_are_told_by_themselves() -> None:
    def hashes(**more: Any) -> list[str]:
        lines = list(inspected(dataclasses.replace(INSPECTED, **more)))
        return [line for line in lines if "hash" in line]

    assert hashes(hashes={}, hash_holds=None, metadata={}) == []
    assert not any("holds" in line for line in hashes(hash_holds=False) + hashes(hash_holds=None))


def test_of_the_header_alone_there_are_no_norms_and_networks_stand_where_they_differ() -> None:
    bare = [BlockFacts("mid_block", 4, "LoRA", "4", "4"), BlockFacts("up_blocks.0", 2, "LoHa, difference", "-", "-")]
    lines = list(inspected(dataclasses.replace(INSPECTED, blocks=tuple(bare), metadata={})))
    assert lines[14:17] == [
        "block        modules           network  rank  alpha",
        "mid_block          4              LoRA     4      4",
        "up_blocks.0        2  LoHa, difference     -      -",
    ]
    part = [*bare, BLOCKS[0]]
    lines = list(inspected(dataclasses.replace(INSPECTED, blocks=tuple(part), metadata={})))
    assert lines[15].split() == ["mid_block", "4", "LoRA", "4", "4", "-", "-", "-"]


def test_two_files_beside_each_other() -> None:
    assert list(differing(DIFFERING)) == [
        "first       a.safetensors",
        "second      b.safetensors",
        "apart       by 12 % of the larger update, cosine 0.9877",
        f"only first  14 modules: {', '.join(f'unet.{n}' for n in range(12))} and 2 more; --json lists them all",
        "",
        "block                   modules  first  second   apart  cosine",
        "up_blocks.1.attentions       60    1.5     1.6  0.02 %  1.0000",
        "mid_block                     4      0       1   100 %  0.0000",
        *LEGEND_OF_TWO,
        "",
        "metadata that differ, of the first and of the second:",
        "ss_seed",
        "    1",
        "    -",
        "ss_comment",
        f"    {'z' * 60}... (200 letters)",
        "    short",
    ]
    equal = dataclasses.replace(DIFFERING, equal=True, only_first=(), metadata={"sshs_model_hash": ("a", "b")})
    assert list(differing(equal))[2:] == ["apart       not at all: both add the same"]
    nothing = dataclasses.replace(DIFFERING, blocks=(), only_first=("unet.a",), metadata={})
    assert list(differing(nothing))[2:] == [
        "apart       wholly: they change no module in common",
        "only first  1 module: unet.a",
    ]


def test_tables_fit_a_terminal_of_80_columns() -> None:
    for lines in (
        inspected(dataclasses.replace(INSPECTED, blocks=BLOCKS, metadata={})),
        differing(
            dataclasses.replace(
                DIFFERING,
                blocks=(Apart("transformer_blocks.16-23", 1192, 12345.678, 1e-9, 1.234e-7, -0.99999),),
                metadata={},
                only_first=(),
            )
        ),
    ):
        assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("of", "told"),
    [
        (0, "0 %"),
        (1e-14, "0 %"),
        (2e-8, "2e-06 %"),
        (0.0002, "0.02 %"),
        (0.0123, "1.2 %"),
        (0.5, "50 %"),
        (1.999, "200 %"),
    ],
)
def test_shares_read_well(of: float, told: str) -> None:
    assert share(of) == told


def test_a_table_of_nothing_is_its_heading() -> None:
    assert list(table(("a", "b"), [])) == ["a  b"]


# ---- on a terminal and as JSON


@pytest.mark.parametrize("report", ALL, ids=lambda one: type(one).__name__)
def test_json_has_all_of_it(report: Any, capsys: pytest.CaptureFixture[str]) -> None:
    JsonLines().show(report)
    told = json.loads(capsys.readouterr().out)
    assert told.pop("report") == type(report).__name__.lower()
    assert told.keys() == {field.name for field in dataclasses.fields(report)}
    plain = json.loads(json.dumps(dataclasses.asdict(report), default=str))
    assert told == plain


@pytest.mark.parametrize("report", ALL, ids=lambda one: type(one).__name__)
def test_results_stand_on_standard_output(report: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().show(report)
    out, err = capsys.readouterr()
    lines = list({Merged: merged, Written: written, Inspected: inspected, Differing: differing}[type(report)](report))
    assert out.splitlines() == lines
    assert err == ("merged in 1 min 2 s\n" if isinstance(report, Merged) else "")


def test_nothing_that_a_terminal_obeys_gets_through(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b[31m\x9b2J\u202e\r\n"
    report = dataclasses.replace(
        INSPECTED,
        title=hostile,
        trigger=hostile,
        form=hostile,
        trained={hostile: hostile},
        hashes={"sshs_model_hash": hostile},
        embeddings=(hostile,),
        metadata={hostile: hostile},
        problems=(hostile,),
    )
    Terminal().show(report)
    Terminal().show(dataclasses.replace(DIFFERING, metadata={hostile: (hostile, hostile)}))
    assert all(line.isprintable() for line in capsys.readouterr().out.split("\n"))
