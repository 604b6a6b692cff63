"""A data set is made out of whatever there is, told file by file, and made again without doing anything twice."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image, ImageFilter

from sdtune.config import Prepare
from sdtune.core.data.caption_file import alone
from sdtune.core.data.layout import arrange
from sdtune.core.data.sources import FolderSource
from sdtune.core.intake.ledger import Ledger
from sdtune.core.intake.segment import Segmenter
from sdtune.core.intake.workers import Workers
from sdtune.core.prepare import prepare
from sdtune.core.reports import Prepared, Problem, Report, SetAside, Skipped, Warned
from sdtune.errors import ConfigError, DataError, OutputError, SdtuneError
from tests.core.captioners import tiny


def picture(number: int, size: tuple[int, int] = (96, 64), mode: str = "RGB") -> Image.Image:
    """Coarse colours with fine noise, another for each number: sharp, and like no other."""
    rng = numpy.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=numpy.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = rng.integers(-20, 20, (size[1], size[0], 3))
    return Image.fromarray((numpy.asarray(coarse) + noise).clip(0, 255).astype(numpy.uint8)).convert(mode)


def data(number: int, **more: Any) -> bytes:
    place = io.BytesIO()
    picture(number, **more).save(place, "PNG")
    return place.getvalue()


def photos(folder: Path, count: int = 4, start: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        (folder / f"p{number}.png").write_bytes(data(number))
        (folder / f"p{number}.txt").write_text(f"picture {number}")
    return folder


def run(*sources: Path, out: Path | None, **settings: Any) -> list[Report]:
    usual: dict[str, Any] = {"resolution": 128, "limits": {"workers": 1}}
    return list(prepare(Prepare(sources=sources, out=out, **(usual | settings))))


def summary(reports: list[Report]) -> Prepared:
    last = reports[-1]
    assert isinstance(last, Prepared)
    return last


def rows(out: Path) -> dict[str, dict[str, Any]]:
    """{name of the original: row}"""
    found = [json.loads(line) for line in (out / "prepared.jsonl").read_text(encoding="utf-8").splitlines()]
    return {os.path.basename(row["source"]): row for row in found}


def snapshot(folder: Path, *, times: bool = True) -> dict[str, tuple[str, int]]:
    """{file: (hash, time of change)} of all but the lock."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns if times else 0,
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def aside(reports: list[Report]) -> dict[str, tuple[str, str | None]]:
    return {
        report.path.name: (report.kind, report.like and os.path.basename(report.like))
        for report in reports
        if isinstance(report, SetAside)
    }


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be sent to a worker."""

    def refuse(_: Workers, work: Any) -> Any:
        assert next(iter(work), None) is None, "a file was read again"
        return iter(())

    monkeypatch.setattr(Workers, "each", refuse)


def test_everything_of_every_source_is_in_the_data_set_and_the_sources_are_as_they_were(tmp_path: Path) -> None:
    source = tmp_path / "in"
    photos(source / "flat", 3)
    photos(source / "10_sks cat", 2, start=10)
    (source / "10_sks cat" / "p10.txt").unlink()
    photos(source / "reg" / "1_cat", 2, start=20)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("z.png", data(30))
        archive.writestr("z.txt", "one\ntwo")
        archive.writestr("z-masklabel.png", data(31, mode="L"))
    with tarfile.open(tmp_path / "shard.tar.gz", "w:gz") as tar:
        for name, content in (("t.json", b'{"caption": "a shard"}'), ("t.png", data(40))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    before = snapshot(tmp_path)
    out = tmp_path / "out"
    told = summary(run(source, tmp_path / "more.zip", tmp_path / "shard.tar.gz", out=out))
    assert {name: content for name, content in snapshot(tmp_path).items() if not name.startswith("out/")} == before
    assert (told.images, told.priors, told.skipped, told.set_aside) == (7, 2, 0, {})
    found = rows(out)
    assert set(found) == {"p0.png", "p1.png", "p2.png", "p10.png", "p11.png", "p20.png", "p21.png", "z.png", "t.png"}
    for name, number in (("p0.png", 0), ("p10.png", 10), ("p20.png", 20), ("z.png", 30), ("t.png", 40)):
        with Image.open(out / found[name]["file"]) as image:
            assert image.mode == "RGB"
            assert (numpy.asarray(image) == numpy.asarray(picture(number))).all()
    texts = {name: (out / row["file"]).with_suffix(".txt") for name, row in found.items()}
    assert texts["p0.png"].read_text() == "picture 0"
    assert not texts["p10.png"].exists()  # its folder says the class
    assert texts["z.png"].read_text().splitlines() == ["one", "two"]
    assert texts["t.png"].read_text() == "a shard"
    assert found["p10.png"]["file"].startswith("10_sks cat/")
    assert found["p20.png"]["file"].startswith("reg/1_cat/")
    assert (out / found["z.png"]["file"].replace(".png", "-masklabel.png")).exists()
    assert (found["p10.png"]["repeats"], found["p0.png"]["repeats"]) == (10, 1)
    assert (out / "report.html").exists()


def test_a_second_run_reads_nothing_and_changes_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source, out = photos(tmp_path / "in", 14), tmp_path / "out"
    run(source, out=out)
    before = snapshot(out)
    assert len(before) > 30
    time.sleep(0.02)
    request.getfixturevalue("no_reading")
    run(source, out=out)
    assert snapshot(out) == before


def test_what_is_unfit_is_set_aside_with_the_reason_and_kept_on_request(tmp_path: Path) -> None:
    source = photos(tmp_path / "in", 3)
    picture(50, (24, 24)).save(source / "small.png")
    Image.new("RGB", (96, 64), "grey").save(source / "plain.png")
    picture(51, (400, 64)).save(source / "long.png")
    picture(52, (6, 6)).resize((96, 64), Image.Resampling.BICUBIC).save(source / "blurred.png")
    picture(1).resize((192, 128), Image.Resampling.LANCZOS).save(source / "p1 larger.jpg", quality=90)
    shutil.copy(source / "p2.png", source / "copy of p2.png")
    (source / "notes.doc").write_text("no image")
    (source / "broken.png").write_bytes(data(60)[:300])
    out = tmp_path / "out"
    reports = run(source, out=out)
    assert aside(reports) == {
        "small.png": ("too small", None),
        "plain.png": ("one colour", None),
        "long.png": ("too long", None),
        "blurred.png": ("blurred", None),
        "p1.png": ("near-duplicate", "p1 larger.jpg"),
        "copy of p2.png": ("same file", "p2.png"),
    }
    assert [report.path.name for report in reports if isinstance(report, Skipped)] == ["broken.png"]
    told = summary(reports)
    assert (told.images, told.skipped, told.left) == (3, 1, 1)
    assert sum(told.set_aside.values()) == 6
    larger = rows(out)["p1 larger.jpg"]
    assert larger["captions"] == ["picture 1"], "the better picture takes the words of the other"

    reports = run(source, out=tmp_path / "all", judge={"keep_all": True})
    assert aside(reports) == {"copy of p2.png": ("same file", "p2.png")}
    assert summary(reports).images == 8


def test_the_report_shows_each_with_its_reason(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 2), tmp_path / "out"
    picture(50, (24, 24)).save(source / "small <b>&.png")
    (source / "broken.png").write_bytes(data(60)[:300])
    run(source, out=out)
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in (
        "small &lt;b&gt;&amp;.png",
        "24 x 24 is too small",
        "broken.png",
        "damaged or cut short",
        "picture 1",
    ):
        assert words in page
    assert page.count("data:image/jpeg;base64,") >= 3
    assert "<script" not in page


def test_captions_that_someone_has_edited_stay_and_others_follow_the_source(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    run(source, out=out)
    edited = (out / rows(out)["p0.png"]["file"]).with_suffix(".txt")
    edited.write_text("my own words")
    (source / "p0.txt").write_text("the source says this now")
    (source / "p1.txt").write_text("and here too")
    run(source, out=out)
    assert edited.read_text() == "my own words"
    assert (out / rows(out)["p1.png"]["file"]).with_suffix(".txt").read_text() == "and here too"
    run(source, out=out, format="webp")
    assert edited.read_text() == "my own words"
    assert rows(out)["p0.png"]["file"].endswith(".webp")
    assert not list(out.glob("*.png"))


def test_an_edited_image_takes_the_place_of_the_old_one_and_a_removed_one_stays(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    run(source, out=out)
    old = rows(out)["p0.png"]["file"]
    (source / "p0.png").write_bytes(data(99))
    (source / "p1.png").unlink()
    told = summary(run(source, out=out))
    new = rows(out)["p0.png"]["file"]
    assert told.images == 3
    assert new != old
    assert not (out / old).exists()
    assert not (out / old).with_suffix(".txt").exists()
    with Image.open(out / new) as image:
        assert (numpy.asarray(image) == numpy.asarray(picture(99))).all()


def test_sources_can_be_added_one_after_the_other(tmp_path: Path) -> None:
    first, second, out = photos(tmp_path / "a", 2), photos(tmp_path / "b", 2, start=5), tmp_path / "out"
    run(first, out=out)
    picture(0).resize((192, 128), Image.Resampling.LANCZOS).save(second / "like p0.png")
    reports = run(second, out=out)
    assert set(rows(out)) == {"p0.png", "p1.png", "p5.png", "p6.png"}
    assert aside(reports) == {"like p0.png": ("near-duplicate", "p0.png")}, "what is there stays"


def test_what_is_held_out_follows_from_the_content_and_never_changes_side(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 40), tmp_path / "out"
    told = summary(run(source, out=out, held_out=0.25))
    before = {name: row["held_out"] for name, row in rows(out).items()}
    assert told.held_out == sum(before.values())
    assert 3 <= told.held_out <= 20
    assert all(row["file"].startswith("held-out/") is row["held_out"] for row in rows(out).values())
    photos(source, 20, start=40)
    run(source, out=out, held_out=0.25)
    run(source, out=tmp_path / "fresh", held_out=0.25)
    for place in (out, tmp_path / "fresh"):
        now = {name: row["held_out"] for name, row in rows(place).items()}
        assert {name: now[name] for name in before} == before
    assert rows(out).keys() == rows(tmp_path / "fresh").keys()
    assert summary(run(source, out=out, held_out=0)).held_out == 0
    assert not (out / "held-out").exists()


@pytest.mark.parametrize(("images", "held"), [(11, 0), (12, 2)])
def test_few_images_are_not_held_out_and_of_twelve_two_are(images: int, held: int, tmp_path: Path) -> None:
    assert summary(run(photos(tmp_path / "in", images), out=tmp_path / "out", held_out=0.01)).held_out == held


def test_a_dry_run_tells_the_same_and_writes_nothing(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    picture(50, (24, 24)).save(source / "small.png")
    before = snapshot(tmp_path)
    reports = run(source, out=out, dry_run=True)
    assert snapshot(tmp_path) == before
    assert not out.exists()
    assert aside(reports) == {"small.png": ("too small", None)}
    assert (summary(reports).images, summary(reports).out) == (3, None)
    assert summary(run(source, out=None, dry_run=True)).images == 3
    run(source, out=out)
    made = snapshot(out)
    photos(source, 1, start=9)
    assert summary(run(source, out=out, dry_run=True)).images == 4
    assert snapshot(out) == made


def test_transparency_is_a_background_or_a_mask(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    image = picture(1).convert("RGBA")
    alpha = Image.new("L", image.size, 0)
    alpha.paste(255, (20, 10, 80, 50))
    image.putalpha(alpha)
    image.save(source / "a.png")
    run(source, out=tmp_path / "red", background="#ff0000")
    made = rows(tmp_path / "red")["a.png"]
    with Image.open(tmp_path / "red" / made["file"]) as found:
        assert found.getpixel((2, 2)) == (255, 0, 0)
        assert found.getpixel((40, 30)) == picture(1).getpixel((40, 30))
    run(source, out=tmp_path / "masked", mask={"kind": "alpha"})
    made = rows(tmp_path / "masked")["a.png"]
    assert made["mask"] == "alpha"
    with Image.open(tmp_path / "masked" / made["file"].replace(".png", "-masklabel.png")) as found:
        assert (numpy.asarray(found) == numpy.asarray(alpha)).all()


def test_masks_by_a_text_are_found_once_and_anew_for_another_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    (source / "p0-masklabel.png").write_bytes(data(50, mode="L"))
    asked: list[str] = []
    settings = {"kind": "clipseg", "model": str(tiny.saved("clipseg", tmp_path / "model")), "threshold": 0.5}
    real = Segmenter.mask

    def counted(segmenter: Segmenter, images: Any) -> Any:
        asked.extend("image" for _ in images)
        return real(segmenter, images)

    monkeypatch.setattr(Segmenter, "mask", counted)
    for prompt, found in (("a cat", 2), ("a cat", 0), ("a dog", 2)):
        asked.clear()
        run(source, out=out, mask=settings | {"prompt": prompt})
        assert len(asked) == found
        masks = {name: row["mask"].partition(" (")[0] for name, row in rows(out).items()}
        assert masks == {"p0.png": "file", "p1.png": f"clipseg: {prompt}", "p2.png": f"clipseg: {prompt}"}
        for row in rows(out).values():
            with Image.open(out / row["file"].replace(".png", "-masklabel.png")) as mask:
                assert (mask.mode, mask.size) == ("L", (96, 64))
    run(source, out=out)
    assert len(list(out.glob("*-masklabel.png"))) == 1


def test_prior_images_are_drawn_by_the_base_model_once(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 2), tmp_path / "out"
    settings: dict[str, Any] = {"prior": {"count": 2, "prompt": "a cat"}}
    assert summary(run(source, out=out, **settings)).priors == 2
    drawn = snapshot(out / "reg")
    assert sorted(Path(name).suffix for name in drawn) == [".png", ".png", ".txt", ".txt"]
    assert {path.read_text() for path in out.glob("reg/1_a-cat/*.txt")} == {"a cat"}
    assert summary(run(source, out=out, **settings)).priors == 2
    assert snapshot(out / "reg") == drawn
    settings["prior"]["count"] = 3
    assert summary(run(source, out=out, **settings)).priors == 3
    assert drawn.items() <= snapshot(out / "reg").items()


def test_problems_of_captions_are_told_with_the_remedy_for_this_folder(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    (source / "p0.txt").unlink()
    (source / "p1.txt").write_bytes("café".encode("latin-1"))
    reports = run(source, out=out)
    missing = [report for report in reports if isinstance(report, Problem) and report.kind == "missing"]
    assert len(missing[0].names) == 2
    assert str(out) in missing[0].remedy
    unreadable = [report for report in reports if isinstance(report, Problem) and report.kind == "unreadable"]
    assert "p1.txt: not text in UTF-8" in unreadable[0].told
    assert summary(reports).try_next == f"sdtune caption {out}"


def test_names_of_any_kind_become_safe_names_and_are_told_as_they_are(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    names = [
        "ünï 猫.png",
        "\x1b[31mred.png",
        "a\u202egnp.exe.png",
        "<script>.png",
        "x" * 250 + ".png",
        "con.png",
        "-rf.png",
    ]
    for number, name in enumerate(names):
        (source / name).write_bytes(data(number))
    run(source, out=out)
    files = [path.name for path in out.glob("*.png")]
    assert len(files) == len(names)
    for name in files:
        assert len(name.encode()) < 130
        assert not name.startswith("-")
        assert not any(ord(letter) < 32 or letter in '<>:"/\\|?*\u202e' for letter in name)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"out": None}, ConfigError, "out (--out): not given"),
        ({"background": "octarine"}, ConfigError, "no colour is called 'octarine'"),
        ({"prior": {"count": 2}}, ConfigError, "--class-prompt"),
        ({"out": "in"}, OutputError, "holds the source"),
        ({"out": "."}, OutputError, "holds the source"),
        ({"out": "other"}, OutputError, "already holds files that are not prepare's"),
        ({"sources": ["gone", "in"]}, DataError, "gone: no such file or folder"),
        ({"sources": ["empty"]}, DataError, "no images"),
        ({"sources": ["bad"]}, DataError, "none of the 1 images can be used"),
    ],
)
def test_what_cannot_be_is_told_in_one_line_and_nothing_is_written(
    settings: dict[str, Any], error: type[SdtuneError], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(Path("in"), 1)
    photos(Path("other"), 1)
    Path("empty").mkdir()
    Path("bad").mkdir()
    Path("bad/a.png").write_text("no image")
    before = snapshot(tmp_path)
    with pytest.raises(error) as caught:
        list(prepare(Prepare(**({"sources": ["in"], "out": "out"} | settings))))
    assert words in caught.value.problems[0]
    assert snapshot(tmp_path) == before
    assert not Path("out").exists()


def test_strict_prepares_the_rest_and_fails(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 2), tmp_path / "out"
    (source / "bad.png").write_text("no image")
    with pytest.raises(DataError, match="1 file could not be used"):
        run(source, out=out, strict=True)
    assert len(rows(out)) == 2


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    work = prepare(Prepare(sources=(source,), out=out, resolution=128))
    while "preparing" not in str(next(work)):
        pass
    with pytest.raises(OutputError, match="another prepare is at work there"):
        run(source, out=out)
    work.close()
    run(source, out=out)


def test_a_data_set_of_someone_else_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 2), tmp_path / "out"
    run(source, out=out)
    row = rows(out)["p0.png"] | {"file": "../victim.png"}
    with (out / "prepared.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    (tmp_path / "victim.png").write_bytes(bytes(row["bytes"]))
    with pytest.raises(DataError, match="leads out of the data set"):
        run(source, out=out)
    assert (tmp_path / "victim.png").exists()


def test_killed_at_any_point_and_run_again_it_is_as_if_nothing_had_happened(tmp_path: Path) -> None:
    source = photos(tmp_path / "in", 30)
    for number in range(4):
        picture(number).resize((192, 128), Image.Resampling.LANCZOS).save(source / f"larger {number}.png")
    out = tmp_path / "out"
    run(source, out=out)
    whole = snapshot(out, times=False)
    shutil.rmtree(out)
    command = [sys.executable, "-m", "sdtune", "prepare", str(source), "--out", str(out)]
    command += ["--resolution", "128", "--workers", "1", "--json"]
    kills, wait = 0, 0.05
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path) as process:
            assert process.stdout is not None
            if process.stdout.readline():  # it has begun
                time.sleep(wait)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
        kills += 1
        wait *= 1.6
    assert kills > 2
    told = run(source, out=out)
    assert summary(told).images == 30
    assert snapshot(out, times=False) == whole


def test_what_someone_takes_out_of_the_data_set_stays_out_until_it_is_restored(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 5), tmp_path / "out"
    run(source, out=out)
    (out / rows(out)["p1.png"]["file"]).unlink()
    for _ in range(2):
        reports = run(source, out=out)
        assert aside(reports) == {"p1.png": ("removed", None)}
        assert set(rows(out)) == {"p0.png", "p2.png", "p3.png", "p4.png"}
    run(source, out=out, restore=True)
    assert set(rows(out)) == {f"p{number}.png" for number in range(5)}
    assert aside(run(source, out=out)) == {}
    for path in out.glob("*.png"):
        path.unlink()
    assert summary(run(source, out=out)).images == 5, "where all are gone, nobody chose"


def test_an_image_that_is_edited_in_the_data_set_stays_and_is_told(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    run(source, out=out)
    edited = out / rows(out)["p1.png"]["file"]
    Image.new("RGB", (50, 50), "red").save(edited)
    mine = edited.read_bytes()
    for settings in ({}, {"background": "black"}, {"format": "webp"}):
        reports = run(source, out=out, **settings)
        assert edited.read_bytes() == mine
        assert any(isinstance(one, Warned) and edited.name in one.text and "edited" in one.text for one in reports)


def test_masks_go_where_they_are_no_longer_asked_for(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 2), tmp_path / "out"
    (source / "p0-masklabel.png").write_bytes(data(50, mode="L"))
    clear = picture(7).convert("RGBA")
    clear.putalpha(picture(8).convert("L"))
    clear.save(source / "clear.png")
    run(source, out=out, mask={"kind": "alpha"})
    assert len(list(out.glob("*-masklabel.png"))) == 2
    run(source, out=out, format="webp")
    assert len(list(out.glob("*-masklabel.png"))) == 1
    (source / "p0-masklabel.png").unlink()
    run(source, out=out, format="webp")
    assert not list(out.glob("*-masklabel.png"))


def test_after_an_end_in_the_middle_other_settings_leave_nothing_of_the_first_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = photos(tmp_path / "in", 14), tmp_path / "out"

    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    for before in ({}, {"resolution": 64}):
        monkeypatch.setattr(Ledger, "finish", broken)
        with pytest.raises(KeyboardInterrupt):
            run(source, out=out, held_out=0.5, **before)
        monkeypatch.undo()
    assert list(out.glob("held-out/*.png"))
    run(source, out=out, format="jpeg", held_out=0)
    images = sorted(
        path.name for path in out.rglob("*") if path.suffix in (".png", ".jpg") and ".sdtune" not in str(path)
    )
    assert len(images) == 14
    assert all(name.endswith(".jpg") for name in images)
    assert not (out / "held-out").exists()


def test_edited_captions_go_with_their_images_and_new_ones_come_along(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 14), tmp_path / "out"
    run(source, out=out, held_out=0)
    for row in rows(out).values():
        (out / row["file"]).with_suffix(".txt").write_text("my own words")
    untouched = (out / rows(out)["p3.png"]["file"]).with_suffix(".txt")
    untouched.write_text("picture 3")
    (source / "p3.txt").write_text("new words of the source")
    run(source, out=out, held_out=0.9, resolution=64, format="jpeg")
    found = rows(out)
    assert {row["held_out"] for row in found.values()} == {True, False}
    texts = {name: (out / row["file"]).with_suffix(".txt").read_text() for name, row in found.items()}
    assert texts.pop("p3.png") == "new words of the source"
    assert set(texts.values()) == {"my own words"}
    assert len(list(out.rglob("*.txt"))) == 14


def test_a_folder_that_comes_meanwhile_is_not_removed(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "bad.png").write_text("no image")
    work = prepare(Prepare(sources=(source,), out=out, resolution=128))
    next(work)
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="none of the 1 images"):
        list(work)
    assert (out / "precious.txt").read_text() == "mine"
    assert [path.name for path in out.iterdir()] == ["precious.txt"]


def test_where_all_is_set_aside_it_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 2), tmp_path / "out"
    with pytest.raises(DataError, match="2 images are all set aside, as told above; --keep-all"):
        run(source, out=out, judge={"min_side": 500})
    assert not out.exists()


@pytest.mark.parametrize("class_", ["sks, a cat's face (orange)", "x" * 150, "猫/".strip("/")])
def test_a_class_is_kept_to_the_letter(class_: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    photos(source / f"10_{class_}", 2)
    for text in (source / f"10_{class_}").glob("*.txt"):
        text.unlink()
    run(source, out=out)
    assert [item.captions or (item.of_class,) for item in arrange(FolderSource(out)).items] == [(class_,)] * 2


def test_captions_that_do_not_fit_one_file_are_told(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 1), tmp_path / "out"
    row = {"file_name": "p0.png", "text": [f"{letter} word " * 500 for letter in "abcd"]}
    (source / "metadata.jsonl").write_text(json.dumps(row))
    reports = run(source, out=out)
    assert any(isinstance(one, Problem) and "only 2 of its 4 captions fit" in one.told for one in reports)
    assert (out / rows(out)["p0.png"]["file"]).with_suffix(".txt").stat().st_size <= 8192


def test_a_spoilt_ledger_costs_its_own_lines_alone(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    run(source, out=out)
    good = snapshot(out, times=False)
    for name in (".sdtune/measured.jsonl", "prepared.jsonl"):
        first, *others = (out / name).read_text().splitlines()
        told = json.loads(first)
        lines = [json.dumps(told | {key: value}) for key in told for value in (None, "zz", [1], 5, -1, "", 10**30)]
        lines = [line for line in lines if "leads" not in line] + ["[" * 10_000, "{}", "null", first[:-20], "\0"]
        (out / name).write_text("\n".join([*lines, *others]))
        told_again = run(source, out=out)
        assert summary(told_again).images == 3
    assert snapshot(out, times=False).keys() == good.keys()


def test_a_report_and_thumbnails_that_were_spoilt_are_made_again(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    run(source, out=out)
    (out / "report.html").write_text("<html>", encoding="utf-16")
    shutil.rmtree(out / ".sdtune" / "thumbnails")
    run(source, out=out)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 3


def test_a_dry_run_may_look_at_what_it_may_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = photos(tmp_path / "in", 2), tmp_path / "out"
    run(source, out=out)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert summary(run(source, out=out, dry_run=True)).images == 2
    with pytest.raises(OutputError, match="cannot be written"):
        run(source, out=out)


def test_prior_images_of_another_prompt_are_not_taken_for_these(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 1), tmp_path / "out"
    run(source, out=out, prior={"count": 1, "prompt": "a dog"})
    assert summary(run(source, out=out, prior={"count": 1, "prompt": "a dog!"})).priors == 1
    assert len(list(out.rglob("reg/*/*.png"))) == 2


def test_a_prior_image_that_was_removed_makes_room_for_a_new_one(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 1), tmp_path / "out"
    run(source, out=out, prior={"count": 2, "prompt": "a dog"})
    next(out.rglob("reg/*/00001-*.png")).unlink()
    run(source, out=out, prior={"count": 2, "prompt": "a dog"})
    assert sorted(path.name.split("-")[1] for path in out.rglob("reg/*/*.png")) == ["1", "2"]


def test_a_split_of_the_sources_is_the_split_of_the_data_set(tmp_path: Path) -> None:
    photos(tmp_path / "in" / "train", 14)
    photos(tmp_path / "in" / "validation", 3, start=20)
    run(tmp_path / "in", out=tmp_path / "out")
    held = {name for name, row in rows(tmp_path / "out").items() if row["held_out"]}
    assert held == {"p20.png", "p21.png", "p22.png"}


def test_captions_written_since_count(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    (source / "p0.txt").unlink()
    assert summary(run(source, out=out)).described == 2
    (out / rows(out)["p0.png"]["file"]).with_suffix(".txt").write_text("described by now")
    told = summary(run(source, out=out))
    assert (told.described, told.try_next) == (3, f"sdtune train-lora {out}")


def test_an_edited_caption_stays_when_its_image_goes(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    picture(9, (40, 40)).save(source / "small.png")
    (source / "small.txt").write_text("small")
    run(source, out=out)
    texts = [(out / rows(out)[name]["file"]).with_suffix(".txt") for name in ("small.png", "p0.png")]
    texts[0].write_text("my own words")
    reports = run(source, out=out, judge={"min_side": 50})
    assert texts[0].read_text() == "my own words"
    assert any(isinstance(one, Warned) and str(texts[0]) in one.text for one in reports)
    run(source, out=out, judge={"min_side": 5000, "keep_all": True})
    assert texts[0].read_text() == "my own words"


def test_a_file_that_is_given_in_several_ways_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = photos(tmp_path / "in", 3)
    monkeypatch.chdir(tmp_path)
    told = summary(run(source, Path("in"), Path("in/."), Path("in/p0.png"), out=tmp_path / "out"))
    assert (told.images, told.set_aside) == (3, {})


def test_after_a_kill_nothing_counts_as_taken_out_by_hand(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 4), tmp_path / "out"
    run(source, out=out)
    (out / rows(out)["p1.png"]["file"]).unlink()
    planned = [json.dumps(row | {"key": "of other settings"}) for row in rows(out).values()]
    (out / ".sdtune" / "moving.jsonl").write_text("\n".join(planned))
    assert summary(run(source, out=out)).images == 4


def test_what_is_measured_after_a_kill_stands_on_a_line_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos(tmp_path / "in", 2), out=out)
    (key, *_), found = Ledger(out).measured, next(iter(Ledger(out).measured.values()))
    (out / ".sdtune" / "measured.jsonl").write_text('{"key": "cut off')
    ledger = Ledger(out)
    with ledger.open():
        ledger.add(key, found)
    assert Ledger(out).measured == {key: found}


def test_shards_in_a_folder_are_read_and_a_blank_class_is_none(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for shard in range(2):
        (source / "shards").mkdir(parents=True, exist_ok=True)
        with tarfile.open(source / "shards" / f"{shard:05d}.tar", "w") as tar:
            for name, content in (("a.txt", b"a shard"), ("a.png", data(shard))):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (source / "broken.zip").write_bytes(b"PK broken")
    photos(source / "10_", 1, start=5)
    (source / "10_" / "p5.txt").unlink()
    reports = run(source, out=out)
    told = summary(reports)
    assert (told.images, told.described, told.left, told.try_next) == (3, 2, 0, f"sdtune caption {out}")
    assert [report.path.name for report in reports if isinstance(report, Skipped)] == ["broken.zip"]


def test_it_does_not_wait_for_pytorch() -> None:
    told = "import sys, sdtune.core.prepare; print({'torch', 'transformers', 'diffusers'} & set(sys.modules) or 'none')"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout == "none\n"


def stopped_while_moving(monkeypatch: pytest.MonkeyPatch, *sources: Path, out: Path, **settings: Any) -> None:
    """A run that ends after its images are placed and before that is written down."""

    def broken(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "finish", broken)
    with pytest.raises(KeyboardInterrupt):
        run(*sources, out=out, **settings)
    monkeypatch.undo()


def test_what_people_did_holds_through_a_kill_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = photos(tmp_path / "in", 6), tmp_path / "out"
    run(source, out=out)
    edited, removed = (out / rows(out)[name]["file"] for name in ("p0.png", "p5.png"))
    Image.new("RGB", (50, 50), "red").save(edited)
    mine = edited.read_bytes()
    removed.unlink()
    for settings in ({}, {"format": "jpeg"}, {"resolution": 64}, {}):
        stopped_while_moving(monkeypatch, source, out=out, **settings)
        reports = run(source, out=out, **settings)
        assert edited.read_bytes() == mine
        assert aside(reports)["p5.png"] == ("removed", None)
        images = [path.name for path in out.glob("*.[pj][np]g")]
        assert len(images) == 5, "one copy each"


def test_an_edited_image_is_the_one_copy_on_its_side(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 14), tmp_path / "out"
    run(source, out=out, held_out=0)
    for number, row in enumerate(rows(out).values()):
        Image.new("RGB", (50, 50), (number, 0, 0)).save(out / row["file"])
    mine = {path.read_bytes() for path in out.glob("*.png")}
    for settings in ({"held_out": 0.5}, {"held_out": 0.5, "format": "jpeg"}, {"held_out": 0}):
        run(source, out=out, **settings)
        images = [path for path in out.rglob("*") if path.suffix in (".png", ".jpg") and ".sdtune" not in path.parts]
        assert {path.read_bytes() for path in images} == mine
        assert len(images) == 14
        assert all(path.with_suffix(".txt").exists() for path in images)


def test_masks_that_people_draw_are_theirs(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 14), tmp_path / "out"
    (source / "p1-masklabel.png").write_bytes(data(50, mode="L"))
    run(source, out=out, held_out=0.4)
    mine = {}
    for name, row in rows(out).items():
        path = out / row["file"].replace(".png", "-masklabel.png")
        Image.new("L", (96, 64), int(name[1:-4])).save(path)
        mine[name] = path.read_bytes()
    clipseg = {"kind": "clipseg", "model": str(tiny.saved("clipseg", tmp_path / "model")), "prompt": "a cat"}
    for settings in ({"mask": clipseg}, {}, {"resolution": 64, "held_out": 0}, {"mask": {"kind": "alpha"}}):
        run(source, out=out, **settings)
        for name, row in rows(out).items():
            assert (out / row["file"].replace(".png", "-masklabel.png")).read_bytes() == mine[name]


def test_a_mask_of_another_text_does_not_pass_for_this_one_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    model = str(tiny.saved("clipseg", tmp_path / "model"))
    settings = {"kind": "clipseg", "model": model, "threshold": 0.5}
    run(source, out=out, mask=settings | {"prompt": "a cat"})
    monkeypatch.setattr("sdtune.core.prepare.find_masks", stop)
    with pytest.raises(KeyboardInterrupt):
        run(source, out=out, mask=settings | {"prompt": "a dog"})
    monkeypatch.undo()
    asked: list[int] = []
    real = Segmenter.mask
    monkeypatch.setattr(Segmenter, "mask", lambda one, images: asked.append(len(images)) or real(one, images))
    run(source, out=out, mask=settings | {"prompt": "a dog"})
    assert sum(asked) == 3


def stop(*_: Any) -> Any:
    raise KeyboardInterrupt
    yield


def test_a_kill_moves_nothing_across(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = photos(tmp_path / "in", 13), tmp_path / "out"
    run(source, out=out, held_out=0.01)
    before = {name for name, row in rows(out).items() if row["held_out"]}
    assert len(before) == 2
    photos(source, 12, start=13)
    stopped_while_moving(monkeypatch, source, out=out, held_out=0.01)
    run(source, out=out, held_out=0.01)
    assert before <= {name for name, row in rows(out).items() if row["held_out"]}


def test_new_captions_of_the_sources_come_whole_through_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = photos(tmp_path / "in", 4), tmp_path / "out"
    run(source, out=out)
    for number in range(4):
        (source / f"p{number}.txt").write_text(f"new words {number}")
    real, written = Ledger.write, []

    def limited(ledger: Ledger, path: Path, text: str) -> None:
        written.append(path)
        if path.suffix == ".txt" and sum(one.suffix == ".txt" for one in written) > 2:
            raise KeyboardInterrupt
        real(ledger, path, text)

    monkeypatch.setattr(Ledger, "write", limited)
    with pytest.raises(KeyboardInterrupt):
        run(source, out=out)
    monkeypatch.undo()
    run(source, out=out)
    assert {path.read_text() for path in out.glob("*.txt")} == {f"new words {number}" for number in range(4)}


def test_of_two_copies_of_a_picture_one_can_be_taken_out(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    photos(source / "10_cat", 3)
    photos(source / "reg" / "1_cat", 1)
    run(source, out=out)
    next(out.glob("reg/1_cat/*.png")).unlink()
    for _ in range(2):
        run(source, out=out)
        assert len(list(out.glob("10_cat/*.png"))) == 3
        assert not list(out.glob("reg/1_cat/*.png"))


def test_sources_that_move_leave_nothing_double(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    photos(source / "10_cat", 14)
    photos(source / "reg" / "1_cat", 2, start=20)
    settings: dict[str, Any] = {"held_out": 0.3, "judge": {"keep_all": True}}
    first = summary(run(source, out=out, **settings))
    edited = next(out.glob("10_cat/*.txt"))
    edited.write_text("my own words")
    source.rename(tmp_path / "moved")
    told = summary(run(tmp_path / "moved", out=out, **settings))
    assert (told.images, told.priors, told.held_out) == (first.images, first.priors, first.held_out)
    (tmp_path / "moved" / "10_cat").rename(tmp_path / "moved" / "20_cat")
    told = summary(run(tmp_path / "moved", out=out, **settings))
    assert (told.images, told.priors, told.held_out) == (first.images, first.priors, first.held_out)
    assert not (out / "10_cat").exists()
    assert [path.read_text() for path in out.glob("20_cat/*.txt")].count("my own words") == 1


def test_a_source_that_cannot_be_read_for_once_keeps_its_picture(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    run(source, out=out)
    (source / "p1.png").write_bytes(data(1)[:200])
    assert summary(run(source, out=out)).images == 3
    (source / "p1.png").write_bytes(data(1))
    assert summary(run(source, out=out)).images == 3


def test_a_dry_run_counts_what_is_there_by_now(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    (source / "p0.txt").unlink()
    run(source, out=out)
    (out / rows(out)["p0.png"]["file"]).with_suffix(".txt").write_text("described by now")
    assert summary(run(source, out=out, dry_run=True)).described == 3


def test_near_duplicates_lie_on_one_side_whatever_else_is_said_of_them(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 14), tmp_path / "out"
    for number in range(14):
        picture(number).filter(ImageFilter.GaussianBlur(2)).save(source / f"p{number} blurred.png")
    run(source, out=out, held_out=0.4, judge={"keep_all": True, "sharpness": 1000})
    sides = {name: row["held_out"] for name, row in rows(out).items()}
    assert len(sides) == 28
    assert set(sides.values()) == {True, False}
    assert all(sides[f"p{number}.png"] == sides[f"p{number} blurred.png"] for number in range(14))


def test_captions_in_a_list_are_told_not_to_be_seen_and_caption_is_kept_out(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 2), tmp_path / "out"
    run(source, out=out)
    (out / "metadata.jsonl").write_text("")
    assert any(isinstance(one, Warned) and "metadata.jsonl: its captions" in one.text for one in run(source, out=out))
    with alone(out), pytest.raises(OutputError, match="another sdtune caption or prepare is at work"):
        run(source, out=out)


def clear(number: int) -> Image.Image:
    """A picture with real transparency."""
    image = picture(number).convert("RGBA")
    image.putalpha(picture(number + 100).convert("L"))
    return image


def test_a_mask_that_changes_when_its_picture_moves_is_the_new_one(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 2), tmp_path / "out"
    clear(0).save(source / "p0.png")
    run(source, out=out)
    (source / "10_cat").mkdir()
    for path in list(source.glob("p*")):
        path.rename(source / "10_cat" / path.name)
    (source / "10_cat" / "p1-masklabel.png").write_bytes(data(50, mode="L"))
    run(source, out=out, mask={"kind": "alpha"})
    masks = {name: out / row["file"].replace(".png", "-masklabel.png") for name, row in rows(out).items()}
    assert {name for name, mask in masks.items() if mask.exists()} == {"p0.png", "p1.png"}
    (source / "10_cat").rename(source / "20_cat")
    (source / "20_cat" / "p1-masklabel.png").unlink()
    run(source, out=out)
    assert not list(out.rglob("*-masklabel.png"))


def test_a_picture_edited_after_a_kill_is_the_one_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = photos(tmp_path / "in", 3), tmp_path / "out"
    run(source, out=out)
    stopped_while_moving(monkeypatch, source, out=out, format="jpeg")
    edited = next(out.glob("p0-*.jpg"))
    Image.new("RGB", (50, 50), "red").save(edited)
    mine = edited.read_bytes()
    for settings in ({}, {}, {"format": "webp"}):
        run(source, out=out, **settings)
        assert [path.read_bytes() for path in out.glob("p0-*.*") if path.suffix != ".txt"] == [mine]


def test_after_a_kill_no_mask_stays_beside_a_picture_that_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = photos(tmp_path / "in", 1), tmp_path / "out"
    clear(0).save(source / "p0.png")
    run(source, out=out, format="webp")
    stopped_while_moving(monkeypatch, source, out=out, mask={"kind": "alpha"})
    run(source, out=out, format="webp")
    assert not list(out.rglob("*-masklabel.png"))


def test_a_drawn_mask_goes_with_its_picture_before_another_comes(tmp_path: Path) -> None:
    source, out = photos(tmp_path / "in", 1), tmp_path / "out"
    clear(0).save(source / "p0.png")
    run(source, out=out, mask={"kind": "alpha"})
    drawn = next(out.glob("*-masklabel.png"))
    Image.new("L", (96, 64), 7).save(drawn)
    mine = drawn.read_bytes()
    clear(1).save(source / "p0.png")
    run(source, out=out, mask={"kind": "alpha"})
    assert [path.read_bytes() for path in out.glob("*-masklabel.png")] == [mine]
    assert (out / rows(out)["p0.png"]["file"].replace(".png", "-masklabel.png")).exists()
