"""Every captioner of the settings has one that works by them, and the page about them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from pydantic import TypeAdapter

from sdtune.choices.captioners import Captioner
from sdtune.choices.spec import Spec
from sdtune.core.captioners import describers

KINDS: dict[str, type[Spec]] = {cls.model_fields["kind"].default: cls for cls in get_args(get_args(Captioner)[0])}
PAGE = Path(__file__).parents[2] / "docs" / "captioning.md"


def test_auto_is_the_usual_and_stands_for_others() -> None:
    assert next(iter(KINDS)) == "auto"
    assert set(describers()) == KINDS.keys() - {"auto"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_captioner_says_what_it_is(kind: str) -> None:
    settings = TypeAdapter(Captioner).validate_python(kind)
    assert type(settings) is KINDS[kind]
    assert (KINDS[kind].__doc__ or "").strip().endswith(".")
    assert all(field.description for name, field in KINDS[kind].model_fields.items() if name != "kind")
    assert f"`{kind}`" in PAGE.read_text()
