"""Mishaps: what is done about a step whose numbers go bad, so that none of them reaches the weights.

A step whose loss or gradient is no number is not taken. After three of them in a row the training goes back to its last
good state, at half the rate and past those batches; after three returns it ends.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Any

from sdtune.errors import TrainingError

IN_A_ROW = 3
"""bad steps, after which the training goes back; as many spikes are told of"""
RETURNS = 3
"""after which it ends: by then the rate is an eighth of what was asked for"""
OVERFLOWS = 20
"""fp16 gradients in a row that are too large before that counts: its scaler begins at 2^16 and halves, so that by
then it has gone through all scales above 1/16"""
WINDOW = 50
"""steps that a loss is compared with"""
FEW = 20
"""losses without which nothing is said of spikes"""
DEVIATIONS = 8
"""median absolute deviations from the median beyond which a loss is a spike: of normal numbers one in 30 million"""
LEAST_DEVIATION = 0.01
"""of the median: losses that hardly differ are no measure"""
NAMED = 4
"""images that a line names"""
LETTERS = 40
"""of a caption in a line"""


@dataclass(frozen=True)
class Shown:
    """An image as a step saw it."""

    image: str
    """its file"""
    caption: str
    timestep: float
    loss: float | None = None
    """its own, where that is known"""


class Verdict(Enum):
    """What becomes of a step."""

    TAKE = "take"
    SKIP = "skip"
    """the weights stay as they are, and the next step follows"""
    REWIND = "rewind"
    """the last good state is loaded, though not that of the guard, and the steps after it are taken again"""


@dataclass(frozen=True)
class Judgement:
    """What becomes of a step, and what there is to tell of it."""

    verdict: Verdict
    told: str | None = None
    """one line; with REWIND the reason"""


class Guard:
    """What is known of a training's bad numbers; it decides by these and by what it is given alone."""

    def __init__(self) -> None:
        self.returns = 0
        self.skipped: set[int] = set()
        """steps, from 0, that are not to be taken when they come again"""
        self._bad: list[int] = []
        self._overflows = 0
        self._losses: list[float] = []
        self._spikes = 0
        self._blamed: Counter[str] = Counter()
        self._of = 0

    @property
    def rate(self) -> float:
        """What learning rates are multiplied by."""
        return 0.5**self.returns

    def judge(
        self,
        step: int,
        loss: float,
        norm: float,
        weights: bool = True,
        *,
        shown: Callable[[], Iterable[Shown]],
        overflow_is_usual: bool = False,
    ) -> Judgement:
        """Whether to take a step (from 0) by its loss, its gradient's norm, and whether all weights are numbers.

        `weights` speaks of weights and optimizer state as they are before the step. `shown` is asked only where
        something is wrong. With an fp16 scaler `overflow_is_usual`. Raises TrainingError where going back is no help.
        """
        if not weights:
            return self._go_back(step, "the weights are no numbers any more", [])
        if math.isfinite(loss) and math.isfinite(norm):
            self._bad, self._overflows = [], 0
            return Judgement(Verdict.TAKE, self._spike(step, loss))
        if overflow_is_usual and math.isfinite(loss):
            self._overflows += 1
            if self._overflows < OVERFLOWS:
                return Judgement(Verdict.SKIP)
        self._spikes = 0
        self._bad.append(step)
        guilty = _guilty(list(shown()))
        self._of += 1
        self._blamed.update({one.image for one in guilty})
        what = f"the gradient's norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        if len(self._bad) >= IN_A_ROW:
            return self._go_back(step, what, guilty)
        return Judgement(Verdict.SKIP, f"step {step + 1}: {what}, so it is not taken; it saw {_listed(guilty)}")

    def told(self) -> dict[str, Any]:
        """All that it knows, as plain JSON values."""
        return {
            "returns": self.returns,
            "skipped": sorted(self.skipped),
            "bad": list(self._bad),
            "overflows": self._overflows,
            "losses": list(self._losses),
            "spikes": self._spikes,
            "blamed": dict(self._blamed),
            "of": self._of,
        }

    def load(self, told: Mapping[str, Any]) -> None:
        """Know what another told, and judge as it would."""
        self.returns = int(told["returns"])
        self.skipped = set(told["skipped"])
        self._bad = list(told["bad"])
        self._overflows = int(told["overflows"])
        self._losses = list(told["losses"])
        self._spikes = int(told["spikes"])
        self._blamed = Counter(told["blamed"])
        self._of = int(told["of"])

    def _go_back(self, step: int, what: str, guilty: Sequence[Shown]) -> Judgement:
        if self.returns >= RETURNS:
            raise TrainingError(f"step {step + 1}: {what}, again after going back {RETURNS} times; {self._advice()}")
        self.returns += 1
        past = ""
        if self._bad:
            self.skipped.update(self._bad)
            numbers = ", ".join(str(one + 1) for one in self._bad)
            past = f" and without step{'' if len(self._bad) == 1 else 's'} {numbers}"
        saw = f"; it saw {_listed(guilty)}" if guilty else ""
        # What was learned since is learned anew, and its losses come anew.
        self._bad, self._overflows, self._losses, self._spikes = [], 0, [], 0
        return Judgement(Verdict.REWIND, f"step {step + 1}: {what}; going on at {self.rate:g} x the rate{past}{saw}")

    def _advice(self) -> str:
        intact = "what was saved before is intact"
        most = max(self._blamed.values(), default=0)
        again = [image for image, times in self._blamed.items() if times == most]
        if 2 * most > self._of > 1 and len(again) <= NAMED:
            look = "look at it, or leave it out" if len(again) == 1 else "look at them, or leave them out"
            return f"{' and '.join(again)} came up {most} of {self._of} times: {look}; {intact}"
        return f"lower --lr, or compute with --memory.precision fp32; {intact}"

    def _spike(self, step: int, loss: float) -> str | None:
        """A line at the third loss in a row that is far above those before."""
        usual, told = self._losses, None
        if len(usual) >= FEW:
            middle = median(usual)
            spread = max(median(abs(one - middle) for one in usual), LEAST_DEVIATION * abs(middle))
            self._spikes = self._spikes + 1 if loss > middle + DEVIATIONS * spread else 0
            if self._spikes == IN_A_ROW:
                told = (
                    f"steps {step + 2 - IN_A_ROW} to {step + 1}: the loss rose to {loss:.3g} from about {middle:.3g}; "
                    "if it stays there, lower --lr"
                )
        self._losses = [*usual, loss][-WINDOW:]
        return told


def _guilty(shown: Sequence[Shown]) -> list[Shown]:
    """Those whose own loss is no number, where there are any; else all."""
    return [one for one in shown if one.loss is not None and not math.isfinite(one.loss)] or list(shown)


def _listed(shown: Sequence[Shown]) -> str:
    told = [f'{one.image} "{_short(one.caption)}" at timestep {one.timestep:g}' for one in shown[:NAMED]]
    more = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    return ", ".join(told) + more or "no image"


def _short(caption: str) -> str:
    line = " ".join(caption.split())
    return line if len(line) <= LETTERS else f"{line[:LETTERS]}..."
