"""A new word that no step would ever say is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdtune.config import Prepare, TrainLora, resolve
from sdtune.core.data.folder import Example
from sdtune.core.new_word import check_said
from sdtune.errors import ConfigError


def config(**tables: Any) -> TrainLora:
    return resolve(TrainLora, [{"data": {"folder": "x"}, "token": {"word": "sks-cat"}}, tables])


def images(*captions: str, **more: Any) -> list[Example]:
    return [Example(Path("1.png"), captions, 64, 64, **more)]


@pytest.mark.parametrize(
    ("caption", "captions"),
    [
        ("a sks-cat", {}),
        ("a photo, grey, sks-cat", {"tag_dropout": 1, "shuffle": True}),
        ("a photo ||| sks-cat ||| grey", {"tag_dropout": 1}),
        ("a {dog|sks-cat}", {}),
        ("{{a|b} {sks|red}-{cat|dog}|c}", {"wordings": 1000}),
        ("a [(sks-cat:1.3)]", {"weights": True}),
        ("a (sks-)cat", {"weights": True}),
        ("a sks-cat", {"dropout": 0.99}),
    ],
)
def test_words_that_are_read_now_and_then_can_be_learned(caption: str, captions: dict[str, Any]) -> None:
    check_said(config(captions=captions), images("a dog", caption))


@pytest.mark.parametrize(
    ("caption", "captions", "words"),
    [
        ("a dog", {}, "no caption has sks-cat, so it cannot be learned; write it into captions"),
        ("{sks|}-{dog|cow}", {}, "no caption has sks-cat"),
        ("a {sks|-cat}", {}, "no caption has sks-cat"),
        ("a sks{-cat|}s", {}, "no caption has sks-cat"),
        (
            "a sks-cat",
            {"dropout": 1},
            "captions.dropout: 1 leaves out every caption, so sks-cat cannot be learned; give",
        ),
        ("", {"dropout": 1}, "no caption has sks-cat.* the task text-to-image has no captions"),
    ],
)
def test_words_that_are_never_read_are_refused(caption: str, captions: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        check_said(config(captions=captions), images(caption) + images("a sks-cat", prior=True))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "word", ["{a|b}", "[V]", "(a:1.3)", "|||", "a,b", "a:b", "a|b", "a\\b", "a)", "}", "]", "a\nb"]
)
def test_words_that_prompts_read_otherwise_are_refused_with_the_settings(word: str) -> None:
    with pytest.raises(ConfigError, match=r"^token.word \(--new-token\): should ") as caught:
        config(token={"word": word})
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["sks-cat", "<sks>", "S*", "my word", "größe", "a.b"])
def test_other_words_are_taken(word: str) -> None:
    assert config(token={"word": f" {word} "}).token.word == word


@pytest.mark.parametrize("trigger", ["{a|b}", "a {b|c} d", "a ||| b", "a\nb", "a\u2028b"])
def test_triggers_that_captions_read_otherwise_are_refused(trigger: str) -> None:
    for data in ({"trigger": trigger}, {"folders": [{"path": "y", "trigger": trigger}]}):
        with pytest.raises(ConfigError, match=r"trigger.*: should (have neither|be on one line)") as caught:
            config(data=data)
        assert len(caught.value.problems) == 1


def test_other_triggers_are_taken() -> None:
    for trigger in ("{a}", "a | b", "[V]", "sks, cat"):
        assert config(data={"trigger": trigger}).data.trigger == trigger


@pytest.mark.parametrize("prompt", ["a\ndog", "a\x1b[31m dog", "a\rdog", "a\u2029dog"])
def test_class_prompts_are_on_one_line(prompt: str) -> None:
    tables: list[tuple[type[TrainLora] | type[Prepare], dict[str, Any]]] = [
        (TrainLora, {"data": {"folder": "x"}}),
        (Prepare, {"sources": ["x"]}),
    ]
    for command, told in tables:
        resolve(command, [told, {"prior": {"prompt": "a {red|blue} dog", "count": 1}}])
        with pytest.raises(ConfigError, match=r"^prior.prompt \(--class-prompt\): should be on one line") as caught:
            resolve(command, [told, {"prior": {"prompt": prompt, "count": 1}}])
        assert len(caught.value.problems) == 1
