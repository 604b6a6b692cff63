"""The example data sets: Fluent 3D emoji on white with captions, in examples/ (`python -m tools.examples.build`).

Noto, which the built-in model learns from, draws the same subjects flat. Files are named by code point, as
Noto's are, so that the true picture of a held-out subject in the new style is known.
"""

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from tools.mini.fetch import EMOJIBASE, NOTO, tarball

FLUENT = "@lobehub/fluent-emoji-3d@1.1.0"  # MIT

ROOT = Path(__file__).parents[2]
SIZE = 256  # px, as the package has them
TRIGGER = "fluent3d"  # stands in none of emojibase's words
COMPONENT, FLAGS = 2, 9  # emojibase's groups that are no pictures of things

# A colour is named where it helps to tell what is seen; of the style itself nothing is said but the trigger.
TRAINING = {
    # animals
    "1f98a": "an orange fox face",
    "1f43c": "a panda face",
    "1f42f": "a tiger face",
    "1f430": "a white rabbit face",
    "1f437": "a pink pig face",
    "1f438": "a green frog face",
    "1f981": "a lion face",
    "1f42d": "a mouse face",
    "1f989": "a brown owl",
    "1f424": "a yellow baby chick",
    "1f418": "an elephant",
    "1f433": "a blue spouting whale",
    "1f980": "a pink crab",
    "1f98b": "a red butterfly",
    "1f41e": "a red lady beetle",
    # food
    "1f34a": "an orange tangerine",
    "1f353": "a strawberry",
    "1f34b": "a yellow lemon",
    "1f347": "purple grapes",
    "1f350": "a green pear",
    "1f955": "an orange carrot",
    "1f345": "a red tomato",
    "1f951": "an avocado",
    "1f355": "a slice of pizza",
    "1f369": "a chocolate doughnut with sprinkles",
    "1f36a": "a chocolate chip cookie",
    "1f368": "ice cream in a blue bowl",
    "1f35e": "a loaf of bread",
    "1f9c0": "a yellow cheese wedge",
    "1f382": "a birthday cake",
    # objects
    "1f3c6": "a gold trophy",
    "1f388": "a red balloon",
    "1f3c0": "an orange basketball",
    "1f3b2": "a white game die",
    "1f511": "a gold key",
    "1f512": "a closed lock",
    "1f514": "a gold bell",
    "23f0": "a red alarm clock",
    "2602": "a purple umbrella",
    "1f4d7": "a green book",
    "1f4f7": "a grey camera",
    "260e": "a red telephone",
    "1f9f8": "a brown teddy bear",
    "1faa3": "a blue bucket",
    # plants
    "1f335": "a green cactus",
    "1f339": "a red rose",
    "1f332": "a green evergreen tree",
    "1f334": "a palm tree",
    # vehicles
    "1f68c": "an orange and white bus",
    "1f682": "a steam locomotive",
    "26f5": "a sailboat",
    "1f681": "an orange helicopter",
    # faces
    "1f600": "a grinning face",
    "1f609": "a winking face",
    "1f47b": "a white ghost",
    "1f916": "a robot face",
}

HELD_OUT = {
    # animals
    "1f431": "a cat face",
    "1f436": "a brown dog face",
    "1f427": "a penguin",
    "1f422": "a green turtle",
    "1f419": "an orange octopus",
    # food
    "1f34e": "a red apple",
    "1f354": "a hamburger",
    "1f9c1": "a pink cupcake with sprinkles",
    "1f34c": "a yellow banana",
    "1f349": "a slice of watermelon",
    # objects
    "1f3b8": "a red guitar",
    "1f451": "a gold crown",
    "1f381": "a yellow wrapped gift with a red ribbon",
    "1f48e": "a blue gem stone",
    "1f4a1": "a yellow light bulb",
    # plants
    "1f344": "a red mushroom",
    "1f33b": "a yellow sunflower",
    # vehicles
    "1f697": "a red car",
    "1f680": "a rocket",
    # faces
    "1f60e": "a smiling face with sunglasses",
}


def main() -> None:
    """Make both folders anew from the packages; the same packages and Pillow give the same bytes."""
    cache = ROOT / "build" / "npm"
    check_subjects(cache)
    with tarfile.open(tarball(FLUENT, cache)) as fluent:
        pictures = {Path(name).stem.replace("-fe0f", ""): name for name in fluent.getnames() if name.endswith(".webp")}
        for folder, subjects in (("fluent-3d", TRAINING), ("fluent-3d-held-out", HELD_OUT)):
            target = ROOT / "examples" / folder
            for old in (*target.glob("*.png"), *target.glob("*.txt")):
                old.unlink()
            for code, subject in subjects.items():
                on_white(member(fluent, pictures[code])).save(target / f"{code}.png", optimize=True)
                (target / f"{code}.txt").write_text(f"{subject}, {TRIGGER} style\n", encoding="utf-8", newline="\n")
            size = sum(file.stat().st_size for file in target.iterdir())
            print(f"{target.relative_to(ROOT)}: {len(subjects)} pictures, {size / 1e6:.1f} MB")


def check_subjects(cache: Path) -> None:
    """Noto draws each subject, and emojibase, whose words are all the built-in model knows, has those used here."""
    assert not TRAINING.keys() & HELD_OUT.keys(), "a held-out subject is in the training set"
    with tarfile.open(tarball(NOTO, cache)) as noto, tarfile.open(tarball(EMOJIBASE, cache)) as emojibase:
        drawn = json.loads(member(noto, "package/chars.json"))
        entries: list[dict[str, Any]] = json.loads(member(emojibase, "package/en/data.json"))
    things = [e for e in entries if e.get("group") not in (None, COMPONENT, FLAGS)]
    words = {e["hexcode"].lower().replace("-fe0f", ""): {*split(e["label"]), *e.get("tags", ())} for e in things}
    known = {"a", "an"} | {word for said in words.values() for phrase in said for word in split(phrase)}
    assert TRIGGER not in known, f"{TRIGGER} is a word of emojibase's"
    for code, subject in (TRAINING | HELD_OUT).items():
        assert code in drawn, f"{code} ({subject}) is no picture of Noto's"
        assert code in words, f"{code} ({subject}) is no picture of emojibase's"
        assert words[code] & split(subject), f"{code}: emojibase does not call it {subject}"
        assert known >= split(subject), f"{subject}: emojibase has no word {split(subject) - known}"


def on_white(picture: bytes) -> Image.Image:
    """The picture in RGB, its transparent parts white."""
    image = Image.open(io.BytesIO(picture)).convert("RGBA")
    assert image.size == (SIZE, SIZE), f"the package's pictures are {SIZE} px, not {image.size}"
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def split(phrase: str) -> set[str]:
    """The words of a phrase, in lower case."""
    return set(re.findall(r"\w+", phrase.lower()))


def member(tar: tarfile.TarFile, name: str) -> bytes:
    """One file of a tarball."""
    file = tar.extractfile(name)
    assert file is not None, f"{name} is a folder"
    return file.read()


if __name__ == "__main__":
    main()
