"""`sdtune cache` tells what lies in the cache and removes what nobody uses, and nothing else."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdtune.cli.app import main
from sdtune.config import CacheFolder
from sdtune.core.cache import cache
from sdtune.core.data.cache import Store, key_of
from sdtune.core.data.cache_folder import kept_in
from sdtune.core.reports import Cached
from sdtune.errors import ConfigError, OutputError
from tests.core.data.entries import file_of, files_in, made, same

DAY = 24 * 3600.0


def told(folder: Path, *, prune: bool = False, days: int = 30) -> Cached:
    (report,) = cache(CacheFolder(folder=folder, prune=prune, days=days))
    assert isinstance(report, Cached)
    return report


def put(folder: Path, number: int, days: float = 0.0) -> Path:
    """An entry that was not used for so many days."""
    Store(folder, 0).put(key_of(number), made(number))
    return aged(file_of(folder, key_of(number)), days)


def drawn(folder: Path, number: int, days: float = 0.0) -> Path:
    """A folder of prior images."""
    prior = folder / "priors" / key_of("prior", number)
    prior.mkdir(parents=True)
    for name in ("1.png", "2.png"):
        (prior / name).write_bytes(b"x" * 1000)
        aged(prior / name, days)
    return aged(prior, days)


def unfinished(folder: Path, number: int, hours: float = 0.0) -> Path:
    path = folder / "ab" / f".{number:016x}.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 10)
    return aged(path, hours / 24)


def aged(path: Path, days: float) -> Path:
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def test_what_lies_there_is_told(tmp_path: Path) -> None:
    old = [put(tmp_path, 0, 31), put(tmp_path, 1, 400)]
    new = [put(tmp_path, number, days) for number, days in ((2, 0), (3, 1), (4, 29.9))]
    drawn(tmp_path, 0)
    prior = drawn(tmp_path, 1, 31)
    (tmp_path / "facts.jsonl").write_text("{}\n")
    report = told(tmp_path)
    assert (report.folder, report.entries, report.priors, report.days, report.removed) == (tmp_path, 5, 2, 30, None)
    assert report.size == sum(file.stat().st_size for file in files_in(tmp_path))
    assert (report.unused, report.unused_size) == (3, sum(file.stat().st_size for file in old) + 2000)
    assert all(path.exists() for path in [*old, *new, prior])


def test_what_nobody_used_is_removed(tmp_path: Path) -> None:
    old = [put(tmp_path, 0, 31), drawn(tmp_path, 0, 31), unfinished(tmp_path, 0, 1.1)]
    new = [put(tmp_path, 1, 29.9), drawn(tmp_path, 1, 29.9), unfinished(tmp_path, 1, 0.9), tmp_path / "facts.jsonl"]
    new[-1].write_text("{}\n")
    aged(new[-1], 1000)
    freed = told(tmp_path).unused_size
    report = told(tmp_path, prune=True)
    assert (report.removed, report.removed_size, report.unused) == (3, freed, 0)
    assert (report.entries, report.priors) == (1, 1)
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in new)
    assert report.size == sum(file.stat().st_size for file in files_in(tmp_path))
    assert told(tmp_path, prune=True).removed == 0


def test_a_prior_of_which_one_image_is_in_use_stays_whole(tmp_path: Path) -> None:
    prior = drawn(tmp_path, 0, 100)
    aged(prior / "2.png", 1)
    assert told(tmp_path, prune=True).removed == 0
    assert len(files_in(prior)) == 2


@given(st.lists(st.integers(0, 3000), max_size=12), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_days_say_what_goes(tmp_path_factory: pytest.TempPathFactory, hours: list[int], days: int) -> None:
    folder = tmp_path_factory.mktemp("cache")
    paths = [put(folder, number, age / 24 + 1e-4) for number, age in enumerate(hours)]
    report = told(folder, prune=True, days=days)
    stays = [age < 24 * days for age in hours]
    assert [path.exists() for path in paths] == stays
    assert (report.entries, report.removed) == (sum(stays), len(stays) - sum(stays))


def test_days_0_empties_it(tmp_path: Path) -> None:
    put(tmp_path, 0)
    aged(put(tmp_path, 1), -400)  # a clock that was wrong
    drawn(tmp_path, 0)
    (tmp_path / "facts.jsonl").write_text("{}\n")
    fresh = unfinished(tmp_path, 0)
    report = told(tmp_path, prune=True, days=0)
    assert (report.removed, report.entries, report.size) == (4, 0, 10)
    assert files_in(tmp_path) == [fresh]  # it may be just being written
    aged(fresh, 1)
    told(tmp_path, prune=True, days=0)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_its_own_stays(tmp_path: Path) -> None:
    key = key_of("a")
    shelf, other = tmp_path / key[:2], tmp_path / ("00" if key[:2] != "00" else "11")
    outside = tmp_path.with_name(f"{tmp_path.name}-outside")
    mine = [
        tmp_path / "notes.txt",
        tmp_path / f"{key}.safetensors",
        shelf / "notes.txt",
        shelf / f"{key.upper()}.safetensors",
        shelf / f"{key[:-1]}.safetensors",
        shelf / f"{key}.safetensors.bak",
        shelf / f"x{key}.safetensors",
        shelf / f"{key[:-1]}0.safetensors" / "notes.txt",
        shelf / ".0123456789abcde.part",
        shelf / "0123456789abcdef.part",
        other / f"{key}.safetensors",
        tmp_path / "AB" / f"ab{key[2:]}.safetensors",
        tmp_path / "abc" / f"ab{key[2:]}.safetensors",
        tmp_path / ".facts-ab12.jsonl",
        tmp_path / "priors" / "notes.txt",
        tmp_path / "priors" / "dogs" / "1.png",
        tmp_path / "priors" / f"{key}0" / "1.png",
        outside / f"{key}.safetensors",
        outside / "1.png",
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        aged(path, 1000)
    links = [shelf / f"{key[:-1]}1.safetensors", tmp_path / "fe", tmp_path / "priors" / key_of("linked")]
    links[0].symlink_to(outside / f"{key}.safetensors")
    links[1].symlink_to(outside)
    links[2].symlink_to(outside)
    (outside / f"fe{key[2:]}.safetensors").write_text("mine")
    entry = put(tmp_path, 0, 1000)
    prior = drawn(tmp_path, 0, 1000)
    (prior / "linked").symlink_to(outside)
    assert told(tmp_path, prune=True, days=0).removed == 2
    assert not entry.exists()
    assert not prior.exists()
    assert all(path.read_text() == "mine" for path in [*mine, outside / f"fe{key[2:]}.safetensors"])
    assert all(path.is_symlink() for path in links)


def test_what_another_process_has_removed_is_no_matter(tmp_path: Path) -> None:
    put(tmp_path, 0)
    drawn(tmp_path, 0)
    for one in list(kept_in(tmp_path)):
        one.remove()
        one.remove()
    assert list(tmp_path.iterdir()) == []


def test_kept_hashes_go_when_nobody_has_used_them(tmp_path: Path) -> None:
    place = tmp_path / "hashes" / f"{key_of('hash')}.json"
    half = tmp_path / "hashes" / f".{key_of('hash')[:20]}-ab_12xyz.json"
    mine = tmp_path / "hashes" / "notes.json"
    place.parent.mkdir()
    for path in (place, half, mine):
        path.write_text("{}")
    aged(place, 29.9)
    assert told(tmp_path, prune=True).removed == 0
    aged(place, 30.1)
    aged(half, 1.1 / 24)
    assert told(tmp_path).size == 4
    assert told(tmp_path, prune=True).removed == 2
    assert files_in(tmp_path) == [mine]


def test_facts_without_a_cache_are_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "facts.jsonl").write_text("mine")
    assert told(tmp_path, prune=True, days=0).removed == 0
    assert (tmp_path / "facts.jsonl").read_text() == "mine"


def test_facts_are_known_and_removed_without_entries_too(tmp_path: Path) -> None:
    line = '\n{"key": "' + key_of("fact") + '", "facts": {}}\n'
    facts, unfinished_facts = tmp_path / "facts.jsonl", tmp_path / ".facts-ab_12xyz.jsonl"
    for path in (facts, unfinished_facts):
        path.write_text(line)
    assert told(tmp_path).size == 2 * len(line)
    assert told(tmp_path, prune=True).removed == 0
    aged(unfinished_facts, 1.1 / 24)
    assert told(tmp_path, prune=True).removed == 1
    assert files_in(tmp_path) == [facts]
    assert told(tmp_path, prune=True, days=0).removed == 1
    assert tmp_path.is_dir()
    assert files_in(tmp_path) == []


def test_a_run_goes_on_while_its_cache_is_emptied(tmp_path: Path) -> None:
    work = """
