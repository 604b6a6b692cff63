"""The experiments by their names, and a table of what came of them.

python -m tools.torture                     all of them; an hour or two
python -m tools.torture R1 R3 --share 0.1   a tenth of two
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from tools.torture import disk
from tools.torture.alike import alike
from tools.torture.bad_numbers import bad_numbers
from tools.torture.corrupt import corruptions
from tools.torture.ground import Ground, ground
from tools.torture.killed import killed
from tools.torture.no_room import no_room
from tools.torture.outcome import Outcome, scaled
from tools.torture.repeats import repeats
from tools.torture.resumed import resumed
from tools.torture.soak import soak
from tools.torture.stopped import stopped

Experiment = Callable[[Ground, float], Outcome]


def _on_disk(work: Callable[..., Outcome], at: Ground, share: float) -> Outcome:
    """Of what a checkpoint goes through, every so many-th."""
    return work(at.folder / work.__name__, every=max(1, round(1 / share)))


def _corrupted(at: Ground, share: float) -> Outcome:
    return corruptions(at.folder / "corrupted", scaled(500, share))


EXPERIMENTS: dict[str, tuple[Experiment, ...]] = {
    "R1": (killed, partial(_on_disk, disk.kills)),
    "R2": (resumed,),
    "R3": (stopped,),
    "R4": (partial(_on_disk, disk.faults), partial(_on_disk, disk.power_cuts)),
    "R5": (_corrupted,),
    "R6": (bad_numbers,),
    "R7": (no_room,),
    "R8": (alike,),
    "R9": (soak,),
    "D1": (repeats,),
}


def run(names: Iterable[str], share: float, folder: Path | None = None) -> list[Outcome]:
    """The outcomes of these experiments, one after the other."""
    with ground(folder) as at:
        found = []
        for name in names:
            for experiment in EXPERIMENTS[name]:
                found.append(experiment(at, share))
                print(line(found[-1]), file=sys.stderr, flush=True)
    return found


def line(one: Outcome) -> str:
    """A row of the table."""
    figure = f"; {one.found}" if one.found else ""
    return f"| {one.name} | {one.what}{figure} | {one.tried:,} | {one.passed:,} | {one.seconds:,.0f} |"


def table(found: Sequence[Outcome]) -> str:
    """Markdown."""
    head = ["| | experiment | tried | passed | seconds |", "|---|---|---:|---:|---:|"]
    return "\n".join([*head, *map(line, found), "", machine()]) + "\n"


def machine() -> str:
    """Where it was measured."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{time.strftime('%Y-%m-%d')}; {platform.system()} on {platform.machine()}, {cpus} cores; "
        f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    )


def main() -> int:
    """Run what is named, write table.md and outcomes.json, and leave with 1 where something failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.torture", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("names", nargs="*", choices=[[], *EXPERIMENTS], help="all, where none is named")
    parser.add_argument("--share", type=float, default=1.0, help="of the trials of each")
    parser.add_argument("--out", type=Path, default=Path("out/torture"), help="folder for the table and the outcomes")
    given = parser.parse_args()
    found = run(given.names or list(EXPERIMENTS), given.share)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "table.md").write_text(table(found), encoding="utf-8")
    told = {"machine": machine(), "share": given.share, "outcomes": [asdict(one) for one in found]}
    (given.out / "outcomes.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    print(table(found))
    for one in found:
        for problem in one.problems:
            print(f"{one.name}: {problem}")
    return any(one.passed < one.tried for one in found)


if __name__ == "__main__":
    sys.exit(main())
