"""Checkpoints that were damaged in every way: each is found out, told and set aside, and the one before is used."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file

from sdtune.core.checkpoint import Checkpoints
from tools.torture.disk import same, state_of
from tools.torture.outcome import Outcome, Tally

Damage = Callable[[Path, random.Random], None]


def corruptions(folder: Path, count: int = 500) -> Outcome:
    """So many damages, every kind in turn, each to another file or place of the newest of two checkpoints."""
    tally = Tally("R5", "corrupted checkpoints")
    dice = random.Random(0)
    kinds = list(DAMAGES.items())
    for number in range(count):
        name, damage = kinds[number % len(kinds)]
        shutil.rmtree(folder, ignore_errors=True)
        checkpoints = Checkpoints(folder / "checkpoints")
        checkpoints.save(state_of(1), 2)
        newest = checkpoints.save(state_of(2), 2)
        damage(newest, dice)
        tally.count(*(f"{number}, {name}: {one}" for one in _wrong(checkpoints, newest)))
    return tally.outcome()


def _wrong(checkpoints: Checkpoints, damaged: Path) -> list[str]:
    """What is not as it should be."""
    wrong = []
    found, lines = checkpoints.newest()
    if not same(found, state_of(1)):
        wrong.append(f"found is {found and found.step}, not the one before")
    if os.path.lexists(damaged) and not os.path.lexists(damaged.parent / "quarantine" / f"{damaged.name}-1"):
        wrong.append("it is not in quarantine")
    if len(lines) != 1 or damaged.name not in lines[0] or "\n" in lines[0] or not lines[0].isprintable():
        wrong.append(f"told is {lines}")
    if (checkpoints.folder / "latest").read_text() != "step-000001\n":
        wrong.append("latest is not mended")
    if (again := checkpoints.newest())[1] or not same(again[0], state_of(1)):
        wrong.append("it is told twice")
    return wrong


def _file(folder: Path, dice: random.Random) -> Path:
    return dice.choice(sorted(folder.iterdir()))


def _tensors(folder: Path, dice: random.Random) -> Path:
    return dice.choice(sorted(folder.glob("*.safetensors")))


def _flip(folder: Path, dice: random.Random) -> None:
    path = _file(folder, dice)
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def _cut_short(folder: Path, dice: random.Random) -> None:
    path = _file(folder, dice)
    os.truncate(path, dice.randrange(path.stat().st_size))


def _empty(folder: Path, dice: random.Random) -> None:
    os.truncate(_file(folder, dice), 0)


def _longer(folder: Path, dice: random.Random) -> None:
    with _file(folder, dice).open("ab") as file:
        file.write(bytes(dice.randrange(1, 100)))


def _zeros(folder: Path, dice: random.Random) -> None:
    """A hole of zeros, as a disk leaves it after a cut of power."""
    path = _file(folder, dice)
    size = path.stat().st_size
    start = dice.randrange(size)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(size - start))


def _removed(folder: Path, dice: random.Random) -> None:
    _file(folder, dice).unlink()


def _removed_and_unlisted(folder: Path, dice: random.Random) -> None:
    """A file that goes together with its entry in the manifest."""
    path = dice.choice([path for path in sorted(folder.iterdir()) if path.name != "manifest.json"])
    path.unlink()
    _manifest_without(folder, path.name)


def _added(folder: Path, dice: random.Random) -> None:
    (folder / f"more-{dice.randrange(1000)}.safetensors").write_bytes(_tensors(folder, dice).read_bytes())


def _swapped(folder: Path, dice: random.Random) -> None:
    """Two files of one checkpoint in each other's place."""
    one, other = dice.sample(sorted(folder.iterdir()), 2)
    one.rename(folder / ".aside")
    other.rename(one)
    (folder / ".aside").rename(other)


def _from_the_one_before(folder: Path, dice: random.Random) -> None:
    """A file of the checkpoint before: of the same size, mostly, and whole."""
    path = _file(folder, dice)
    path.write_bytes((folder.parent / "step-000001" / path.name).read_bytes())


def _all_from_the_one_before(folder: Path, _: random.Random) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "step-000001", folder)


def _edited(folder: Path, dice: random.Random) -> None:
    """A number in state.json, by hand."""
    path = folder / "state.json"
    told = json.loads(path.read_bytes())
    told[dice.choice(["step", "format"])] += dice.randrange(1, 5)
    path.write_text(json.dumps(told, indent=1))


def _manifest_edited(folder: Path, dice: random.Random) -> None:
    path = folder / "manifest.json"
    told = json.loads(path.read_bytes())
    entry = told[dice.choice(sorted(told))]
    entry[dice.choice(["bytes", "sha256", "more"])] = dice.choice([0, 1.5, None, "x", [], {}, -1, 10**30, "\x1b[31m"])
    path.write_text(json.dumps(told, indent=1))


def _manifest_of_lies(folder: Path, dice: random.Random) -> None:
    lies = [b"[]", b"{}", b"null", b"NaN", b"[" * 10**5, b'{"a":' * 10**5, b"1" * 10**5, b"\xff\xfe", b'{"../x": 1}']
    (folder / "manifest.json").write_bytes(dice.choice(lies))


def _manifest_written_otherwise(folder: Path, _: random.Random) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes())))


def _more_tensors(folder: Path, dice: random.Random) -> None:
    path = _tensors(folder, dice)
    tensors = load_file(path)
    save_file({**tensors, "more": next(iter(tensors.values())).clone()}, path)


def _link(folder: Path, dice: random.Random) -> None:
    """A file that lies elsewhere, though it has the right bytes."""
    path = _file(folder, dice)
    elsewhere = folder.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _link_to_all(folder: Path, _: random.Random) -> None:
    elsewhere = folder.parent.parent / folder.name
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def _folder_for_file(folder: Path, dice: random.Random) -> None:
    path = _file(folder, dice)
    path.unlink()
    path.mkdir()


def _pipe_for_file(folder: Path, dice: random.Random) -> None:
    path = _file(folder, dice)
    path.unlink()
    os.mkfifo(path)


def _nothing(folder: Path, _: random.Random) -> None:
    for path in list(folder.iterdir()):
        path.unlink()


def _manifest_without(folder: Path, name: str) -> None:
    path = folder / "manifest.json"
    told = json.loads(path.read_bytes())
    del told[name]
    path.write_bytes(json.dumps(told, indent=1).encode() + b"\n")


DAMAGES: dict[str, Damage] = {
    "a bit": _flip,
    "cut short": _cut_short,
    "another bit": _flip,
    "empty": _empty,
    "longer": _longer,
    "zeros": _zeros,
    "removed": _removed,
    "removed and unlisted": _removed_and_unlisted,
    "added": _added,
    "swapped": _swapped,
    "a file from the one before": _from_the_one_before,
    "all from the one before": _all_from_the_one_before,
    "state edited": _edited,
    "manifest edited": _manifest_edited,
    "manifest of lies": _manifest_of_lies,
    "manifest written otherwise": _manifest_written_otherwise,
    "more tensors": _more_tensors,
    "a link": _link,
    "a link to all": _link_to_all,
    "a folder for a file": _folder_for_file,
    "a pipe for a file": _pipe_for_file,
    "nothing in it": _nothing,
}
