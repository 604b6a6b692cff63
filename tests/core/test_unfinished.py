"""What a merge that was killed has left is cleared by the next one, and nothing else is."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdtune.core import unfinished
from sdtune.errors import OutputError

NAMES = ("merged", "merged.safetensors")
CALLS = ("replace", "unlink", "rmdir", "mkdir", "listdir", "open")
"""to the system"""


def put(out: Path, text: str) -> None:
    with unfinished.making(out) as made:
        if made.suffix:
            made.write_text(text)
        else:
            made.mkdir()
            (made / "a").write_text(text)
            (made / "b").write_text(text)


def content(out: Path) -> set[str]:
    """Empty where nothing is there; of a folder both of its files."""
    if not out.exists():
        return set()
    return {out.read_text()} if out.is_file() else {(out / name).read_text() for name in ("a", "b")}


def killed(out: Path, number: int) -> bool:
    """Whether a process that makes a new one has ended by SIGKILL before its call to the system of this number."""
    child = os.fork()
    if not child:
        count = itertools.count()

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def one(*given: Any, **told: Any) -> Any:
                if next(count) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*given, **told)

            return one

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            put(out, "new")
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no SIGKILL")
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_any_call_leaves_what_the_next_one_clears(name: str, there: bool, tmp_path: Path) -> None:
    were_back = 0
    for number in itertools.count():
        folder = tmp_path / str(number)
        out = folder / name
        if there:
            put(out, "old")
        is_killed = killed(out, number)
        is_there = out.exists()
        told = unfinished.clear_up(out) or ""
        is_back = there and not is_there
        were_back += is_back
        assert ("is back" in told) == is_back
        assert content(out) in ([{"old"}, {"new"}] if there else [{"new"}, set()])
        assert [path.name for path in folder.glob("*")] == ([name] if out.exists() else [])
        if not is_killed:
            assert content(out) == {"new"}
            break
        put(out, "newer")
        assert content(out) == {"newer"}
        assert [path.name for path in folder.iterdir()] == [name]
    assert number > 8
    assert (were_back > 0) == (there and name == "merged"), "there is a moment at which neither folder is at its place"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no SIGKILL")
def test_half_of_what_was_replaced_does_not_come_back(tmp_path: Path) -> None:
    """Not even where somebody has removed the new one meanwhile."""
    for number in itertools.count():
        out = tmp_path / str(number) / "merged"
        put(out, "old")
        is_killed = killed(out, number)
        if content(out) == {"new"}:
            shutil.rmtree(out)
            unfinished.clear_up(out)
            assert content(out) in ({"old"}, set())
        if not is_killed:
            break
    assert number > 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no SIGKILL")
@pytest.mark.parametrize("name", NAMES)
def test_the_next_one_clears_up_by_itself(name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    put(out, "old")
    for number in (4, 6, 8):
        assert killed(out, number)
    put(out, "new")
    assert content(out) == {"new"}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_place_where_another_is_at_work_is_left_alone(name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    with unfinished.making(out) as made:
        made.touch()
        for work in (lambda: put(out, "other"), lambda: unfinished.clear_up(out)):
            with pytest.raises(OutputError, match=f"{name}: another merge is writing it at this moment; wait for it"):
                work()
        made.unlink()
        put(out.with_name(f"{name}-too"), "beside")
        made.write_text("own")
    assert out.read_text() == "own"


@pytest.mark.parametrize("name", NAMES)
def test_what_others_have_put_there_stays(name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    with unfinished.making(out) as made:
        work = made.parent
        made.write_text("new")
        (work / "letter.txt").write_text("dear")
        for other in (".merged-abcdefgh.safetensors", ".merged-abcdefgh", f"{work.name}2"):
            (tmp_path / other).write_text("dear")
    assert unfinished.clear_up(out) is None
    assert [path.name for path in work.iterdir()] == ["letter.txt"]
    assert len(list(tmp_path.iterdir())) == 5
    (work / "letter.txt").unlink()
    work.rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "new").write_text("dear")
    work.symlink_to("elsewhere")
    assert unfinished.clear_up(out) is None
    with pytest.raises(OutputError, match="a link, where"):
        put(out, "newer")
    assert (tmp_path / "elsewhere" / "new").read_text() == "dear"


def test_links_in_what_is_left_are_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "a").write_text("dear")
    with unfinished.making(tmp_path / "out") as made:
        made.mkdir()
        work = made.parent
        (made / "a").write_text("new")
    work.mkdir()
    (work / "new").symlink_to(kept)
    assert "is removed" in str(unfinished.clear_up(tmp_path / "out"))
    assert (kept / "a").read_text() == "dear"
    assert not work.exists()


def test_a_link_leads_to_the_new_one(tmp_path: Path) -> None:
    for name in NAMES:
        put(tmp_path / "disk" / name, "old")
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
        put(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()
        assert content(tmp_path / "disk" / name) == {"new"}
