"""LoRA files of ours given to other programs, and a table of what came of it, for docs/interop.md.

python -m tools.interop                                    diffusers alone
python -m tools.interop --comfyui PATH --sd-scripts PATH --forge PATH --invokeai PATH
python -m tools.interop --family sd1 --network LoHa --form kohya --comfyui PATH
python -m tools.interop --sdcpp PYTHON --tokenizer FOLDER  a whole SD 1.5 of random numbers through sd.cpp

Each PATH is a work tree of the program's own public repository, of which nothing is kept here; PYTHON is one with
stable-diffusion-cpp-python, FOLDER a CLIP tokenizer's. ComfyUI wants einops, torchsde, scipy and the like installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from sdtune.core import lora_file
from sdtune.errors import SdtuneError
from sdtune.lora_config import Form
from tools.interop import others, whole
from tools.interop.outcome import Outcome, Program, outcome
from tools.interop.released import Released
from tools.interop.subject import Trained

FAMILIES = ("sd1", "sd2", "sdxl", "sd3")
HEAD = "| program | family | network | form | modules | largest difference |\n| --- | --- | --- | --- | --- | --- |"


def main() -> None:
    """Print the table, row by row."""
    wanted = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        if wanted.sdcpp:
            print(json.dumps(whole.through_sdcpp(Path(folder), wanted.sdcpp, wanted.tokenizer), indent=2))
            return
        print(HEAD)
        found = []
        for one in outcomes(
            _programs(wanted),
            Path(folder),
            wanted.family or FAMILIES,
            wanted.network or ("LoRA",),
            wanted.form or ("auto",),
        ):
            print(one.row, flush=True)
            found.append(asdict(one))
        if wanted.json:
            wanted.json.write_text(json.dumps(found, indent=2) + "\n")


def outcomes(
    programs: Sequence[Program],
    folder: Path,
    families: Sequence[str],
    networks: Sequence[str],
    forms: Sequence[Form],
) -> Iterator[Outcome]:
    """What each program makes of each file; forms that a network has not are passed over."""
    for family in families:
        released = Released(family)
        trained = Trained(family, released.parts())
        for network in networks:
            subject = trained if network == "LoRA" else others.made(network, trained.lora, released.shapes)
            for form in forms:
                path = folder / f"{family}-{form}.safetensors"
                try:
                    lora_file.write(path, subject.lora, form, "fp32")
                except SdtuneError as problem:
                    print(f"{family}, {network}, {form}: {problem}")
                    continue
                for program in programs:
                    if family in program.families:
                        yield outcome(program, path, subject, form, released)
                path.unlink()


def _programs(wanted: argparse.Namespace) -> list[Program]:
    from tools.interop.reload import Diffusers

    programs: list[Program] = []
    if wanted.comfyui:
        from tools.interop.comfyui import ComfyUI

        programs.append(ComfyUI(wanted.comfyui, _commit(wanted.comfyui)))
    if wanted.sd_scripts:
        from tools.interop.sd_scripts import SdScripts

        programs.append(SdScripts(wanted.sd_scripts, _commit(wanted.sd_scripts)))
    if wanted.forge:
        from tools.interop.forge import Forge

        programs.append(Forge(wanted.forge, _commit(wanted.forge)))
    if wanted.invokeai:
        from tools.interop.invokeai import InvokeAI

        programs.append(InvokeAI(wanted.invokeai, _commit(wanted.invokeai)))
    return [*programs, Diffusers()]


def _commit(repository: Path) -> str:
    """Its commit, "" where the folder does not tell."""
    words = ["git", "-C", str(repository), "rev-parse", "--short", "HEAD"]
    told = subprocess.run(words, capture_output=True, text=True, check=False)
    return told.stdout.strip()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.interop", description="LoRA files of ours in other programs")
    for program in ("comfyui", "sd-scripts", "forge", "invokeai"):
        parser.add_argument(f"--{program}", type=Path, metavar="PATH")
    parser.add_argument("--sdcpp", type=Path, metavar="PYTHON")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER")
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--network", action="append", choices=["LoRA", *others.NETWORKS])
    parser.add_argument("--form", action="append", choices=["auto", "kohya", "peft", "diffusers"])
    parser.add_argument("--json", type=Path, metavar="FILE")
    wanted = parser.parse_args()
    if wanted.sdcpp and not wanted.tokenizer:
        parser.error("--sdcpp needs --tokenizer")
    return wanted


if __name__ == "__main__":
    main()
