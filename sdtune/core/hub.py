"""A model on the hub: looked up on this machine first, fetched once where the hub can be reached.

`name` is owner/model, or owner/model@revision.
"""

from __future__ import annotations

import re
import socket
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from sdtune.errors import ModelError

CONFIGS = ("model_index.json", "*/*.json", "*/*.txt", "*/*.model")
"""everything but weights, a few MB"""
INSTEAD = "give a local folder or .safetensors file, or use --model mini"
"""what else can be done where a model cannot be fetched"""
_WORD = r"\w([\w.-]{0,94}\w)?"
_NAME = re.compile(rf"(?!.*(--|\.\.)){_WORD}/{_WORD}(?<!\.git)(@[\w./-]{{1,200}})?")
_PATIENCE = 3.0  # seconds, in place of the 25 that the hub's own client takes to give up


def could_name(name: str) -> bool:
    """Whether a model on the hub could be called so."""
    return bool(_NAME.fullmatch(name))


def cached(name: str) -> Path | None:
    """The folder on this machine that holds what was fetched of a model, perhaps not all of it."""
    from huggingface_hub import try_to_load_from_cache

    repository, revision = _split(name)
    index = try_to_load_from_cache(repository, "model_index.json", revision=revision)
    return Path(index).parent if isinstance(index, str) else None


def fetch(name: str, files: Sequence[str], instead: str) -> Path:
    """The folder that holds a model's files of these patterns, downloaded where they are not on this machine.

    `instead` says what else can be done where that fails.
    """
    from huggingface_hub import errors, snapshot_download

    repository, revision = _split(name)
    _reach(name, instead)
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))
    except errors.GatedRepoError:
        todo = "accept its licence on the model's page, then set HF_TOKEN to a token of your account"
        raise ModelError(f"{name} is given only to those who accept its licence: {todo}") from None
    except errors.RepositoryNotFoundError:
        todo = "check the spelling, or set HF_TOKEN if it is private"
        raise ModelError(f"{name}: the hub knows no such model; {todo}") from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{name}: the model has no revision {revision}; leave out @{revision}") from None
    except Exception as problem:  # of whichever HTTP library the hub's client is built on
        told = str(problem).strip().splitlines()[0][:200] if str(problem).strip() else type(problem).__name__
        raise ModelError(f"{name} could not be downloaded ({told}); try again, or {instead}") from None


def _split(name: str) -> tuple[str, str | None]:
    repository, _, revision = name.partition("@")
    return repository, revision or None


def _reach(name: str, instead: str) -> None:
    """Stop within three seconds where the hub cannot be reached."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ModelError(f"{name} is not on this machine and HF_HUB_OFFLINE is set; unset it once, or {instead}")
    hub = urlsplit(constants.ENDPOINT)
    host = hub.hostname or constants.ENDPOINT
    proxies = urllib.request.getproxies()
    proxy = proxies.get(hub.scheme) or proxies.get("all")
    behind_proxy = proxy is not None and not urllib.request.proxy_bypass(host)
    door = urlsplit(proxy if proxy and "://" in proxy else f"//{proxy}") if behind_proxy else hub
    port = door.port or (443 if door.scheme == "https" else 80)
    if not _answers(door.hostname or host, port):
        where = f"{host} (through the proxy {door.hostname})" if behind_proxy else host
        todo = f"download it once with a network, or {instead}"
        raise ModelError(f"{name} is not on this machine and {where} cannot be reached; {todo}")


def _answers(host: str, port: int) -> bool:
    """Whether a connection can be made; looking the host up counts against the time, too."""
    open_door = threading.Event()
    done = threading.Event()

    def knock() -> None:
        try:
            socket.create_connection((host, port), timeout=_PATIENCE).close()
            open_door.set()
        except OSError:
            pass
        done.set()

    threading.Thread(target=knock, daemon=True).start()
    done.wait(_PATIENCE)
    return open_door.is_set()
