"""Every layout that people have is understood, in folders and in archives, and what is not an image is told."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from sdtune.core.data.layout import Item, Layout, arrange
from sdtune.core.data.sources import Source, open_sources
from sdtune.errors import DataError


def png(colour: str = "red") -> bytes:
    place = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(place, "PNG")
    return place.getvalue()


FILES: dict[str, bytes] = {
    "flat.jpg": png(),
    "flat.txt": b"one\ntwo\n",
    "bare": png(),
    "10_sks cat/a.png": png(),
    "10_sks cat/b.png": png(),
    "10_sks cat/b.caption": b"sks cat asleep",
    "reg/1_cat/r.png": png(),
    "listed/c.png": png(),
    "listed/inner/d.png": png(),
    "listed/metadata.jsonl": b'{"file_name": "c.png", "text": "sea"}\n{"file_name": "inner/d.png", "text": ["x", "y"]}',
    "web/00001.png": png(),
    "web/00001.json": json.dumps({"caption": "a web picture", "width": 32}).encode(),
    "web/00001-masklabel.png": png("white"),
    "web/00001-condlabel.png": png("white"),
    "lonely-masklabel.png": png("white"),
    "notes.md": b"no image",
    "gone.txt": b"a caption without an image",
    "held-out/h.png": png(),
    ".hidden.png": png(),
    "__MACOSX/._a.png": b"junk",
}


def as_folder(place: Path) -> Path:
    for name, data in FILES.items():
        path = place / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return place / "set"


def as_zip(place: Path) -> Path:
    with zipfile.ZipFile(place / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    return place / "set.zip"


def as_tar(place: Path, mode: str = "w", name: str = "set.tar") -> Path:
    with tarfile.open(place / name, mode) as archive:  # type: ignore[call-overload]
        for member, data in FILES.items():
            info = tarfile.TarInfo(f"./{member}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return place / name


def as_tgz(place: Path) -> Path:
    return as_tar(place, "w:gz", "set.tar.gz")


MAKERS = (as_folder, as_zip, as_tar, as_tgz)


def only(path: Path, *, follow_links: bool = False) -> tuple[Source, Layout]:
    (source,) = open_sources([path], follow_links=follow_links)
    return source, arrange(source)


@pytest.mark.parametrize("make", MAKERS)
def test_every_layout_is_understood_wherever_it_lies(make: Callable[[Path], Path], tmp_path: Path) -> None:
    source, layout = only(make(tmp_path))
    told = {item.entry.name: item for item in layout.items}
    in_archive = make is not as_folder  # where the first bytes cannot be looked at beforehand
    assert sorted(told) == sorted(
        ["flat.jpg", "10_sks cat/a.png", "10_sks cat/b.png", "reg/1_cat/r.png", "listed/c.png", "listed/inner/d.png"]
        + ["web/00001.png", "held-out/h.png"]
        + ([] if in_archive else ["bare"])
    )
    assert told["flat.jpg"].captions == ("one", "two")
    a, b, reg = told["10_sks cat/a.png"], told["10_sks cat/b.png"], told["reg/1_cat/r.png"]
    assert (a.captions, a.of_class, a.repeats, a.group, a.prior) == ((), "sks cat", 10, "10_sks cat", False)
    assert (b.captions, b.repeats) == (("sks cat asleep",), 10)
    assert (reg.of_class, reg.prior) == ("cat", True)
    assert told["listed/c.png"].captions == ("sea",)
    assert told["listed/inner/d.png"].captions == ("x", "y")
    web = told["web/00001.png"]
    assert web.captions == ("a web picture",)
    assert web.mask is not None
    assert web.mask.name == "web/00001-masklabel.png"
    assert [name for name, item in told.items() if item.held_out] == ["held-out/h.png"]
    assert not layout.troubles
    left = {os.path.basename(name): reason for name, reason in layout.left}
    assert left.pop("bare", "is no image") == "is no image"
    assert left == {
        "00001-condlabel.png": "a condition image, which is not used",
        "lonely-masklabel.png": "a mask without its image",
        "notes.md": "is no image",
        "gone.txt": "no image of that name",
    }
    wanted = [item.entry for item in layout.items]
    got = {entry.name: data for entry, data in source.payloads(wanted)}
    assert set(got) == set(told)
    for name, data in got.items():
        entry = told[name].entry
        found = data if data is not None else entry.path and entry.path.read_bytes()
        assert found == FILES[name]


def test_single_files_bring_what_belongs_to_them(tmp_path: Path) -> None:
    folder = as_folder(tmp_path)
    (source,) = open_sources([folder / "flat.jpg", folder / "bare"])
    layout = arrange(source)
    assert {item.entry.name: item.captions for item in layout.items} == {"flat.jpg": ("one", "two"), "bare": ()}
    assert not layout.left


def test_single_files_bring_nothing_else(tmp_path: Path) -> None:
    names = ["photo.1.jpg", "photo.1.txt", "photo.1-MaskLabel.png", "photo.2.jpg", "photo.2.txt", "photo.jpg"]
    for name in [*names, "photo.1.png", "a.jpg", "a.txt", "b.txt", "b.jpg"]:
        (tmp_path / name).write_bytes(png() if not name.endswith(".txt") else b"a caption")
    (source,) = open_sources([tmp_path / name for name in ("photo.1.jpg", "a.jpg", "b.txt")])
    layout = arrange(source)
    assert {item.entry.name: item.captions for item in layout.items} == {
        "a.jpg": ("a caption",),
        "photo.1.jpg": ("a caption",),
    }
    assert [item.mask.name for item in layout.items if item.mask] == ["photo.1-MaskLabel.png"]
    assert layout.left == [(f"{tmp_path}/b.txt", "no image of that name")]


def test_folders_may_lie_as_deep_as_the_system_lets_them(tmp_path: Path) -> None:
    folders = [f"{tmp_path}{'/d' * depth}" for depth in range(1, 1201)]
    deep = folders[-1]
    for folder in folders:
        os.mkdir(folder)
    Path(deep, "a.png").write_bytes(png())
    Path(tmp_path, "d", "z.png").write_bytes(png())
    layout = only(tmp_path)[1]
    assert [item.entry.name.count("/") for item in layout.items] == [1200, 1]
    os.unlink(f"{deep}/a.png")
    for folder in reversed(folders[1:]):
        os.rmdir(folder)


@pytest.mark.parametrize("name", ["10_", "10_ "])
def test_a_kohya_folder_may_name_no_class(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (item,) = items(tmp_path / name, a__png=png())
    assert (item.repeats, item.of_class, item.group) == (10, None, name)
    assert only(tmp_path)[1].items[0].repeats == 10


def test_a_kohya_folder_given_itself_says_its_class(tmp_path: Path) -> None:
    _, layout = only(as_folder(tmp_path) / "10_sks cat")
    assert {item.of_class for item in layout.items} == {"sks cat"}


def items(place: Path, **files: bytes) -> list[Item]:
    for name, data in files.items():
        (place / name.replace("__", ".")).write_bytes(data)
    return only(place)[1].items


@pytest.mark.parametrize(
    "data",
    [b"", b"[1]", b'"text"', b'{"caption": 3}', b"\xff\xfe", b"[" * 50_000, b'{"width": 3}'],
)
def test_json_that_tells_no_caption_is_none(data: bytes, tmp_path: Path) -> None:
    (item,) = items(tmp_path, a__png=png(), a__json=data)
    assert (item.captions, item.troubles) == ((), ())


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "x/../../a.png", "C:\\a.png", "..\\a.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_whose_names_lead_out_are_refused(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"set.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, png())
    else:
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo(name)
            info.size = len(png())
            tar.addfile(info, io.BytesIO(png()))
    (item,) = only(path)[1].items
    assert "its name leads out of the archive" in item.troubles[0]


def test_links_devices_and_doubles_in_archives_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for _ in range(2):
            info = tarfile.TarInfo("twice.png")
            info.size = len(png())
            archive.addfile(info, io.BytesIO(png()))
    _, layout = only(tmp_path / "set.tar")
    told = {item.entry.name: item.entry.trouble or "" for item in layout.items}
    assert [name for name, trouble in told.items() if "a link or a device" in trouble] == [
        "link.png",
        "hard.png",
        "pipe.png",
    ]
    assert told["twice.png"] == ""
    assert layout.unread == [(f"{tmp_path}/set.tar/twice.png", "stands twice in the archive; remove one of them")]
    assert not layout.left


def test_archives_that_are_cut_short_give_what_is_whole(tmp_path: Path) -> None:
    whole = as_tar(tmp_path)
    data = whole.read_bytes()
    whole.write_bytes(data[: data.index(b"web/00001.png") + 600])
    source, layout = only(whole)
    assert layout.items
    ((told, reason),) = layout.unread
    assert told == str(whole)
    assert "damaged or cut short" in reason
    for entry, found in source.payloads([item.entry for item in layout.items]):
        assert isinstance(found, DataError) or found == FILES[entry.name]


def test_a_damaged_member_costs_itself_alone(tmp_path: Path) -> None:
    path = as_zip(tmp_path)
    data = bytearray(path.read_bytes())
    place = data.index(b"flat.jpg") + len("flat.jpg") + 20
    data[place] ^= 0xFF
    path.write_bytes(data)
    source, layout = only(path)
    found = dict(source.payloads([item.entry for item in layout.items]))
    bad = [entry.name for entry, data in found.items() if isinstance(data, DataError)]
    assert bad == ["flat.jpg"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.zip", b"PK\3\4 broken", "damaged, or no archive"),
        ("a.tar.gz", b"\x1f\x8b broken", "damaged, or no archive"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c....", "7-Zip archive"),
        ("a.rar", b"Rar!\x1a\x07\x00....", "RAR archive"),
    ],
)
def test_what_cannot_be_opened_is_told(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=words):
        open_sources([tmp_path / name])


def test_all_sources_that_are_not_there_are_told_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError) as caught:
        open_sources([tmp_path / "a", tmp_path / "pipe", tmp_path / "b"])
    assert [line.partition(": ")[2] for line in caught.value.problems] == [
        "no such file or folder; check its name",
        "is neither a file nor a folder; give images, folders or archives",
        "no such file or folder; check its name",
    ]


def test_a_zip_bomb_is_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(65 * 2**20))
    (item,) = only(tmp_path / "set.zip")[1].items
    assert item.troubles == (f"{tmp_path}/set.zip/a.png: over 64 MB; save it smaller",)


def test_a_tar_that_swells_is_left_early(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tgz", "w:gz", compresslevel=1) as archive:
        for number in range(6):
            info = tarfile.TarInfo(f"{number}.bin")
            info.size = 60 * 2**20
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    layout = only(tmp_path / "set.tgz")[1]
    assert [told for told, _ in layout.unread] == [str(tmp_path / "set.tgz")]
    assert "grows to more than an archive of images does" in layout.unread[0][1]


def test_folders_that_are_links(tmp_path: Path) -> None:
    inside, outside = tmp_path / "data", tmp_path / "outside"
    for folder in (inside / "real", outside):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(png())
    (inside / "again").symlink_to(inside / "real")
    (inside / "out").symlink_to(outside)
    (inside / "real" / "circle").symlink_to(inside)
    _, layout = only(inside)
    assert [item.entry.name for item in layout.items] == ["real/a.png"]
    assert {told: reason.split("; ")[0] for told, reason in layout.left} == {
        f"{inside}/again": "a link to a folder that is read already",
        f"{inside}/real/circle": "a link to a folder that is read already",
    }
    assert layout.unread == [
        (f"{inside}/out", "a link that leads out of the folder; put the file itself there, or say --follow-links")
    ]
    _, layout = only(inside, follow_links=True)
    assert not layout.unread
    assert sorted(item.entry.name for item in layout.items) == ["again/a.png", "out/a.png", "real/a.png"]
    assert any("circle" in reason for _, reason in layout.left)


def test_folders_that_cannot_be_read_are_told_apart_from_what_is_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    for inner in ("locked", "run", "fine"):
        (folder / inner).mkdir(parents=True)
        (folder / inner / "a.png").write_bytes(png())
    (folder / "run" / "run.toml").touch()
    (folder / "photos").symlink_to(tmp_path / "unplugged")
    (folder / "notes.md").symlink_to(tmp_path / "nowhere.md")
    listed = os.listdir

    def listdir(place: Path) -> list[str]:
        if os.path.basename(place) == "locked":
            raise PermissionError(13, "Permission denied")
        return listed(place)

    monkeypatch.setattr(os, "listdir", listdir)
    _, layout = only(folder, follow_links=True)
    assert [item.entry.name for item in layout.items] == ["fine/a.png"]
    assert layout.unread == [
        (f"{folder}/locked", "cannot be read (Permission denied); check its permissions"),
        (f"{folder}/photos", "a link that leads nowhere, or removed meanwhile; put the file itself there"),
    ]
    assert [told for told, _ in layout.left] == [f"{folder}/notes.md", f"{folder}/run"]


def tarred(name: str, data: bytes, size: int | None = None, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


END = bytes(1024)


def test_a_tar_that_leads_back_to_its_start_ends_there(tmp_path: Path) -> None:
    """Sizes below zero, for which GNU has a form."""
    path = tmp_path / "set.tar"
    path.write_bytes(tarred("a.png", png()) + tarred("b.png", b"", size=-512) + tarred("c.png", png()) + END)
    (source,) = open_sources([path])
    assert len(list(islice(source.entries(), 9))) == 2
    layout = arrange(source)
    assert [item.entry.name for item in layout.items] == ["a.png"]
    assert [told for told, reason in layout.unread if "damaged" in reason] == [str(path)]
    assert [data for _, data in source.payloads([layout.items[0].entry])] == [png()]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_swells_is_not_read(kind: bytes, tmp_path: Path) -> None:
    path, bomb = tmp_path / "set.tar.gz", tarred("bomb", bytes(30 * 2**20), kind=kind)
    path.write_bytes(gzip.compress(tarred("a.png", png()) + bomb + tarred("b.png", png()) + END, 1))
    tracemalloc.start()
    source, layout = only(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20
    assert [item.entry.name for item in layout.items] == ["a.png"]
    assert "a header of over 1 MB" in layout.unread[0][1]
    assert [data for _, data in source.payloads([layout.items[0].entry])] == [png()]
    path.write_bytes(gzip.compress(bomb, 1))
    with pytest.raises(DataError, match=r"set\.tar\.gz: has a header of over 1 MB"):
        open_sources([path])


def test_a_tar_that_goes_on_with_something_else_is_told(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    path.write_bytes(tarred("a.png", png()) + b"x" * 512 + tarred("b.png", png()) + END)
    layout = only(path)[1]
    assert [item.entry.name for item in layout.items] == ["a.png"]
    assert "damaged" in layout.unread[0][1]


def test_a_folder_of_a_files_name_hides_it_not(tmp_path: Path) -> None:
    (tmp_path / "set.tar").write_bytes(
        tarred("a.png", b"", kind=tarfile.DIRTYPE) + tarred("b.png", b"", kind=tarfile.SYMTYPE) + tarred("a.png", png())
    )
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a.png/", b"")
        archive.writestr("a.png", png())
    for name in ("set.tar", "set.zip"):
        source, layout = only(tmp_path / name)
        wanted = next(item.entry for item in layout.items if item.entry.name == "a.png")
        assert [data for _, data in source.payloads([wanted])] == [png()]


def test_members_without_a_name_are_told_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "set.tar").write_bytes(tarred("", png()) + tarred("a.png", png()) + END)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), png())
        archive.writestr("a.png", png())
    for name in ("set.tar", "set.zip"):
        layout = only(tmp_path / name)[1]
        assert [item.entry.name for item in layout.items] == ["a.png"]
        assert layout.unread == [(str(tmp_path / name), "holds a file without a name; make the archive again")]


@pytest.mark.parametrize("packed", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_members_that_python_unpacks_without_a_limit_are_refused(packed: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w", packed) as archive:
        archive.writestr("a.png", png())
    (item,) = only(tmp_path / "set.zip")[1].items
    assert "packed in a rare way" in item.troubles[0]


@pytest.mark.parametrize("make", [as_zip, as_tar, as_tgz])
def test_no_damage_brings_more_than_a_reason(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    whole, chance = path.read_bytes(), random.Random(7)
    # Where the headers are: in between there is little to read.
    places = [place for place in range(len(whole)) if make is not as_tar or place % 512 < 345]
    for _ in range(300):
        data = bytearray(whole)
        for place in chance.sample(places, chance.choice((1, 1, 2, 8))):
            data[place] = chance.choice((0, 0xFF, 0x80, ord("0"), data[place] ^ 1 << chance.randrange(8)))
        if make is as_tar:
            data = resummed(data)
        path.write_bytes(data)
        try:
            source, layout = only(path)
            found = list(source.payloads([item.entry for item in layout.items if not item.entry.trouble]))
        except DataError:
            continue
        assert all(not told.endswith("/") for told, _ in layout.left + layout.unread)
        assert all(data is None or isinstance(data, bytes | DataError) for _, data in found)


def resummed(data: bytearray) -> bytearray:
    """With the sums over the headers put right, so that what is wrong in them is read."""
    for start in range(0, len(data), 512):
        if data[start + 257 : start + 262] == b"ustar":
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return data
