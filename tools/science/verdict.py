"""Is the verdict of `sdtune eval` right? Three trainings on mini of known worth, and the true pictures to tell by.

    python -m tools.science.verdict FOLDER [--seeds 1 2 3]

Trains, for each seed, on examples/fluent-3d for 40 steps (too short) and for 800 (good), and for 2,000 on five of its
pictures (far too long), and asks `sdtune eval` two things: to rank the three beside examples/fluent-3d-held-out, which
none has seen, and to recommend a LoRA of the good one by what that held out itself. Then every kept LoRA at every
strength draws the 20 subjects of examples/fluent-3d-held-out from other noises, and the distance of what was
recommended to the true pictures is laid beside the least of all. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

TRAINED, HELD_OUT = Path("examples/fluent-3d"), Path("examples/fluent-3d-held-out")
FIVE = ("1f332", "1f335", "1f339", "1f345", "1f347")
STEPS = {"short": 40, "good": 800, "copy": 2000}
OTHER_NOISES = ["--seed", "100", "--seeds", "2"]


def main() -> None:
    """Prints what came of each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    given = parser.parse_args()
    five = _five(given.folder / "five")
    for seed in given.seeds:
        place = given.folder / f"seed-{seed}"
        for name, steps in STEPS.items():
            _train(place / name, five if name == "copy" else TRAINED, steps, seed)
        print(f"seed {seed}")
        _rank(place, {path.name for path in five.glob("*.png")})
        _choose(place)


def _five(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in FIVE:
        for ending in (".png", ".txt"):
            shutil.copy(TRAINED / f"{name}{ending}", folder)
    return folder


def _train(out: Path, data: Path, steps: int, seed: int) -> None:
    if not (out / "ended.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        options = ["--rank", "8", "--steps", str(steps), "--seed", str(seed), "--samples.off"]
        _sdtune("train-lora", str(data), "--out", str(out), *options)


def _rank(place: Path, five: set[str]) -> None:
    """The three in one report."""
    three = [str(place / name) for name in STEPS]
    report = _eval(place / "eval-three", *three, "--reference", str(HELD_OUT))
    ranking = [one["run"] for one in report["ranking"]]
    alarms = {one["run"]: one["alarms"] for one in report["ranking"]}
    named = {name for name in five if any(name in line for line in alarms["copy"])}
    print(f"  ranked: {', '.join(ranking)}; right: {ranking[0] == 'good'}")
    print(
        f"  copies named of the third: {', '.join(sorted(named)) or 'none'}; of others: "
        f"{sum(len(lines) for name, lines in alarms.items() if name != 'copy')}"
    )
    for line in alarms["copy"]:
        print(f"    {line}")


def _choose(place: Path) -> None:
    """What is recommended of the good one, by each of two sets of references, on noises that neither has seen."""
    own = _eval(place / "eval-own", str(place / "good"))
    given = _eval(place / "eval-given", str(place / "good"), "--reference", str(HELD_OUT), "--prompts-each", "20")
    prompts = place / "prompts.txt"
    captions = [path.read_text(encoding="utf-8").splitlines()[0] for path in sorted(HELD_OUT.glob("*.txt"))]
    prompts.write_text("\n".join(captions) + "\n", encoding="utf-8")
    options = ["--reference", str(HELD_OUT), "--prompts", str(prompts), *OTHER_NOISES]
    true = _eval(place / "eval-true", str(place / "good"), *options)
    apart = {(one["lora"], one["strength"]): _distance(one) for one in true["cells"]}
    least = min(apart.values())
    for told, report in (("its own held-out pictures", own), ("the 20 true pictures", given)):
        best = report["recommendation"] or {"lora": None, "strength": 0.0}
        here = apart[best["lora"], best["strength"]]
        print(f"  by {told}: {report['sentence']}")
        print(f"    distance to the true pictures {here:.4f}, the least {least:.4f}: {here / least - 1:+.1%}")


def _distance(cell: dict[str, Any]) -> float:
    return 1 - float(cell["values"]["truth_similarity"]["estimate"])


def _eval(out: Path, *words: str) -> dict[str, Any]:
    _sdtune("eval", *words, "--out", str(out))
    found: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return found


def _sdtune(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "sdtune", *words], check=True, capture_output=True)


if __name__ == "__main__":
    main()
