"""References: the pictures that drawings are laid beside, and those that were trained, found where they lie now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy
from pydantic import ValidationError

from sdtune.core.data import captions
from sdtune.core.data.folder import arrange_folder
from sdtune.core.data.image_file import contents
from sdtune.core.data.images import decode
from sdtune.core.data.layout import IMAGE_LIKE, KOHYA, Item
from sdtune.core.data.sources import FolderSource
from sdtune.core.data.weights import without_weights
from sdtune.core.data.wordings import wordings
from sdtune.core.data_list import Listed, listed_in
from sdtune.core.evaluation.candidates import Origin, printable
from sdtune.core.evaluation.subject import Reference, Subject
from sdtune.core.home import expanded
from sdtune.core.intake.measures import alike, fingerprint, grey_of, tints
from sdtune.core.reports import Progress, Skipped, Telling
from sdtune.core.run_folder import RunFolder
from sdtune.core.sampling.run_of import MAX_DATA_BYTES
from sdtune.errors import ConfigError, DataError, InputError
from sdtune.tables import Captions, Judge

FEWEST = 5
"""held-out pictures, below which trained ones stand beside them"""
NAMED = 3
"""pictures in one message"""
LETTERS = 60
"""of a picture's name in a message"""
MOST_SOUGHT = 20_000
"""files of a data folder that are read to find one that has moved"""
MOST_LOOKED_AT = 2_000
"""pictures that are decoded to find near-duplicates: of photographs about a minute"""
SIDE = 512
"""pixels that a fingerprint needs"""
ABOVE = 3
"""folders above a run from which its data may have been named: runs/cats-1 lies two below where it was begun"""


@dataclass(frozen=True)
class Pictures:
    """What drawings are laid beside."""

    references: tuple[Reference, ...]
    are_trained: bool
    """whether trained ones stand in, for want of others"""
    told: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """What is known of a training."""

    subject: Subject
    told: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    """of pictures that are nowhere"""


def subject_of(origin: Origin, trained: Path | None, *, follow_links: bool) -> Telling[Known]:
    """What LoRAs of an origin were trained on; `trained` is --trained.

    Pictures of a run are known by their content; one that is elsewhere in its folders is found there.
    """
    trained = expanded(trained) if trained else None
    plain = Subject(origin.name, origin.place)
    listed, told = _listed(origin)
    if listed:
        folders = [*([trained] if trained else []), *_folders(origin)]
        found = yield from _found(listed, folders, origin.name, follow_links=follow_links)
        known = [(one, found[one.sha256]) for one in listed if one.sha256 in found]
        own = tuple(_picture(one, place, origin) for one, place in known if not one.held_out)
        held_out = tuple(_picture(one, place, origin) for one, place in known if one.held_out)
        if own or not trained:
            gone = tuple(worded(one.captions[0], origin) for one in listed if one.captions and one.sha256 not in found)
            missing = _missing(listed, found, origin)
            return Known(replace(plain, trained=own, held_out=held_out), (*told, *missing), gone)
        plain = replace(plain, held_out=held_out)
    if not trained:
        return Known(plain, told)
    pictures, _ = yield from pictures_in(trained, "--trained", origin, follow_links=follow_links)
    outside = {one.sha256 for one in plain.held_out}
    return Known(replace(plain, trained=tuple(one for one in pictures if one.sha256 not in outside)), told)


