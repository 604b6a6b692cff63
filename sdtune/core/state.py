"""The state of a training: all that the next step depends on beside the data, as tensors and plain values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from sdtune.errors import SdtuneError

Values = dict[str, Any]


@dataclass(frozen=True)
class State:
    """What a checkpoint holds and what a training is brought back to; there is no random state in it."""

    step: int
    """optimizer steps that are finished"""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """on the CPU, in files of these names: "adapter" {parameter: weights in fp32}, "optimizer" {parameter/key: tensor},
    "ema" {parameter: average}, this one only where an average is kept"""
    told: Mapping[str, Any] = field(default_factory=dict)
    """plain JSON values: the optimizer's numbers, the loss average, the loss scaler, what is known of the memory"""

    @property
    def is_sound(self) -> bool:
        """Whether all of it are numbers."""
        tensors = (one for file in self.tensors.values() for one in file.values() if one.is_floating_point())
        return all(math.isfinite(one) for one in _floats(self.told)) and all(bool(t.isfinite().all()) for t in tensors)


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same on the CPU, apart from what becomes of them."""
    return {name: one.detach().to("cpu", copy=True) for name, one in tensors.items()}


def settings_of(optimizer: Optimizer) -> list[Values]:
    """The numbers of each group of parameters, but for what every step sets: the rate."""
    return [{key: one for key, one in group.items() if key not in ("params", "lr")} for group in optimizer.param_groups]


def taken(
    optimizer: Optimizer, named: Mapping[str, Parameter], built: Sequence[Values]
) -> tuple[dict[str, Tensor], Values]:
    """What an optimizer remembers: tensors {parameter/key: on the CPU}, and plain values.

    Of a group's numbers those count that are others than when it was built; the rest are settings.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Values] = {}
    for name, parameter in named.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value
            else:
                numbers.setdefault(name, {})[key] = _plain(key, value)
    groups = [
        {key: _plain(key, one) for key, one in now.items() if key not in before or one != before[key]}
        for now, before in zip(settings_of(optimizer), built, strict=True)
    ]
    return copied(tensors), {"kind": type(optimizer).__name__, "groups": groups, "numbers": numbers}


def put_back(
    optimizer: Optimizer,
    named: Mapping[str, Parameter],
    built: Sequence[Values],
    tensors: Mapping[str, Tensor],
    told: Mapping[str, Any],
) -> None:
    """Make an optimizer remember this, bit for bit; its own way (load_state_dict) makes all tensors the weights' type.

    Another kind of optimizer begins afresh.
    """
    optimizer.state.clear()
    same = told["kind"] == type(optimizer).__name__
    groups: Sequence[Values] = told["groups"] if same else [{} for _ in built]
    if len(groups) != len(built):
        raise other_network(f"{len(groups)} groups of parameters, not {len(built)}")
    for group, first, later in zip(optimizer.param_groups, built, groups, strict=True):
        for key in set(group) - set(first) - {"params", "lr"}:
            del group[key]
        group.update({**first, **later})
    if not same:
        return
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        if name not in named:
            raise other_network(name)
        # The count of steps stays on the CPU, where optimizers of PyTorch read it.
        where = "cpu" if key == "step" else named[name].device
        optimizer.state[named[name]][key] = value.to(where, copy=True)
    for name, values in told["numbers"].items():
        if name not in named:
            raise other_network(name)
        optimizer.state[named[name]].update(values)


def check(named: Mapping[str, Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Stop at weights that are not those of these parameters."""
    for name in sorted(set(named) ^ set(tensors)):
        raise other_network(name)
    for name, parameter in named.items():
        if parameter.shape != tensors[name].shape:
            shapes = f"{list(tensors[name].shape)} and not {list(parameter.shape)}"
            raise other_network(f"{name} is {shapes}")


def other_network(what: str) -> SdtuneError:
    """What is said of a state that does not fit."""
    return SdtuneError(
        f"the checkpoint is of another network ({what}); resume with the settings that the run began with, "
        "or start a new one"
    )


def _plain(key: str, value: Any) -> Any:
    """A value that JSON gives back as it was."""
    assert value is None or isinstance(value, bool | int | float | str), f"{key}: {value!r} has no place in JSON"
    return value


def _floats(told: Any) -> Iterator[float]:
    """All numbers in plain values."""
    if isinstance(told, Mapping):
        told = list(told.values())
    if isinstance(told, list | tuple):
        for one in told:
            yield from _floats(one)
    elif isinstance(told, float):
        yield told
