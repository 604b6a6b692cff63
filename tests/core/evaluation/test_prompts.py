"""Prompts of three kinds, made of captions, the trigger and shipped lists, or given."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sdtune.core.evaluation import contexts
from sdtune.core.evaluation.prompts import Material, blank, given_prompts, prompts_of, too_few
from sdtune.core.evaluation.subject import Prompt, Reference, Subject
from sdtune.core.evaluation.trigger import trigger_for
from sdtune.core.model_file import MINI
from sdtune.errors import ConfigError, DataError
from sdtune.sample_config import STDIN

THINGS = ("owl", "rose", "clock", "bus", "fox", "bell", "key", "crab", "tree", "cup", "hat", "ship")


def shown(captions: list[str | None], mark: str) -> tuple[Reference, ...]:
    return tuple(
        Reference(Path(f"{mark}{number}.png"), f"{mark}{number}.png", f"{number * 7919 % 97:02x}{mark}", caption)
        for number, caption in enumerate(captions)
    )


def material(captions: list[str], outside: list[str | None], known: str | None = None, **told: object) -> Material:
    trigger = trigger_for([*captions, *(one for one in outside if one)], known)
    subject = Subject("cats", Path("cats"), shown(list(captions), "t"))
    return replace(Material((subject,), shown(outside, "r"), trigger, 10), **told)  # type: ignore[arg-type]


STYLE = material([f"a {thing}, soft style" for thing in THINGS], [f"a {one}, soft style" for one in ("jar", "axe") * 4])


def of_kind(prompts: tuple[Prompt, ...], kind: str) -> list[Prompt]:
    return [one for one in prompts if one.kind == kind]


@pytest.mark.parametrize("emoji", [True, False])
def test_a_style_is_asked_for_as_in_captions_and_with_new_things_and_not_at_all(emoji: bool) -> None:
    outside: list[str | None] = [
        f"a {thing}, soft style" for thing in ("jar", "axe", "pin", "lid", "net", "cow", "pen")
    ]
    captions = [f"a {thing}, soft style" for thing in THINGS]
    made = material(captions, outside, emoji=emoji)
    prompts, told = prompts_of(made)
    assert not told
    own, new, plain = (of_kind(prompts, kind) for kind in ("in-distribution", "new context", "generic"))
    assert (len(own), len(new), len(plain)) == (10, 10, 10)
    assert len({one.text for one in prompts}) == 30
    assert all(one.has_concept for one in (*own, *new))
    assert not any(one.has_concept or "soft" in one.text for one in plain)
    assert all(one.text == f"{one.plain}, soft style" for one in (*own, *new))
    references = [one for one in own if one.held_out is not None]
    assert (len(references), len([one for one in own if one.trained])) == (7, 3)
    assert all(outside[one.held_out] == one.text for one in references if one.held_out is not None)
    assert all(captions[one.trained[1]] == one.text for one in own if one.trained)
    known = {word for text in (*captions, *filter(None, outside)) for word in contexts.content(text)}
    assert not any(contexts.content(one.plain) & known for one in new)
    assert not {one.plain for one in new} & {one.text for one in plain}


def test_a_subject_is_asked_for_in_new_places() -> None:
    made = material([f"sks cat on a {thing}" for thing in THINGS], ["sks cat on a beach", "sks cat in a tub", None])
    prompts, _ = prompts_of(made)
    new = of_kind(prompts, "new context")
    assert len(new) == 10
    assert all(one.text.startswith("sks cat ") and one.plain.startswith("cat ") for one in new)
    assert "sks cat on a beach" not in [one.text for one in new]
    assert "sks cat in the rain" in [one.text for one in new]


def test_the_same_contents_make_the_same_prompts_in_whatever_order() -> None:
    captions = [f"a {thing}, soft style" for thing in THINGS]
    made = material(captions, list(captions[:3]))
    turned = replace(
        made,
        subjects=[replace(made.subjects[0], trained=made.subjects[0].trained[::-1])],
        references=made.references[::-1],
    )
    assert [one.text for one in prompts_of(made)[0]] == [one.text for one in prompts_of(turned)[0]]


def test_every_subject_has_its_share_of_prompts() -> None:
    several = [
        Subject(name, Path(name), shown([f"a {name} {thing}, soft style" for thing in THINGS], name))
        for name in ("wooden", "paper")
    ]
    trigger = trigger_for([one.caption or "" for one in several[0].trained], None)
    prompts, _ = prompts_of(Material(several, (), trigger, 10))
    assert [one.trained[0] for one in prompts if one.trained] == [0, 1] * 5


def test_captions_of_given_references_are_made_to_ask() -> None:
    made = material([f"a {thing}, soft style" for thing in THINGS], [])
    made = replace(made, references=shown(["a red jar", "an axe, soft style"], "r"), given=True)
    own = [one for one in prompts_of(made)[0] if one.held_out is not None]
    assert sorted(one.text for one in own) == ["a red jar, soft style", "an axe, soft style"]
    assert all(one.has_concept for one in own)


def test_captions_of_the_run_stay_to_the_letter_and_those_without_the_trigger_come_last() -> None:
    captions = [f"a {thing}, soft style" for thing in THINGS[:9]] + ["plain caption"]
    own = of_kind(prompts_of(material(captions, []))[0], "in-distribution")
    assert (own[-1].text, own[-1].has_concept) == ("plain caption", False)


def test_without_a_trigger_all_captions_ask_and_nothing_new_does() -> None:
    prompts, _ = prompts_of(material(["red dog", "an owl in a tree", "some grapes"], ["one jar"]))
    assert {one.kind for one in prompts} == {"in-distribution", "generic"}
    assert all(one.has_concept == (one.kind == "in-distribution") for one in prompts)


def test_where_captions_do_not_suffice_a_subject_is_framed_and_a_style_is_shown_with_anything() -> None:
    own = of_kind(prompts_of(material(["sks cat"] * 5, [None, None], "sks"))[0], "in-distribution")
    assert own[0] == Prompt("sks cat", "cat", "in-distribution", True, None, (0, 0))
    assert "a photo of sks cat" in [one.text for one in own]
    alone = prompts_of(Material((), shown([None] * 6, "r"), trigger_for([], "ink style"), 10))[0]
    assert [len(of_kind(alone, kind)) for kind in ("in-distribution", "new context", "generic")] == [10, 10, 10]
    few, told = prompts_of(material(["a cup, soft style"] * 9, [None], "soft style"))
    assert len(of_kind(few, "in-distribution")) == 1
    assert "captions hardly differ, so that only 1 prompt is as in them" in told[0]
    with pytest.raises(DataError, match="give --trigger WORDS, or --prompts FILE"):
        prompts_of(Material((), shown([None], "r"), None, 10))


def test_classes_are_each_asked_for_by_name() -> None:
    subject = Subject("fruit", Path("fruit"), shown(["a pear", "an apple", "a pear"], "t"))
    references = shown(["an apple"], "r")
    prompts, _ = prompts_of(Material((subject,), references, None, 4, classes=("a pear", "an apple")))
    own = of_kind(prompts, "in-distribution")
    assert [(one.text, one.of_class, one.held_out, one.trained) for one in own] == [
        ("a pear", 0, None, (0, 0)),
        ("an apple", 1, 0, (0, 1)),
    ]
    assert [one.of_class for one in of_kind(prompts, "new context")] == [0, 1, 0, 1]


def test_nothing_is_one_prompt() -> None:
    prompts, told = blank()
    assert [(one.text, one.has_concept) for one in prompts] == [("", True)]
    assert "--seeds 20" in told[0]


def test_own_prompts_are_told_apart_by_the_trigger(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# mine\na OWL, soft style\n\na boat, very soft\na boat\na boat\n")
    made = material([f"a {thing}, soft style" for thing in THINGS], ["a jar, soft style"], "soft")
    prompts, told = given_prompts(file, made)
    assert [(one.text, one.kind, one.has_concept) for one in prompts] == [
        ("a OWL, soft style", "in-distribution", True),
        ("a boat, very soft", "in-distribution", True),
        ("a boat", "generic", False),
    ]
    assert [one.trained for one in prompts] == [(0, 0), None, None]
    assert not told
    assert all(one.has_concept for one in given_prompts(file, replace(made, trigger=None))[0])
    assert "no trigger is known" in given_prompts(file, replace(made, trigger=None))[1][0]


def test_own_prompts_that_cannot_be_used_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prompts.txt"
    for text, told in {
        "": "holds no prompt",
        "a boat": "none of its prompts holds the trigger",
        "a boat --w 64": "line 1: has a flag of its own (--w)",
        "soft\na boat --seed 1": "line 2: has a flag of its own (--seed), while eval draws all prompts alike",
        f"soft\n{'soft ' * 5000}": "line 2: a prompt of 25,000 characters, and 20,000 are the most; shorten it",
        "\0": "not text",
        "\n".join(f"soft {number}" for number in range(3001)): "holds 3,001 prompts",
    }.items():
        file.write_text(text)
        with pytest.raises(ConfigError, match=re.escape(told)):
            given_prompts(file, STYLE)
    with pytest.raises(ConfigError, match="no such file"):
        given_prompts(tmp_path / "none.txt", STYLE)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a soft style\n")))
    prompts, told_of = given_prompts(STDIN, STYLE)
    assert [one.text for one in prompts] == ["a soft style"]
    assert "nothing tells what is drawn without it" in told_of[0]


def test_few_prompts_that_describe_references_are_told() -> None:
    def told(references: int, *, own: bool = False) -> tuple[str, ...]:
        outside = [f"a {one}, soft style" for one in ("jar", "axe", "pin", "lid", "net")[:references]]
        made = material([f"a {thing}, soft style" for thing in THINGS], list(outside))
        return too_few(prompts_of(made)[0], own=own)

    assert told(5) == ()
    assert told(4)[0].startswith("only 4 prompts describe a reference, so that how close")
    assert told(1)[0].startswith("only 1 prompt describes a reference")
    assert told(0)[0].startswith("no prompt describes a reference")
    assert "a higher --prompts-each" in told(4)[0]
    assert "--prompts with captions of references" in told(4, own=True)[0]


def test_as_many_prompts_are_made_as_are_asked_for() -> None:
    for emoji in (True, False):
        prompts, _ = prompts_of(replace(STYLE, each=400, emoji=emoji))
        assert [len(of_kind(prompts, kind)) for kind in ("new context", "generic")] == [400, 400]
    subject = material([f"sks cat on a {thing}" for thing in THINGS], [], each=400)
    for emoji in (True, False):
        assert len(of_kind(prompts_of(replace(subject, emoji=emoji))[0], "new context")) == 400


def test_what_mini_is_asked_for_are_emoji_that_it_knows() -> None:
    words = {word for line in (MINI / "vocabulary.txt").read_text().splitlines() for word in contexts.content(line)}
    for text in (*contexts.EMOJI, *contexts.WITH_EMOJI):
        assert contexts.content(text) <= words | {"bunch"}, text


def test_shipped_lists_hold_nothing_twice() -> None:
    for texts in (contexts.THINGS, contexts.PLACES, contexts.MANNERS, contexts.EMOJI, contexts.WITH_EMOJI):
        assert len(set(texts)) == len(texts)
