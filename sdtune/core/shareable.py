"""Text that may be shown to others: places are their last names, and nothing tells whose machine it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from sdtune.core.header import MAX_METADATA, MAX_VALUE

SPARE = MAX_METADATA // 4
"""bytes of metadata that are left to what is said beside it"""
CONTENT = re.compile(
    r"(?:modelspec\.(?:title|description|trigger_phrase|tags|author|license|usage_hint|merged_from)"
    r"|ss_(?:output_name|sd_model_name|vae_name|training_comment)"
    r"|(?:ss_)?trigger_(?:phrase|words)|(?:ss_)?(?:tag_frequency|dataset_dirs|reg_dataset_dirs))"
)
"""names of what people wrote on purpose, and of tags and folders of images, whose words may be any"""
_OF_THE_MACHINE = re.compile(
    r"(^|[._])(session_id|user|username|user_name|host|hostname|host_name|computer_name|machine|machine_name|home"
    r"|login|ip_address|\w*e?mail|(\w*_)?(auth|access|api|hf|hub|huggingface|wandb|github|bearer|refresh)_?token"
    r"|\w*secret|\w*password|\w*api_key)$|^token$",
    re.IGNORECASE,
)
"""names of settings that tell who, or where"""
_OF_PLACES = re.compile(r"path|file|dir|folder", re.IGNORECASE)
"""names of settings that are places"""
_REPEATS = re.compile(r"\d+_")
"""how kohya's folders of images begin"""
_HOMES = ("home", "users", "documents and settings")
"""folders whose folders are named after people"""
_PICTURE = re.compile(r"data:image/[\w.+-]+;base64,[\w+/=-]*")
_NAME = r"""[^\s"'<>|,;:*?()\\/]+"""
_WIDE = r"""[^\\/:*?"<>|\n,;]+"""
"""a folder's name, with blanks"""
_SIGNED_IN = re.compile(r"(https?://)[^\s/@\"'<>]+@", re.IGNORECASE)
_ESCAPED = re.compile(r"%(?:2f|5c)", re.IGNORECASE)
_SIGNS = re.compile(r"[/\\@~]|%(?:2f|5c)", re.IGNORECASE)
"""without one of which nothing is a place"""
_WORD = re.compile(r"""[^\s"'<>|,;]+""")
_NETWORK = re.compile(
    rf"""
    (?<![\w+.-])(?:smb|cifs|nfs|afp|s?ftps?|ssh|scp|rsync|git\+ssh|webdavs?|davs?|s3|gs|hdfs)://[^\s"'<>|,;]*
    | https?://(?:[\w-]{{1,63}}|(?:\d{{1,3}}\.){{3}}\d{{1,3}})(?::\d{{1,5}})?(?![\w.:@-])    # http://host:7860/x
        (?:/[^\s"'<>|,;]*)?
    | (?<![\w@.+-])[\w.+-]{{1,64}}@[\w.-]{{1,255}}:[^\s"'<>|,;\\/]*[\\/][^\s"'<>|,;]*            # me@host:/data/x
    | \\\\[\w.$-]+[\\/]+(?:{_WIDE}[\\/]+)*[^\\/:*?"<>|\s,;]*                                    # \\host\share\x
    | (?<![\w:./~\\-])//[\w.$-]+/[^/\s"'<>|,;]+(?:/[^/\s"'<>|,;]+)*                             # //host/share/x
    """,
    re.VERBOSE | re.IGNORECASE,
)
_PATH = re.compile(
    rf"""
    file:/{{1,3}}[^\s"']*                                                                       # file:///home/me/x
    | (?<![A-Za-z0-9])[A-Za-z]:[\\/]+(?:{_WIDE}[\\/]+)*[^\\/:*?"<>|\s,;]*                       # C:\Users\me\x
    | (?<![\w./~-])~[\w.-]*(?:/[^/\s"'<>|,;]+)+                                                 # ~me/x
    | (?:\$\{{?(?:HOME|USERPROFILE)\}}?|%(?:USERPROFILE|HOMEPATH|APPDATA|LOCALAPPDATA)%)(?:[\\/]+{_NAME})+
    | (?<![\w./\\~-])(?:\.\.?[\\/]+)+(?:{_NAME}[\\/]+)*{_NAME}                                  # ..\Users\me\x
    | (?<![\w./\\~-])\\+(?:Users|home|Documents\ and\ Settings)(?:\\+{_NAME})+                  # \Users\me\x
    | (?<![\w./\\~-])(?:Users|home)(?:[\\/]+{_NAME}){{2,}}                                      # home/me/x
    | (?<![\w./~-])/(?![/\s])(?:[^/\s"'<>|,;][^/\n"'<>|,;]*/+)+[^/\s"'<>|,;]*                   # /home/me/x
    """,
    re.VERBOSE,
)
_SURELY = re.compile(
    rf"""
    file:/{{1,3}}[^\s"']*
    | (?<![\w+.-])(?:smb|cifs|nfs|afp|s?ftps?|ssh|scp|rsync|git\+ssh)://[^\s"'<>|,;]*
    | (?<![\w@.+-])[\w.+-]{{1,64}}@[\w.-]{{1,255}}:[/~][^\s"'<>|,;]*                           # me@host:/data/x
    | (?<![A-Za-z0-9])[A-Za-z]:[\\/]+(?=\w)(?:{_WIDE}[\\/]+)+[^\\/:*?"<>|\s,;]*             # C:\Users\me\x
    | \\\\[\w.$-]{{2,}}[\\/]+(?=\w)(?:{_WIDE}[\\/]+)*[^\\/:*?"<>|\s,;]*                     # \\host\share\x
    | (?<![\w./~-])//[\w.$-]{{2,}}/(?:share|home|users)[/\w.-]*                                # //host/share/x
    | (?<![\w./~-])/(?:home|Users|root|mnt|media|workspace|tmp|var|opt|srv|content|kaggle|Volumes|private)
        /(?=\w)(?:[^/\s"'<>|,;]*/)*[^/\s"'<>|,;]*                                             # /home/me/x
    | (?<![\w./\\~-])(?:\.\.?[\\/]+|\\)+(?:Users|home|Documents\ and\ Settings)(?:[\\/]+{_NAME})+  # ..\Users\me\x
    """,
    re.VERBOSE,
)
"""what is a place even in words that people chose: a trigger or a tag may be /\\/\\/\\, w/ hat, 1/2 or home/garden"""
_WHOLE_PATH = re.compile(
    r"file:/|[A-Za-z]:[\\/]|\\\\[\w.$-]+[\\/]|~[\w.-]*/|/[^/\s][^/]*/|\.\.?[\\/]|//[\w.$-]+/[^/\s]"
)
_HOST = re.compile(r"\\\\[\w.$-]+|//[\w.$-]+")
_HOME = re.compile(r"~[A-Za-z_][\w.-]*[\\/]*")
_PERSON = re.compile(r"(?<![\w@.+-])[A-Za-z0-9][\w.+-]{0,63}@[A-Za-z0-9][\w.-]{0,252}")


