"""Any folder may be looked through: deep ones, circles, and what may not be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdtune.core.sampling.tree import DEEPEST, files_below


def test_files_come_in_order_without_what_is_hidden_or_left_out(tmp_path: Path) -> None:
    names = ["b.txt", "a/z", "a/a", "c/d/e", ".hidden", ".git/x", "old/x"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "circle").symlink_to("circle")
    found = [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path, leave_out=("old",))]
    assert found == ["b.txt", "circle", "a/a", "a/z", "c/d/e"]
    assert [path.name for path in files_below(tmp_path, 0)] == ["b.txt", "circle"]
    assert list(files_below(tmp_path / "nowhere")) == []


def test_a_tree_of_a_thousand_folders_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "near").touch()
    monkeypatch.chdir(tmp_path)
    for depth in range(1100):
        Path("x").mkdir()
        os.chdir("x")
        if depth in (DEEPEST - 1, DEEPEST):
            Path(f"file{depth}").touch()
    try:
        assert [path.name for path in files_below(tmp_path)] == ["near", f"file{DEEPEST - 1}"]
    finally:  # shutil would go too deep for Python
        for _ in range(1100):
            for path in Path().iterdir():
                path.rmdir() if path.is_dir() else path.unlink()
            os.chdir("..")