def references_of(
    subjects: Sequence[Subject], origin: Origin, folder: Path | None, *, follow_links: bool
) -> Telling[Pictures]:
    """The given ones, else those that runs held out; none of them trained, where there are enough of such.

    `origin` says how captions are worded. Raises DataError where there are none.
    """
    trained = [one for subject in subjects for one in subject.trained]
    given: list[Reference] | tuple[Reference, ...]
    if folder:
        given, told = yield from pictures_in(folder, "--reference", origin, follow_links=follow_links)
        name = printable(str(folder))
    else:
        given = [one for subject in subjects for one in subject.held_out]
        told, name = (), "held-out pictures"
    once = list({one.sha256: one for one in reversed(given)}.values())[::-1]
    doubles = yield from _doubles(once, trained)
    kept = tuple(one for one in once if one.sha256 not in doubles)
    lines = list(told)
    if doubles:
        lines.append(_told_of_doubles([one for one in once if one.sha256 in doubles], len(once), doubles, folder))
    if folder and not kept:
        raise DataError(
            f"--reference {name}: all {len(once)} are trained pictures, beside which copies look best; give others"
        )
    if folder:
        return Pictures(kept, are_trained=False, told=(*lines, *_too_few(kept)))
    if len(kept) >= FEWEST:
        return Pictures(kept, are_trained=False, told=tuple(lines))
    if not kept and not trained:
        raise DataError(
            "no pictures to lay drawings beside are known; give some that were not trained with --reference FOLDER"
        )
    if not trained:
        return Pictures(kept, are_trained=False, told=(*lines, *_too_few(kept)))
    both = {one.sha256: one for one in (*kept, *trained)}
    are = "no pictures are held out" if not kept else f"only {_pictures(len(kept))} held out"
    lines.append(
        f"{are}, so trained ones stand in as references: likeness to them rewards copying, and says nothing of how it "
        "draws what it never saw; give other pictures of the same with --reference FOLDER"
    )
    return Pictures(tuple(both.values()), are_trained=True, told=tuple(lines))


def pictures_in(
    folder: Path, flag: str, origin: Origin, *, follow_links: bool
) -> Telling[tuple[tuple[Reference, ...], tuple[str, ...]]]:
    """(all pictures of a folder that can be read, what there is to tell of it); raises DataError where there are none.

    Regularisation pictures are left out, as they do not show what was learned.
    """
    try:
        layout = arrange_folder(expanded(folder), follow_links=follow_links)
    except DataError as error:
        raise DataError(*(f"{flag} {line}" for line in error.problems)) from None
    for told, reason in layout.unread:
        yield Skipped(Path(told), reason.removeprefix(f"{told}: "))
    items = [item for item in layout.items if not item.prior]
    found: list[Reference] = []
    for number, item in enumerate(items):
        if len(items) > NAMED:
            yield Progress(f"reading {flag[2:]}", number + 1, len(items))
        try:
            found.append(_read(item, origin))
        except DataError as error:
            yield Skipped(Path(item.entry.told), str(error).removeprefix(f"{item.entry.told}: "))
    if not found:
        raise DataError(f"{flag} {printable(str(folder))}: none of its {len(items)} pictures can be read; give others")
    wrong = [f"{line}" for line in layout.troubles[:NAMED]]
    return tuple(found), tuple(wrong)


def _read(item: Item, origin: Origin) -> Reference:
    """A picture that can be decoded whole, with what is said of it."""
    entry = item.entry
    if entry.trouble or entry.path is None:
        raise DataError(entry.trouble or "cannot be read")
    data = contents(entry.path, entry.told)
    try:
        decode(data, entry.told, at_least=lambda *_: (SIDE, SIDE))
    except MemoryError:
        raise DataError("takes more memory than there is; save it smaller") from None
    caption = _of_class(item, origin) or (item.captions[0] if item.captions else item.of_class)
    digest = hashlib.sha256(data).hexdigest()
    return Reference(entry.path, printable(entry.name), digest, worded(caption, origin) if caption else None)


def _of_class(item: Item, origin: Origin) -> str | None:
    """The caption of its folder, of a run that learned classes."""
    task = origin.told.get("task")
    folder = PurePosixPath(item.entry.name).parts[0] if "/" in item.entry.name else ""
    if not folder or not isinstance(task, dict) or task.get("kind") != "class":
        return None
    template = task.get("template")
    kohya = KOHYA.fullmatch(folder)
    name = captions.clean((kohya[2] if kohya else folder).replace("_", " ").replace("-", " ")) or folder
    return template.replace("{class}", name) if isinstance(template, str) else name


