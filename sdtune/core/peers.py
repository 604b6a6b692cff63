"""Several processes that train one LoRA, as accelerate launch or torchrun starts them; the first of them leads."""

from __future__ import annotations

import atexit
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from functools import reduce
from typing import TypeVar

import torch
from torch import Tensor, distributed

from sdtune.errors import PeersError

PATIENCE = timedelta(hours=24)  # that the others wait while the leader encodes, validates and draws
Value = TypeVar("Value")


class Word(IntEnum):
    """What the leader is about to do together with the others; it goes ahead of everything that they do."""

    END = 0
    GO_ON = 1
    SUM = 2
    TELL = 3


class Dismissed(Exception):  # noqa: N818 (asked for, so no error)
    """The leader has ended the training in the middle of a step, so this process is to end, too, and saves nothing."""


@dataclass(frozen=True)
class Peers:
    """The processes of a training; all call the same methods in the same order. One process alone does nothing here."""

    number: int = 0
    """of this process, 0 .. of - 1"""
    of: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes, validates, draws and speaks."""
        return self.number == 0

    @classmethod
    def here(cls, device: torch.device) -> Peers:
        """The processes that were started together with this one, joined; each has a device of that type for itself."""
        of = int(os.environ.get("WORLD_SIZE") or 1)
        if of == 1:
            return cls()
        from accelerate import PartialState

        # Small things are told by gloo on any device, since it notices at once when a process ends.
        backend = "gloo" if device.type == "cpu" else f"{device.type}:nccl,cpu:gloo"
        peers = cls(int(os.environ.get("RANK") or 0), of)
        with peers._together("was not reached"), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # accelerate tells how many threads it takes
            PartialState(cpu=device.type == "cpu", backend=backend, timeout=PATIENCE)
        atexit.register(_part)
        return peers

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, on one device and of the same shapes in every process, by their sums over all processes.

        Raises Dismissed in the others where the leader said in `go_on` that it ends.
        """
        if self.of == 1:
            return
        if self._word(Word.SUM, expected=(Word.SUM, Word.END)) is Word.END:
            raise Dismissed
        kind = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
        flat = torch.cat([tensor.detach().reshape(-1).to(kind) for tensor in tensors])
        with self._together():
            distributed.all_reduce(flat)
        for tensor, added in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(added.view_as(tensor))

    def go_on(self, yes: bool = True) -> bool:
        """The leader's word to all whether they go on; with False it may come while the others wait in `sum`."""
        if self.of == 1:
            return yes
        word = self._word(Word.GO_ON if yes else Word.END, expected=(Word.GO_ON, Word.END))
        return word is Word.GO_ON

    def tell(self, value: Value) -> Value:
        """The leader's value, of what JSON has, to all; what the others give is not looked at."""
        if self.of == 1:
            return value
        text = json.dumps(value).encode() if self.leads else b""
        length = torch.tensor(len(text))
        self._word(Word.TELL, expected=(Word.TELL,))
        with self._together():
            distributed.broadcast(length, 0)
            told = torch.frombuffer(bytearray(text or bytes(int(length))), dtype=torch.uint8)
            distributed.broadcast(told, 0)
        answer: Value = json.loads(bytes(told.tolist()))
        return answer

    def wait(self) -> None:
        """Until all are here."""
        self.sum([torch.zeros(())])

    @contextmanager
    def _together(self, gone: str = "has ended") -> Iterator[None]:
        """Tells in a line that another process is gone, where the words between them fail."""
        try:
            yield
        except (RuntimeError, ValueError, OSError) as error:
            raise PeersError(
                f"process {self.number + 1} of {self.of}: another {gone} ({str(error).splitlines()[0][:120]}); "
                "see what it said, and start them all again with accelerate launch or torchrun"
            ) from None

    def _word(self, word: Word, expected: Sequence[Word]) -> Word:
        """The leader's next word, which everyone hears."""
        told = torch.tensor(int(word))
        with self._together():
            distributed.broadcast(told, 0)
        heard = Word(int(told))
        assert heard in expected, f"process {self.number} waits for {expected}, and the leader says {heard!r}"
        return heard


def _part() -> None:
    """Close the connections at the end of the process, which some libraries want to be asked for."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
