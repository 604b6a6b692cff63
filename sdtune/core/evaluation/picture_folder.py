"""A folder of pictures as an evaluation reads it: each decoded whole, with its caption as a run words captions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from sdtune.core.data import captions
from sdtune.core.data.folder import arrange_folder
from sdtune.core.data.image_file import contents
from sdtune.core.data.images import decode
from sdtune.core.data.layout import KOHYA, Item
from sdtune.core.data.weights import without_weights
from sdtune.core.data.wordings import wordings
from sdtune.core.evaluation.candidates import Origin
from sdtune.core.evaluation.subject import Reference
from sdtune.core.reports import Progress, Skipped, Telling
from sdtune.core.sampling.file_names import printable
from sdtune.core.sampling.run_of import kind_of
from sdtune.errors import DataError
from sdtune.tables import Captions

NAMED = 3
"""pictures in one message"""
LETTERS = 60
"""of a picture's name in a message"""
SIDE = 512
"""pixels that are decoded: all that shows whether a picture is whole"""


def pictures_in(
    folder: Path, flag: str, origin: Origin, *, follow_links: bool
) -> Telling[tuple[tuple[Reference, ...], tuple[str, ...]]]:
    """(all pictures of a folder that can be read, what there is to tell of it); raises DataError where there are none.

    Regularisation pictures are left out, as they do not show what was learned.
    """
    try:
        layout = arrange_folder(folder, follow_links=follow_links)
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
    troubles = [*layout.troubles, *(line for item in items if not item.entry.trouble for line in item.troubles)]
    return tuple(found), tuple(captions.first_of(troubles, f"{flag} {printable(str(folder))}: and", "more such lines"))


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
    folder = PurePosixPath(item.entry.name).parts[0] if "/" in item.entry.name else ""
    if not folder or kind_of(origin.told) != "class":
        return None
    task = origin.told.get("task")
    template = task.get("template") if isinstance(task, dict) else None
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


def named_of(names: Sequence[str]) -> str:
    """Some of them, each as far as a message holds it."""
    shown = [printable(name) if len(name) <= LETTERS else f"{printable(name[:LETTERS])}..." for name in names[:NAMED]]
    return ", ".join(shown) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
