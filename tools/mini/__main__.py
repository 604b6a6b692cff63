"""python -m tools.mini: make the built-in model, going on where the last call stopped."""

import argparse
import json
import tempfile
from pathlib import Path

from tools.mini.recipe import SMOKE, Plan, run

ROOT = Path(__file__).parents[2]
WORK, MODEL = ROOT / "build" / "mini", ROOT / "sdtune" / "mini"


def main() -> None:
    """Read the words of the command line, and run the recipe."""
    parser = argparse.ArgumentParser(prog="python -m tools.mini", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="the whole recipe tiny, in a temporary folder")
    parser.add_argument("--minutes", type=float, help="train by the clock instead of by steps")
    parser.add_argument("--go-on", action="store_true", help="keep the shipped weights and train their denoiser on")
    words = parser.parse_args()
    if words.smoke:
        with tempfile.TemporaryDirectory() as folder:
            figures = run(SMOKE, _smoke_folder(Path(folder)), Path(folder) / "model")
    else:
        plan = Plan().within(words.minutes) if words.minutes else Plan()
        figures = run(plan, WORK, MODEL, MODEL if words.go_on else None)
    print(json.dumps(figures, indent=2))


def _smoke_folder(folder: Path) -> Path:
    """A work folder with the npm packages of the full recipe, where they are already there."""
    if (WORK / "npm").exists():
        (folder / "npm").symlink_to(WORK / "npm")
    return folder


if __name__ == "__main__":
    main()
