"""Tower: an encoder that is a network of PyTorch, in fp32, on the CPU or on a card.

On the CPU each picture goes through by itself, on one thread, and several side by side, so that its features are the
same bits whatever else is looked at and however many threads there are; small networks are faster so, too. On a card
batches always have the same size.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy
import torch
from PIL import Image
from torch import Tensor, nn

from sdtune.core.data.cache import identity_of, key_of
from sdtune.core.evaluation.encoders.base import Encoder
from sdtune.core.evaluation.intervals import Array
from sdtune.core.memory import maker_of
from sdtune.errors import ModelError

ON_CARD = 32  # pictures of a batch; CLIP's largest tower takes 1 GB for them
CPU = torch.device("cpu")
TRIAL = (40, 24)  # pixels; no square, so that what resizes nothing is found out

Given = Mapping[str, Tensor]
"""what a network is called with"""


class Tower(Encoder):
    """Networks are loaded on the CPU, so that all that is wrong is told at once, and go to the card at first use."""

    def __init__(self, device: torch.device, networks: Sequence[nn.Module], how: str) -> None:
        """`how` tells all that pictures go through before the network."""
        self.device = device
        self.by_batches = device.type != "cpu"
        self.at_once = ON_CARD if self.by_batches else torch.get_num_threads()
        self._networks = networks
        self._where = CPU
        maker = maker_of(device) if self.by_batches else ()  # threads change nothing here
        self.fingerprint = key_of("encoder", how, *(identity_of(one) for one in networks), *maker)
        self.width = self._tried()

    @abstractmethod
    def given(self, image: Image.Image) -> Given:
        """What the network is given for one picture: a batch of one."""

    @abstractmethod
    def see(self, given: Given) -> Tensor:
        """[n, d] the network's features."""

    def read(self, text: str) -> Tensor:  # noqa: ARG002 (for those that read them)
        """[1, d] the text tower's features."""
        raise AssertionError("an encoder without a text tower was asked for texts")

    def images(self, images: Sequence[Image.Image]) -> Array:
        """[n, d] unit vectors of RGB images of any size."""
        self._settle()
        with _a_thread_each(), ThreadPoolExecutor(self.at_once) as pool:
            if not self.by_batches:
                return self._units(list(pool.map(self._alone, images)))
            given = list(pool.map(self.given, images))
        starts = range(0, len(given), self.at_once)
        return self._units([self._together(given[start : start + self.at_once]) for start in starts])

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Array:
        """[n, d] unit vectors in the same space."""
        self._settle()
        with _a_thread_each():
            return self._units([self.read(text) for text in texts])

    def to_network(self, tensor: Tensor) -> Tensor:
        """The tensor where the network is."""
        return tensor.to(self._where)

    def _settle(self) -> None:
        if self._where != self.device:
            for one in self._networks:
                one.to(self.device)
            self._where = self.device

    @torch.inference_mode()
    def _tried(self) -> int:
        """How many numbers a picture and a text have, by one of each."""
        found = [self._alone(Image.new("RGB", TRIAL)), *([self.read("a picture")] if self.reads_texts else [])]
        return int(self._units(found).shape[1])

    @torch.inference_mode()
    def _alone(self, image: Image.Image) -> Tensor:
        """[1, d] of one picture."""
        return self.see({name: self.to_network(one) for name, one in self.given(image).items()})

    @torch.inference_mode()
    def _together(self, given: Sequence[Given]) -> Tensor:
        """[n, d] of pictures of one batch, beside as many more as fill it."""
        filled = [*given, *([given[-1]] * (self.at_once - len(given)))]
        batch = {name: self.to_network(torch.cat([one[name] for one in filled])) for name in given[0]}
        return self.see(batch)[: len(given)]

    def _units(self, rows: Sequence[Tensor]) -> Array:
        if not rows:
            return numpy.zeros((0, self.width))
        found = torch.cat([row.cpu() for row in rows]).double()
        if not found.isfinite().all():
            raise ModelError(f"{self.label}: makes features that are no numbers; get its weights again")
        units: Array = (found / found.norm(dim=1, keepdim=True).clamp(min=1e-12)).numpy()
        return units


@contextlib.contextmanager
def _a_thread_each() -> Iterator[None]:
    """Every thread that begins meanwhile computes by itself, as this one does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
