"""D1: the same training again gives the same bits."""

from __future__ import annotations

from tools.torture.ground import Ground, kinds, metrics, result, unlike
from tools.torture.outcome import Outcome, Tally, scaled

TIMES = 20


def repeats(ground: Ground, share: float) -> Outcome:
    """Twenty repeats, in turn with every optimizer: LoRA, checkpoint and every loss."""
    tally = Tally("D1", "20 repeats: LoRA, checkpoint and every loss bit-identical")
    wanted = {}
    for number in range(scaled(TIMES, share)):
        kind, settings = list(kinds().items())[number % len(kinds())]
        if kind not in wanted:
            first = ground.finished(settings)
            wanted[kind] = (result(first), metrics(first))
        again = ground.finished(settings)
        problems = [f"{kind}: {name} differs" for name in unlike(result(again), wanted[kind][0])]
        problems += [] if metrics(again) == wanted[kind][1] else [f"{kind}: losses differ"]
        tally.count(*problems)
    return tally.outcome()
