"""An average of the weights over the steps, the newest counting most."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter


class Average:
    """An exponential moving average in fp32 of all that is trained.

    The first steps count as in a plain mean: the decay is at most (1 + n) / (10 + n) after n steps (as in TensorFlow's
    ExponentialMovingAverage), so that the start is soon forgotten.
    """

    def __init__(self, parameters: Mapping[str, Parameter], decay: float) -> None:
        self.decay = decay
        self.count = 0
        """steps that it is of"""
        self.tensors = {name: one.detach().float().clone() for name, one in parameters.items()}
        self._parameters = list(parameters.values())

    @torch.no_grad()
    def add(self) -> None:
        """The weights as they are now."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(list(self.tensors.values()), [one.float() for one in self._parameters], 1 - decay)
        self.count += 1

    def load(self, tensors: Mapping[str, Tensor], count: int) -> None:
        """Back to an average of earlier."""
        for name, own in self.tensors.items():
            own.copy_(tensors[name])
        self.count = count