def worded(caption: str, origin: Origin) -> str:
    """A caption as the run read it, whole: wildcards settled, no tag dropped or moved, brackets of weights gone."""
    told = origin.told.get("captions")
    try:
        settings = Captions.model_validate(dict(told) if isinstance(told, dict) else {})
    except ValidationError:
        settings = Captions()
    whole = settings.model_copy(update={"shuffle": False, "tag_dropout": 0.0})
    text = wordings(captions.clean(caption)[: captions.BYTES], whole)[0]
    return captions.clean(without_weights(text) if settings.weights else text)


def _listed(origin: Origin) -> tuple[list[Listed], tuple[str, ...]]:
    """The images of its data.json but for regularisation; none where that cannot be read, which is told."""
    if origin.run is None:
        return [], ()
    data = origin.run.data
    try:
        if data.stat().st_size > MAX_DATA_BYTES:
            raise ConfigError(f"{data}: over {MAX_DATA_BYTES >> 20} MB")
        return [one for one in listed_in(data) if not one.prior], ()
    except (OSError, InputError):
        return [], (
            f"{printable(str(data))}: cannot be read, so that nobody knows what {origin.name} was trained on; "
            "--trained FOLDER and --reference FOLDER say it",
        )


def _folders(origin: Origin) -> list[Path]:
    """The data folders of a run that are there: from here, from the folders above it, or in full."""
    data = origin.told.get("data")
    data = data if isinstance(data, dict) else {}
    more = data.get("folders")
    named = [data.get("folder"), *((one.get("path") for one in more if _is_own(one)) if isinstance(more, list) else ())]
    run: RunFolder | None = origin.run
    above = [Path(), *(list(run.path.absolute().parents)[:ABOVE] if run else ())]
    found = []
    for text in named:
        if isinstance(text, str) and text and "\0" not in text:
            places = [base / expanded(Path(text)) for base in above]
            found += [next((place for place in places if _is_folder(place)), places[0])]
    return list(dict.fromkeys(found))


def _is_own(folder: Any) -> bool:
    """Whether one of [[data.folders]] holds what was to be learned."""
    return isinstance(folder, Mapping) and folder.get("prior") is not True


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except (OSError, ValueError):
        return False


def _found(
    listed: Sequence[Listed], folders: Sequence[Path], name: str, *, follow_links: bool
) -> Telling[dict[str, Path]]:
    """{SHA-256: where it lies}: where it lay, else anywhere in these folders."""
    found: dict[str, Path] = {}
    read: set[Path] = set()
    for number, one in enumerate(listed):
        if number % 100 == 0 and len(listed) > 100:
            yield Progress(f"looking for the pictures of {name}", number, len(listed))
        inner = PurePosixPath(one.file)
        if inner.is_absolute() or ".." in inner.parts or "\0" in one.file or not inner.parts:
            continue
        for place in (folder / inner for folder in folders):
            if one.sha256 not in found and (digest := _digest(place)):
                read.add(place)
                found.setdefault(digest, place)
    wanted = {one.sha256 for one in listed}
    for number, place in enumerate(_files(folders, follow_links=follow_links)):
        if number >= MOST_SOUGHT or wanted <= found.keys():
            break
        if place not in read and (digest := _digest(place)) in wanted:
            found.setdefault(digest, place)
    return {digest: place for digest, place in found.items() if digest in wanted}


def _files(folders: Sequence[Path], *, follow_links: bool) -> Iterator[Path]:
    """Files of these folders that may be pictures."""
    for folder in folders:
        if _is_folder(folder):
            for entry in FolderSource(folder, follow_links=follow_links).entries():
                if entry.path and Path(entry.name).suffix.lower() in IMAGE_LIKE:
                    yield entry.path


def _digest(place: Path) -> str:
    """The SHA-256 of a file that may be a picture; "" of anything else."""
    try:
        return hashlib.sha256(contents(place, "")).hexdigest()
    except (DataError, ValueError):
        return ""


def _picture(one: Listed, place: Path, origin: Origin) -> Reference:
    caption = worded(one.captions[0], origin) if one.captions else None
    return Reference(place, printable(one.file), one.sha256, caption)


