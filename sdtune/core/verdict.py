"""The verdict: which step was best, whether more would copy, and when to stop; pure functions of the validations.

Losses are relative to the base's on the same images and noises, and so are their standard errors (over images). Two
validations differ where they do by more than the better one's standard error: the one-standard-error rule.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise

from sdtune.core.reports import Measure, Validated
from sdtune.tables import Stop

KEPT = 4
"""LoRAs of the window after the minimum: the best, the last and two between"""
ENOUGH = 4  # images; a standard error out of fewer is itself hardly known
FALLING = 0.1  # of the whole gain: less, from the last validation but one to the last, is level


def best(validations: Sequence[Validated]) -> int:
    """The step with the least held-out loss, the first of equals; 0 where nothing but the base was measured."""
    taken = _taken(validations)
    return min(taken, key=lambda one: one.held_out.loss).step if taken else 0


def should_stop(validations: Sequence[Validated], stop: Stop) -> bool:
    """Whether the last `patience` validations are all worse than the best, and `window` times its step is reached."""
    taken = _taken(validations)
    if not stop.early or not taken:
        return False
    least = _at(taken, best(taken))
    after = [one for one in taken if one.step > least.step][-stop.patience :]
    reached = taken[-1].step >= stop.window * least.step
    return reached and len(after) == stop.patience and all(_is_worse(one, least) for one in after)


def kept(validations: Sequence[Validated]) -> list[int]:
    """The steps whose LoRA is kept: the best, the last and up to two between, at about even distances.

    It is decided as the validations come, so that all that is kept after one of them was kept, or is the newest.
    """
    steps: list[int] = []
    least = None
    for one in _taken(validations):
        if least is None or one.held_out.loss < least:
            least, steps = one.held_out.loss, []
        steps.append(one.step)
        if len(steps) > KEPT:
            # Without which of those between the largest distance is least; the older of equals goes.
            steps.remove(min(steps[1:-1], key=lambda step: _widest([other for other in steps if other != step])))
    return steps


def sentence(validations: Sequence[Validated]) -> str:
    """What came of it, in plain words and with its error."""
    taken = _taken(validations)
    if not taken:
        return "not validated: no verdict on over-fitting"
    least, last = _at(taken, best(taken)), taken[-1]
    told, gain, error = _told(least.held_out), 1 - least.held_out.relative, least.held_out.relative_error
    if gain < -error:
        return (
            f"no better than the base: the held-out loss is above its own at every step, {told} at best; "
            "fewer steps, a lower --lr or more images may help"
        )
    if gain <= error:
        rises = ", and rises since" if _is_worse(last, least) else ""
        return f"no verdict: the held-out loss is within its noise of the base's, {told} at step {least.step}{rises}"
    few = least.held_out.images < ENOUGH
    hint = f" (a hint, as {least.held_out.images} held-out images are few)" if few else ""
    return f"best at step {least.step} ({told}){_after(taken, least)}{hint}"


def is_falling(validations: Sequence[Validated]) -> bool:
    """Whether the held-out loss is the least at the last of them, and was still coming down."""
    taken = _taken(validations)
    if len(taken) < 2 or best(taken) != taken[-1].step:
        return False
    before, last = (one.held_out.relative for one in taken[-2:])
    return before - last > FALLING * (1 - last)


def _after(taken: Sequence[Validated], least: Validated) -> str:
    """What became of it after the best step, "; ..."."""
    last = taken[-1]
    if len(taken) == 1:
        return "; one validation does not tell whether more steps would help"
    if least is last:
        if is_falling(taken):
            return "; still falling at the last step: more steps may help"
        return "; level at the last step: more steps would change little"
    if not _is_worse(last, least):
        return "; level since, within its error: more steps would change little"
    since = last
    for one in reversed(taken):
        if not _is_worse(one, least):
            break
        since = one
    if since is last and len(taken) > 1:
        told = ", while the trained images go on" if _gap(last) > _gap(least) else ", on the trained images, too"
        return f"; worse at step {last.step}{told}: more steps may not help"
    now = f"{100 * (last.held_out.relative - 1):+.1f} % at the last step"
    if _gap(last) > _gap(least):
        return f"; since {since.step} the gap to the trained images grows, {now}: more steps will copy"
    return f"; since {since.step} it rises, {now}, on the trained images, too: a lower --lr may help"


def _told(measure: Measure) -> str:
    change, error = 100 * (measure.relative - 1), 100 * measure.relative_error
    if measure.images == 1:
        return f"{change:+.1f} % against the base, with 1 image and no error known"
    return f"{change:+.1f} % against the base, standard error {error:.1f} % over {measure.images} images"


def _gap(one: Validated) -> float:
    """How much better what is trained has become than what is held out."""
    return one.held_out.relative - one.trained.relative


def _is_worse(one: Validated, least: Validated) -> bool:
    return one.held_out.relative > least.held_out.relative + least.held_out.relative_error


def _taken(validations: Sequence[Validated]) -> list[Validated]:
    """Without that of the base, to which no LoRA belongs."""
    return [one for one in validations if one.step > 0]


def _at(validations: Sequence[Validated], step: int) -> Validated:
    return next(one for one in validations if one.step == step)


def _widest(steps: Sequence[int]) -> int:
    return max(later - earlier for earlier, later in pairwise(steps))


def to_json(validations: Sequence[Validated]) -> str:
    """All that a resumed run must know of them."""
    return json.dumps([asdict(one) for one in validations])


def from_json(text: str) -> list[Validated]:
    """The same, to the last bit; ValueError for what is none of it."""
    try:
        return [validated(told) for told in json.loads(text)]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no validations: {error!r}") from None


def validated(told: dict[str, object]) -> Validated:
    """One of them out of its fields, as asdict and JSON have them."""
    measures = {name: _measure(told[name]) for name in ("held_out", "trained")}
    return Validated(**{**told, **measures})  # type: ignore[arg-type]  # from JSON; a wrong name is a TypeError


def _measure(told: object) -> Measure:
    if not isinstance(told, dict):
        raise TypeError("a measure is a table")
    return Measure(**{**told, "levels": tuple(told["levels"])})
