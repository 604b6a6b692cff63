"""Choices in prompts: what they may become, that chance is kept by the seed, and what cannot be chosen from."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest

from sdtune.core.sampling import wildcards as wildcards_module
from sdtune.core.sampling.dynamic import COUNTED, check, chosen, combinations, count_of
from sdtune.core.sampling.dynamic_grammar import DEEPEST
from sdtune.core.sampling.wildcards import Wildcards, wildcard_folder
from sdtune.errors import ConfigError

FILES = {
    "animal.txt": "cat\ndog # a comment\n# only a comment\n\n  red fox  \n",
    "set/one.txt": "x\r\ny\r\n",
    "set/two.txt": "\ufeffy\nz {p|q}",
    "deep.txt": "a __animal__\n{big|small} __set/one__\n",
    "letters.txt": "color #ff0000\na|b\n{\n",
    "weighted.txt": "0::never\n99::often\nseldom\n",
    ".hidden.txt": "no\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wildcards")
    return filled(place, FILES)


@pytest.fixture
def words(folder: Path) -> Wildcards:
    return Wildcards(folder)


def filled(place: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(text.encode())
    return place


def all_of(text: str, words: Wildcards) -> list[str]:
    return list(combinations(text, words, "here"))


ORDERS = ["a, b", "a, c", "b, a", "b, c", "c, a", "c, b"]
TABLE: dict[str, list[str]] = {
    "plain": ["plain"],
    "": [""],
    "{a|b}": ["a", "b"],
    "a {red|green} {cat|dog}": ["a red cat", "a red dog", "a green cat", "a green dog"],
    "{a|{b|c} d}": ["a", "b d", "c d"],
    "{ a | b }x": ["a x", "b x"],  # as the package dynamicprompts 0.31.0
    "{big |}cat": ["big cat", "cat"],
    "{|}": [""],
    "{a|a|b}": ["a", "b"],
    "{0.5::a|2::b|c}": ["a", "b", "c"],
    "{0::a|b}": ["b"],
    "{2$$a|b|c}": ORDERS,
    "{2$$ and $$a|b|c}": [text.replace(",", " and").replace("  ", " ") for text in ORDERS],
    "{2$$|$$a|b|c}": [text.replace(", ", "|") for text in ORDERS],
    "{1-2$$a|b|c}": ["a", "b", "c", *ORDERS],
    "{2-1$$a|b|c}": ["a", "b", "c", *ORDERS],
    "{-2$$a|b|c}": ["a", "b", "c", *ORDERS],
    "{2-$$a|b|c}": [*ORDERS, *map(", ".join, permutations("abc"))],
    "{0-1$$a|b}": ["", "a", "b"],
    "{5$$a|b}": ["a, b", "b, a"],
    "{2$$a||b}": ["a", "a, b", "a", "b", "b, a", "b"],
    "{2$${a|b}|c}": ["a, c", "b, c", "c, a", "c, b"],
    "__animal__": ["cat", "dog", "red fox"],
    "a __set/one__!": ["a x!", "a y!"],
    "__set/*__": ["x", "y", "z p", "z q"],
    "__s?t/on*__": ["x", "y"],
    "{2$$__animal__}": ["cat, dog", "cat, red fox", "dog, cat", "dog, red fox", "red fox, cat", "red fox, dog"],
    "{2$$ & $$__set/one__|q}": ["x & q", "y & q", "q & x", "q & y"],
    "__deep__": ["a cat", "a dog", "a red fox", "big x", "big y", "small x", "small y"],
    "__letters__": ["color #ff0000", "a|b", "{"],
    "__weighted__": ["often", "seldom"],
    "___animal___": ["_cat_", "_dog_", "_red fox_"],
}
TEXT = [
    "{a}",
    "{}",
    "a {b",
    "a } b",
    "{a {b}",
    "[a|b] (c:1.3)",
    "50% #1 // x",
    "a_b__c __d",
    "__ __",
    "____",
    "_a_",
    "a $$ b $x ${y=1}",
    r"\(a\) \\ \<b \[ \]",
    "\\",
    "__red fox__",
    "ü\u2028\n\t",
]
ESCAPED = {
    r"\{a\|b\}": "{a|b}",
    r"\__animal__": "__animal__",
    r"\_\_animal\_\_": "__animal__",
    r"{a\|b\}|a\|b\}}": "a|b}",
    r"\\\{": r"\\{",
}


@pytest.mark.parametrize("text", TABLE)
def test_all_that_it_may_become(text: str, words: Wildcards) -> None:
    found = all_of(text, words)
    assert found == TABLE[text]
    assert count_of(text, words, "here") == len(found)
    drawn = {chosen(text, seed, words, "here") for seed in range(200)}
    assert drawn <= set(found)
    assert len(drawn) > 0.8 * len(set(found)) or text == "__weighted__"


@pytest.mark.parametrize("text", TEXT)
def test_what_is_no_choice_is_text(text: str, words: Wildcards) -> None:
    assert all_of(text, words) == [text]
    assert chosen(text, 1, words, "here") == text
    assert count_of(text, words, "here") == 1


@pytest.mark.parametrize("text", ESCAPED)
def test_signs_of_choices_can_be_written(text: str, words: Wildcards) -> None:
    assert all_of(text, words) == [ESCAPED[text]]
    assert chosen(text, 1, words, "here") == ESCAPED[text]


def test_a_seed_chooses_the_same_everywhere(words: Wildcards) -> None:
    text = "{a|b|c} {1-3$$x|2::y|z} __animal__ {2$$__deep__}"
    # Read off once; other numbers mean other pictures for prompts that people have kept.
    assert [chosen(text, seed, words, "here") for seed in (0, 1, 2**63 - 1)] == SEEDS
    assert chosen(text, 0, Wildcards(words.folder), "there") == SEEDS[0]


SEEDS = ["b y, x dog small y, a cat", "c z, x, y dog big y, a red fox", "a y, z, x red fox a cat, small x"]


def test_weights_are_how_often(words: Wildcards) -> None:
    tally = Counter(chosen("{3::a|b|.5::c|.5::b}", seed, words, "here") for seed in range(4000))
    for letter, share in {"a": 0.6, "b": 0.3, "c": 0.1}.items():
        assert abs(tally[letter] / 4000 - share) < 0.03
    first = Counter(chosen("{2$$3::a|b|1::c}", seed, words, "here")[0] for seed in range(4000))
    assert abs(first["a"] / 4000 - 0.6) < 0.03
    numbers = Counter(len(chosen("{0-3$$a|b|c}", seed, words, "here").split()) for seed in range(4000))
    assert all(abs(numbers[number] / 4000 - 0.25) < 0.03 for number in range(4))
    often = Counter(chosen("__weighted__", seed, words, "here") for seed in range(1000))
    assert often["often"] > 950
    assert set(often) <= {"often", "seldom"}


def test_neighbouring_seeds_and_texts_are_drawn_apart(words: Wildcards) -> None:
    drawn = [chosen("{a|b}" * 40, seed, words, "here") for seed in range(50)]
    assert len(set(drawn)) == 50
    same = sum(chosen("{a|b}", seed, words, "here") == chosen("{a|b} ", seed, words, "here")[0] for seed in range(400))
    assert 140 < same < 260


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "a __animl__",
            r"here, column 3: __animl__: no such file in \S+; did you mean __animal__\?, or write \\__animl__",
        ),
        ("__zzzzzz__", r"here, column 1: __zzzzzz__: no such file in \S+; check its name, or write"),
        ("__set/q*__", r"here, column 1: __set/q\*__: no such file"),
        ("__hidden__", "no such file"),
        ("__../../etc/passwd__", "leads out of the folder"),
        ("__/etc/passwd__", "leads out of the folder"),
        ("{a|__set/../../x__}", "here, column 4: .*leads out of the folder"),
        ("ab {0::a|0::b}", "here, column 4: all choices have weight 0; give one of them more"),
    ],
)
def test_what_cannot_be_chosen_is_told_with_its_column(text: str, told: str, words: Wildcards) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        check(text, words, "here")
    assert len(caught.value.problems) == 1
    for ask in (lambda: chosen(text, 0, words, "here"), lambda: count_of(text, words, "here")):
        with pytest.raises(ConfigError, match=told):
            ask()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a.txt": "x\n{__a__|y}"}, r"a\.txt, line 2, column 2: wildcards in a circle: a -> a; take one of them out"),
        ({"a.txt": "x {2$$__a__}"}, r"a\.txt, line 1, column 7: wildcards in a circle: a -> a"),
        ({"a.txt": "__b__", "b.txt": "{x|__c__}", "c.txt": "__a__"}, "in a circle: a -> b -> c -> a; take"),
        ({"a.txt": "__*__"}, r"in a circle: \* -> \*; take|in a circle: a -> \* -> a|circle: \* -> "),
        ({"a.txt": "__b__", "b.txt": "\n1 __c__"}, r"b\.txt, line 2, column 3: __c__: no such file in"),
        ({"a.txt": "# nothing\n\n"}, "here, column 1: __a__: holds no line to choose; write one a line into it"),
        ({"a.txt": "caf\udce9"}, r"__a__: .*a\.txt: not text in UTF-8"),
        ({"a.txt": "x" * 5000}, r"a\.txt is over 0 MB; split it"),
        ({"b.md": ""}, "here, column 1: __a__: the folder .* holds no .txt; give another with --wildcards"),
        ({f"a{n}.txt".replace("a0", "a"): f"__a{n + 1}__" for n in range(60)}, "more than 50 choices within one"),
        ({"a.txt": "{__b__|x}" * 1, "b.txt": "{a|" * 50 + "}" * 50}, "more than 50 choices within one another"),
        ({"a.txt": "__b____b__" * 20, "b.txt": "__c__" * 40, "c.txt": "{|}" * 900}, "a prompt of over 200,000 letters"),
    ],
)
def test_files_that_cannot_be_chosen_from(
    files: dict[str, str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wildcards_module, "MAX_BYTES", 4000)
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=told) as caught:
        check("__a__", Wildcards(tmp_path), "here")
    assert len(caught.value.problems) == 1


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret\n")
    place = filled(tmp_path / "wildcards", {"own.txt": "own\n", "set/x.txt": "x\n"})
    (place / "out.txt").symlink_to(tmp_path / "secret.txt")
    (place / "in.txt").symlink_to("own.txt")
    (place / "circle.txt").symlink_to("circle.txt")
    (place / "folder").symlink_to(tmp_path, target_is_directory=True)
    words = Wildcards(place)
    assert all_of("__in__", words) == ["own"]
    for name, told in (
        ("out", "is a link out of"),
        ("circle", "cannot be read|is no file"),
        ("folder/secret", "no such"),
    ):
        with pytest.raises(ConfigError, match=told):
            check(f"__{name}__", words, "here")


def test_a_folder_is_found_or_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="__a__: the folder wildcards is not there; give another with --wildcards"):
        check("__a__", Wildcards(None), "here")
    check("a_b", Wildcards(None), "here")
    with pytest.raises(ConfigError, match=r"^--wildcards nowhere: no such folder"):
        wildcard_folder(Path("nowhere"), None)
    filled(tmp_path, {"wildcards/a.txt": "a", "sub/wildcards/a.txt": "b", "sub/prompts.txt": ""})
    assert all_of("__a__", Wildcards(None)) == ["a"]
    assert wildcard_folder(None, None) == wildcard_folder(None, Path("-")) == Path("wildcards")
    assert wildcard_folder(None, Path("sub/prompts.txt")) == Path("sub/wildcards")
    assert wildcard_folder(Path("sub"), None) == Path("sub")


def test_choices_are_nested_up_to_a_depth(words: Wildcards) -> None:
    deepest = "{a|" * DEEPEST + "b" + "}" * DEEPEST
    assert set(all_of(deepest, words)) == {"a", "b"}
    assert count_of(deepest, words, "here") == DEEPEST + 1
    with pytest.raises(
        ConfigError, match=f"here, column 1: more than {DEEPEST} choices within one another; nest fewer"
    ):
        check("{a|" + deepest + "}", words, "here")


def test_more_combinations_than_anybody_wants_are_counted_no_further(words: Wildcards) -> None:
    assert count_of("{a|b}" * 29, words, "here") == 2**29
    assert count_of("{a|b}" * 1000, words, "here") == COUNTED
    many = "{0-99$$" + "|".join(map(str, range(99))) + "}"
    assert count_of(many, words, "here") == COUNTED
    assert next(combinations(many + "{a|b}" * 1000, words, "here")).count("a") == 1000


@pytest.mark.parametrize("piece", ["{", "{a|", "{}", "{a|b}", "{2$$", "{ 1", "__", "__a", "\\"])
def test_100_kb_of_anything_are_answered(piece: str, words: Wildcards) -> None:
    text = piece * (100_000 // len(piece))
    if piece == "__a":
        with pytest.raises(ConfigError, match="no such file"):
            check(text, words, "here")
    else:
        assert len(chosen(text, 1, words, "here")) == (len(text) // 5 if piece == "{a|b}" else len(text))


def test_a_prompt_that_would_be_far_too_long_is_told(words: Wildcards) -> None:
    for text in ("a" * 200_001, "{" + "a" * 200_001 + "|b}", "{9$$" + " " * 30_000 + "$$0|1|2|3|4|5|6|7|8}"):
        with pytest.raises(ConfigError, match="here: may become a prompt of over 200,000 letters; choose fewer"):
            check(text, words, "here")


def test_many_options_are_chosen_from(words: Wildcards) -> None:
    text = "{50000$$" + "".join(f"{number}|" for number in range(20_000)) + "}"
    drawn = chosen(text, 1, words, "here").split(", ")
    assert sorted(map(int, drawn)) == list(range(20_000))
