"""A data folder: which images it holds, and what each one's caption is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sdtune.config import Data
from sdtune.core.data.images import SUFFIXES, image_size
from sdtune.core.reports import Note, Skipped
from sdtune.errors import DataError

CAPTION_SUFFIXES = (".txt", ".caption")
CAPTION_BYTES = 8192
METADATA = "metadata.jsonl"
NAMED = 5  # files named in one message


@dataclass(frozen=True)
class Example:
    """One image with its caption, as it lies on disk."""

    path: Path
    caption: str
    width: int
    """pixels, upright"""
    height: int


def read_folder(data: Data) -> Iterator[Skipped | Note]:
    """Tells what is left out, and returns the examples by file name; every image is decoded whole once."""
    folder = data.folder
    paths = _image_paths(folder)
    captions = _captions(folder, paths, data)
    examples, bad = [], []
    for path in paths:
        try:
            width, height = image_size(path)
        except DataError as error:
            bad.append(error)
            if data.skip_bad:
                yield Skipped(path, str(error).removeprefix(f"{path}: "))
            continue
        examples.append(Example(path, _with_trigger(captions[path], data.trigger), width, height))
    if bad and not data.skip_bad:
        one = len(bad) == 1
        advice = f"put {'it' if one else 'them'} right, or leave {'it' if one else 'them'} out with --skip-bad"
        raise DataError(*map(str, bad[:-1]), f"{bad[-1]}; {advice}")
    if not examples:
        raise DataError(f"{folder}: none of its {len(paths)} images can be read; see the reasons above")
    yield Note(f"data: {len(examples)} images with captions in {folder}")
    return examples


def _image_paths(folder: Path) -> list[Path]:
    if not folder.exists():
        raise DataError(f"{folder}: no such folder; give the folder that holds the images")
    if not folder.is_dir():
        raise DataError(f"{folder}: is a file; give the folder that holds the images")
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not paths:
        inner = sorted({path.parent.name for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES})
        advice = f"there are images in {', '.join(inner[:NAMED])}: give that folder" if inner else (
            f"put images there ({', '.join(sorted(SUFFIXES))})"
        )
        raise DataError(f"{folder}: no images in this folder; {advice}")
    return paths


def _captions(folder: Path, paths: list[Path], data: Data) -> dict[Path, str]:
    listed = _metadata(folder)
    captions: dict[Path, str] = {}
    for path in paths:
        caption = listed.get(path.name) or _sidecar(path)
        if not caption and data.caption_from_filename:
            caption = path.stem.replace("_", " ").replace("-", " ").strip()
        if caption:
            captions[path] = caption
    lacking = [path for path in paths if path not in captions]
    if lacking:
        names = ", ".join(path.name for path in lacking[:NAMED]) + (" ..." if len(lacking) > NAMED else "")
        raise DataError(
            f"{folder}: {len(lacking)} of {len(paths)} images have no caption ({names}); write "
            f"{lacking[0].with_suffix('.txt').name} beside {lacking[0].name} (or .caption, or a {METADATA}), "
            f"or take the names as captions with --caption-from-filename"
        )
    return captions


def _sidecar(path: Path) -> str | None:
    for suffix in CAPTION_SUFFIXES:
        file = path.with_suffix(suffix)
        if file.is_file():
            return " ".join(_text(file).split()) or None
    return None


def _metadata(folder: Path) -> dict[str, str]:
    """{file name: caption} of Hugging Face's imagefolder form: a JSON object a line with file_name and text."""
    file = folder / METADATA
    if not file.is_file():
        return {}
    captions = {}
    for number, line in enumerate(_text(file, limit=None).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["file_name"], row["text"]
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f'{file}:{number}: not a line of the form {{"file_name": "a.png", "text": "a caption"}}; mend it'
            ) from None
        if not isinstance(name, str) or not isinstance(text, str):
            raise DataError(f"{file}:{number}: file_name and text must be texts; mend that line")
        if Path(name).name != name or not (folder / name).is_file():
            raise DataError(f"{file}:{number}: {name} is not a file in this folder; mend or remove that line")
        captions[name] = " ".join(text.split())
    return captions


def _text(file: Path, limit: int | None = CAPTION_BYTES) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check its permissions") from None
    if limit is not None and len(data) > limit:
        raise DataError(f"{file}: over {limit // 1024} kB, which is no caption; shorten it or rename the file")
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file}: not UTF-8 text; save it as UTF-8") from None


def _with_trigger(caption: str, trigger: str | None) -> str:
    return caption if trigger is None or trigger.lower() in caption.lower() else f"{trigger}, {caption}"