def _missing(listed: Sequence[Listed], found: Mapping[str, Path], origin: Origin) -> tuple[str, ...]:
    """A line each for trained and held-out pictures that are nowhere."""
    lines = []
    for what, some in (
        ("trained", [one for one in listed if not one.held_out]),
        ("held-out", [one for one in listed if one.held_out]),
    ):
        gone = [one for one in some if one.sha256 not in found]
        if gone:
            remedy = "copies of them are not found; --trained FOLDER says where they are"
            remedy = remedy if what == "trained" else "they are no references; --reference FOLDER gives others"
            are = "is" if len(gone) == 1 else "are"
            named = named_of([one.file for one in gone])
            lines.append(
                f"{origin.name}: {len(gone)} of {len(some)} {what} pictures {are} not where they were, or were changed "
                f"({named}): {remedy}"
            )
    return tuple(lines)


def _doubles(references: Sequence[Reference], trained: Sequence[Reference]) -> Telling[dict[str, Reference]]:
    """{SHA-256 of a reference: the trained picture that it is, or is a version of}."""
    known = {one.sha256: one for one in reversed(trained)}
    doubles = {one.sha256: known[one.sha256] for one in references if one.sha256 in known}
    rest = [one for one in references if one.sha256 not in doubles]
    once = list(known.values())
    if not rest or not once or len(rest) + len(once) > MOST_LOOKED_AT:
        return doubles
    looked: list[tuple[int, bytes]] = []
    for number, one in enumerate((*rest, *once)):
        if number % 20 == 0 and len(rest) + len(once) > 100:
            yield Progress("comparing references and trained pictures", number, len(rest) + len(once))
        looked.append(_look(one.path))
    hashes = numpy.array([hash_ for hash_, _ in looked], dtype=numpy.uint64)
    colours = numpy.frombuffer(b"".join(tint for _, tint in looked), dtype=numpy.uint8).reshape(len(looked), -1)
    theirs, their_colours = hashes[len(rest) :], colours[len(rest) :]
    for place, one in enumerate(rest):
        mine = numpy.full(len(theirs), hashes[place])
        my_colours = numpy.repeat(colours[place : place + 1], len(theirs), axis=0)
        same = alike(mine, theirs, my_colours, their_colours, Judge().likeness)
        if same.any():
            doubles[one.sha256] = once[int(same.argmax())]
    return doubles


def _look(path: Path) -> tuple[int, bytes]:
    """(perceptual hash, colours) of a picture; of one that cannot be read such as nothing else has."""
    try:
        image = decode(path, "", at_least=lambda *_: (SIDE, SIDE)).image
    except (DataError, MemoryError):
        return 0, bytes(192)
    return int(fingerprint(grey_of(image)), 16), bytes.fromhex(tints(image))


def _told_of_doubles(found: Sequence[Reference], of: int, doubles: Mapping[str, Reference], folder: Path | None) -> str:
    named = named_of(
        [
            one.name if doubles[one.sha256].sha256 == one.sha256 else f"{one.name} (nearly {doubles[one.sha256].name})"
            for one in found
        ]
    )
    what = "references" if folder else "held-out pictures"
    are = "is a trained picture" if len(found) == 1 else "are trained pictures"
    them = "it" if len(found) == 1 else "they"
    return f"{len(found)} of {of} {what} {are}: {named}; left out, since {them} would reward copying"


def _too_few(kept: Sequence[Reference]) -> tuple[str, ...]:
    if len(kept) >= FEWEST:
        return ()
    are = "there is only 1 reference" if len(kept) == 1 else f"there are only {len(kept)} references"
    return (f"{are}, too few to measure sets of pictures by; give {FEWEST} or more with --reference FOLDER",)


def _pictures(count: int) -> str:
    return "1 picture is" if count == 1 else f"{count} pictures are"


def named_of(names: Sequence[str]) -> str:
    """Some of them, each as far as a message holds it."""
    shown = [printable(name) if len(name) <= LETTERS else f"{printable(name[:LETTERS])}..." for name in names[:NAMED]]
    return ", ".join(shown) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
