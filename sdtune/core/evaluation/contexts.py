"""Contexts: things and places that what was learned is asked for with, and everyday prompts that should not show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain

from sdtune.core.evaluation.trigger import STOPS, words_of
from sdtune.core.everyday import PROMPTS
from sdtune.core.model_file import MINI

THINGS = (
    "a lighthouse",
    "a cup of tea",
    "a bicycle",
    "a fox in the snow",
    "an old typewriter",
    "a castle on a hill",
    "a bowl of ramen",
    "an astronaut",
    "a market street",
    "a violin",
    "a waterfall in a forest",
    "a hot air balloon",
    "an owl on a branch",
    "a woman reading a book",
    "a vintage car",
    "a wooden chair",
    "a jellyfish",
    "a village in the mountains",
    "a vase of tulips",
    "a fisherman in a boat",
    "a teapot",
    "a train at a station",
    "a knight in armour",
    "a greenhouse full of plants",
    "a skateboard",
    "a peacock",
    "a harbour at dawn",
    "a stack of pancakes",
    "a windmill",
    "a giraffe",
    "a grand piano",
    "a desert with cacti",
    "a pair of boots",
    "a man playing chess",
    "a coral reef",
    "a telescope",
    "a bakery window",
    "a hummingbird",
    "a snowy cabin",
    "a clock tower",
)
"""for styles: how each looks in them can be told, and none is near another"""
PLACES = (
    "on a beach",
    "in a snowy forest",
    "on a city street at night",
    "in a field of flowers",
    "on a wooden table",
    "in front of a castle",
    "on top of a mountain",
    "in a library",
    "beside a swimming pool",
    "in the rain",
    "on a boat",
    "in a kitchen",
    "in a desert",
    "under a cherry tree",
    "on a red carpet",
    "in an empty white room",
    "in a train",
    "in a market",
    "on a bridge at sunset",
    "in a museum",
    "beside a campfire",
    "on a roof above a city",
    "in a cave lit by candles",
    "in a garden in autumn",
    "in an old factory",
    "on a stage in a spotlight",
    "in front of a brick wall",
    "in a supermarket",
    "in a meadow in the morning mist",
    "on a frozen lake",
)
"""for subjects, none of which a set of pictures of one thing is likely to show"""
MANNERS = (
    "in black and white",
    "at night",
    "seen from above",
    "from far away",
    "in the fog",
    "at sunrise",
    "in bright sunlight",
    "close-up",
    "in winter",
    "as a pencil drawing",
    "as an oil painting",
    "with dramatic shadows",
    "on a rainy day",
    "in autumn colours",
    "with a blurred background",
    "in pastel colours",
    "as a mosaic",
    "at dusk",
    "seen through a window",
    "reflected in water",
    "as a paper cutout",
    "in candlelight",
    "as a stained glass window",
    "in the moonlight",
    "as a wood carving",
)
"""behind any prompt, where more are asked for than there are"""
FRAMINGS = ("{}", "a photo of {}", "a close-up of {}", "a picture of {}", "{} from the front", "{} from the side")
"""of a subject of which no captions tell"""
EMOJI = (
    "a rocket",
    "a pizza",
    "a house",
    "a brown dog face",
    "a red car",
    "a yellow sunflower",
    "a guitar",
    "a penguin",
    "a gold crown",
    "a hamburger",
    "a snowman",
    "a red apple",
    "an octopus",
    "a light bulb",
    "a green turtle",
    "a red mushroom",
    "a cat face",
    "a wrapped gift",
    "a yellow banana",
    "a blue gem stone",
    "a smiling face with sunglasses",
    "a cupcake",
    "a bicycle",
    "a violin",
    "a slice of watermelon",
    "a castle",
    "a clown face",
    "a parachute",
    "a bunch of cherries",
    "a volcano",
    "a cow face",
    "a microscope",
    "a soccer ball",
    "a rainbow",
    "a fish",
    "a top hat",
    "a hammer",
    "a tractor",
    "a pineapple",
    "a unicorn",
    "a candle",
    "a lollipop",
    "a skull",
    "a kite",
    "a snail",
    "a croissant",
    "an alien",
    "a shield",
    "a peach",
    "a laptop",
    "a honeybee",
    "a trumpet",
    "a jack-o-lantern",
    "a monkey face",
    "a backpack",
    "an airplane",
    "an ice cream",
    "a bear",
    "a pair of scissors",
    "a magnet",
    "a swan",
    "a teapot",
    "a glowing star",
    "a microphone",
    "a coconut",
    "a dolphin",
    "a bouquet",
    "a toolbox",
    "a pear",
    "a parrot",
    "a sword",
    "a paintbrush",
    "a fire engine",
    "a hedgehog",
    "an egg",
    "a compass",
    "a tulip",
    "a chair",
    "a spider",
    "a pretzel",
)
"""for mini, which knows emoji alone: those that it draws plainly, each unlike those around it"""
WITH_EMOJI = (
    "with sunglasses",
    "with a top hat",
    "with hearts",
    "with a crown",
    "with a balloon",
    "and a star",
    "in a box",
    "with a birthday cake",
    "in the rain",
    "with an umbrella",
    "and a rocket",
    "with tears of joy",
    "on fire",
    "and a rainbow",
    "with a musical note",
    "and a snowman",
    "with flowers",
    "in a car",
    "and a gift",
    "with a medal",
)
"""for subjects of mini, to which places mean nothing"""
COLOURS = frozenset(
    {
        "red",
        "green",
        "blue",
        "yellow",
        "orange",
        "purple",
        "pink",
        "brown",
        "black",
        "white",
        "grey",
        "gray",
        "gold",
        "golden",
        "silver",
        "violet",
        "dark",
        "light",
    }
)
VAGUE = COLOURS | frozenset(
    {"face", "small", "large", "big", "old", "young", "front", "top", "pair", "slice", "full", "style", "two", "one"}
)
"""what may be said of many things"""


def things(*, emoji: bool) -> Iterator[str]:
    """What a style can be asked for with, the plainest first, without end in sight."""
    return chain(EMOJI, _labels()) if emoji else chain(THINGS, _crossed(THINGS, PLACES))


def places(*, emoji: bool) -> Iterator[str]:
    """Where a subject can be asked for."""
    if emoji:
        return chain(WITH_EMOJI, (f"and {one}" for one in chain(EMOJI, _labels())))
    return chain(PLACES, _crossed(PLACES, (f", {one}" for one in MANNERS)))


def everyday(*, emoji: bool) -> Iterator[str]:
    """Prompts about anything."""
    return chain(EMOJI, _labels()) if emoji else chain(PROMPTS, _crossed(PROMPTS, (f", {one}" for one in MANNERS)))


def fresh(texts: Iterable[str], known: Iterable[str], count: int) -> list[str]:
    """The first of the texts that name nothing that the known ones name; where these are too few, others that are new.

    So a context is one that captions did not have.
    """
    known = list(known)
    named = set().union(*(content(text) for text in known))
    is_known = {text.lower() for text in known}
    found: list[str] = []
    others: list[str] = []
    for text in dict.fromkeys(texts):
        if len(found) == count:
            break
        if text.lower() in is_known:
            continue
        words = content(text)
        (others if words & named else found).append(text)
    return [*found, *others[: count - len(found)]]


def content(text: str) -> set[str]:
    """The words of a text that name things, in the singular as far as English goes by its letters."""
    words = {word for word in words_of(text) if word[0].isalnum()} - STOPS - VAGUE
    return {word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in words}


def _crossed(texts: Iterable[str], more: Iterable[str]) -> Iterator[str]:
    every = list(texts)
    for one in more:
        for text in every:
            yield f"{text}{one}" if one.startswith(",") else f"{text} {one}"


@cache
def _labels() -> tuple[str, ...]:
    """The emoji that mini learned, but for those of people's kinds and of signs with a text."""
    every = (MINI / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    return tuple(one for one in every if ":" not in one and "button" not in one)
