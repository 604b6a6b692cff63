"""What can be said of an emoji: several captions, so that a prompt need not be the label to the letter."""

import random

from tools.mini.emoji import Emoji

TEMPLATES = ("{label}", "a {label}", "an emoji of {label}", "an emoji of a {label}", "{label} emoji")


def caption(emoji: Emoji, rng: random.Random) -> str:
    """One caption: the label in a sentence or alone, often with some of the tags in any order."""
    words = rng.choice(TEMPLATES).format(label=emoji.label)
    few = rng.sample(emoji.tags, min(len(emoji.tags), rng.choice((0, 0, 1, 2, 4))))
    return ", ".join([words, *few])


def captions(emoji: Emoji, count: int, seed: int = 0) -> list[str]:
    """The label alone, with its article, and `count` - 2 others, always the same for a seed."""
    rng = random.Random(f"{seed} {emoji.code}")
    return [emoji.label, f"a {emoji.label}", *(caption(emoji, rng) for _ in range(count - 2))]