import sys
from pathlib import Path
from sdtune.core.data.cache import Store, key_of
from tests.core.data.entries import made
store = Store(Path(sys.argv[1]), 0)
print("begins", flush=True)
for number in range(1500):
    store.put(key_of(number % 50), made(0))
assert store.writable, store.why_not
"""
    with subprocess.Popen([sys.executable, "-c", work, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        removed = 0
        while process.poll() is None:
            removed += told(tmp_path, prune=True, days=0).removed or 0
    assert process.returncode == 0
    assert removed
    store = Store(tmp_path, 0)
    told(tmp_path, prune=True, days=0)
    with pytest.raises(KeyError):
        store.get(key_of(0))
    assert store.damaged == []
    store.put(key_of(0), made(0))
    assert same(store.get(key_of(0)), made(0))


def test_a_folder_that_cannot_be_a_cache_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("a\0b")):
        with pytest.raises(ConfigError, match="is no folder; give the folder of a cache with --folder"):
            told(folder)
    with pytest.raises(OutputError, match="cannot be read"):
        told(tmp_path / ("n" * 300))


def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:  # who may write anywhere but on a disk that is read only
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True)
        if mounted.returncode:
            pytest.skip("root without the right to mount")
    shelves = [put(tmp_path, number, 31).parent for number in range(2)]
    try:
        if os.geteuid() == 0:
            subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        for shelf in shelves if os.geteuid() else []:
            shelf.chmod(0o500)
        work = cache(CacheFolder(folder=tmp_path, prune=True))
        report = next(work)
        assert isinstance(report, Cached)
        assert (report.removed, report.entries, report.unused) == (0, 2, 2)
        with pytest.raises(
            OutputError, match=r"^\S+\.safetensors, and 1 more: cannot be removed \(.*check the permissions"
        ):
            next(work)
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "-l", tmp_path], check=True)
        for shelf in shelves if os.geteuid() else []:
            shelf.chmod(0o700)


# ---- the command line


def test_the_command_tells_and_prunes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "the cache"
    put(folder, 0)
    put(folder, 1, 31)
    size = put(folder, 2, 31).stat().st_size
    assert main(["cache", "--folder", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0] == f"cache       {folder}"
    assert f"holds       3 entries, {3 * size / 1e6:.1f} MB" in out
    assert f"unused      2 for 30 days, {2 * size / 1e6:.1f} MB" in out
    suggested = shlex.split(out.splitlines()[-1].removeprefix("try next"))
    assert suggested == ["sdtune", "cache", "--prune", "--folder", str(folder)]
    assert main([*suggested[1:], "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["report"], report["entries"], report["removed"], report["try_next"]) == ("cached", 1, 2, None)
    assert main(["cache", "--folder", str(folder), "--prune", "--days", "0"]) == 0
    assert "removed     1, " in capsys.readouterr().out
    for words in (["--folder", str(folder)], ["--prune", "--folder", str(tmp_path / "no")]):
        assert main(["cache", *words]) == 0
        assert capsys.readouterr().out == f"cache       {words[-1]}: empty, nothing to prune\n"
    assert not (tmp_path / "no").exists()


def test_the_command_finds_the_usual_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDTUNE_CACHE", str(tmp_path / "here"))
    put(tmp_path / "here", 0, 10)
    assert main(["cache", "--days", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(str(tmp_path / "here"))
    assert lines[-1] == "try next    sdtune cache --prune --days 9"
    assert main(["cache", "--prune"]) == 0
    assert "nothing; all was used within 30 days" in capsys.readouterr().out


def test_wrong_words_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for words in (["--days", "-1"], ["--days", "x"], ["--folder", ""], ["--folder", str(tmp_path / "file")], ["x"]):
        assert main(["cache", *words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1


def test_the_command_does_without_torch(tmp_path: Path) -> None:
    work = """
import sys
from sdtune.cli.app import main
assert main(["cache", "--prune"]) == 0
print({"torch", "numpy", "PIL"} & set(sys.modules))
"""
    known = os.environ | {"SDTUNE_CACHE": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, env=known, check=True)
    assert told.stdout.splitlines()[-1] == "set()"
