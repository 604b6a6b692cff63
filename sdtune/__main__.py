"""python -m sdtune, and what `accelerate launch -m sdtune` starts."""

from sdtune.cli.app import run

if __name__ == "__main__":
    run()
