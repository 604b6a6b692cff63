"""Packages from npm, among them what the mini model learns from: Noto's drawings and emojibase's words."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

NOTO = "@iconify-json/noto@1.2.9"  # Apache-2.0
EMOJIBASE = "emojibase-data@17.0.0"  # MIT


def npm_json(package: str, member: str, cache: Path) -> Any:
    """One JSON file out of an npm package, whose tarball is kept in `cache`."""
    with tarfile.open(tarball(package, cache)) as tar:
        file = tar.extractfile(f"package/{member}")
        assert file is not None, f"{member} is a folder in {package}"
        return json.load(file)


def tarball(package: str, cache: Path) -> Path:
    """An npm package's tarball in `cache`, fetched if it is not there."""
    name, _, version = package.lstrip("@").rpartition("@")
    path = cache / f"{name.replace('/', '-')}-{version}.tgz"  # as `npm pack` names it
    if not path.exists():
        if shutil.which("npm") is None:
            raise SystemExit(f"npm is not installed; install it, or put {path.name} into {cache}")
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", package], cwd=cache, check=True, stdout=subprocess.DEVNULL)
    return path