def clean(metadata: Mapping[str, str]) -> dict[str, str]:
    """What of a file's metadata may be shown to others, as much of it as a file may have.

    Of paths the last name is kept; names of users, hosts and secrets are left out.
    """
    told = {
        shareable(key): shareable(value, content=CONTENT.fullmatch(key) is not None)
        for key, value in metadata.items()
        if not _tells_of_the_machine(key)
    }
    sizes = {key: len(value.encode(errors="replace")) for key, value in told.items()}
    whole = sum(sizes.values()) + sum(len(key.encode(errors="replace")) for key in told)
    for key in sorted(told, key=lambda one: (-sizes[one], one)):
        if sizes[key] > MAX_VALUE or whole > MAX_METADATA - SPARE:
            whole -= sizes[key] + len(key.encode(errors="replace"))
            del told[key]
    return told


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config in JSON, in which texts that are paths are their last names, and none says where it was loaded from."""
    return {
        key: _without_places(value, _OF_PLACES.search(key) is not None)
        for key, value in config.items()
        if key not in ("_name_or_path", "name_or_path")
    }


def shareable(text: str, *, content: bool = False) -> str:
    """The same text, or JSON, in which paths are their last names; `content` may have names of people."""
    if picture := _PICTURE.match(text):  # whose letters may look like a path
        return picture[0] + (shareable(text[picture.end() :]) if picture.end() < len(text) else "")
    if text.lstrip()[:1] in ("{", "["):
        try:
            told = json.loads(text)
            cleaned = _walked(told, content)
        except (ValueError, RecursionError):
            return _named(text, content)
        return text if cleaned == told else json.dumps(cleaned, ensure_ascii=False)
    return _named(text, content)


def _without_places(told: Any, of_place: bool) -> Any:
    if isinstance(told, dict):
        return without_places(told)
    if isinstance(told, list):
        return [_without_places(one, of_place) for one in told]
    if not isinstance(told, str):
        return told
    is_place = _WHOLE_PATH if of_place else _SURELY  # a token may look like a path
    return shareable(told) if is_place.match(told) else told


def _walked(told: Any, content: bool) -> Any:
    if isinstance(told, dict):
        return {
            shareable(key, content=content): _walked(value, content or CONTENT.fullmatch(key) is not None)
            for key, value in told.items()
            if content or not _tells_of_the_machine(key)
        }
    if isinstance(told, list):
        return [_walked(one, content) for one in told]
    return shareable(told, content=content) if isinstance(told, str) else told


def _tells_of_the_machine(key: str) -> bool:
    return not _REPEATS.match(key) and _OF_THE_MACHINE.search(key[-64:]) is not None


def _named(text: str, content: bool) -> str:
    if not _SIGNS.search(text):
        return text
    if _ESCAPED.search(text):
        text = _WORD.sub(_unescaped, text)
    text = _SIGNED_IN.sub(r"\1", text)
    if content:
        return _SURELY.sub(lambda found: _of_place(found[0]), text)
    if _HOST.fullmatch(text):
        return ""
    if _HOME.fullmatch(text):
        return "~"
    if _WHOLE_PATH.match(text) and "\n" not in text and len(_PATH.findall(text)) + len(_NETWORK.findall(text)) == 1:
        return _of_network(text) if _NETWORK.search(text) else _last_name(text)
    text = _NETWORK.sub(lambda found: _of_network(found[0]), text)
    text = _PATH.sub(lambda found: _last_name(found[0]), text)
    return _PERSON.sub("~", text)


def _of_place(place: str) -> str:
    return _of_network(place) if "://" in place or "@" in place or place[:2] in ("//", "\\\\") else _last_name(place)


def _unescaped(word: re.Match[str]) -> str:
    """A path that was written for an address: %2Fhome%2Fme%2Fx."""
    plain = unquote(word[0]) if _ESCAPED.search(word[0]) else word[0]
    return word[0] if plain == word[0] or "://" in word[0] else plain


def _of_network(place: str) -> str:
    """A file's own name; folders of other machines are often named after people."""
    path = (
        place.partition("@")[2].partition(":")[2] if "@" in place and "://" not in place else place.partition("://")[2]
    )
    name = _last_name(path or place)
    return name if "." in name and re.search(r"[\\/]", (path or place).lstrip("\\/")) else ""


def _last_name(path: str) -> str:
    names = [name for name in re.split(r"[\\/]+", path) if name not in ("", ".", "..")]
    if not names or (len(names) > 1 and names[-2].lower() in _HOMES):
        return "~"
    return "~" if _HOME.fullmatch(names[-1]) else names[-1]
