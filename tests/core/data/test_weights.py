r"""Weights in captions mean what they mean in A1111."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtune.core.data.weights import weighted, without_weights

M, L = 1.1, 1 / 1.1

CASES: list[tuple[str, list[tuple[str, float]]]] = [
    ("", [("", 1)]),
    ("normal text", [("normal text", 1)]),
    ("  spaces  stay ", [("  spaces  stay ", 1)]),
    ("an (important) word", [("an ", 1), ("important", M), (" word", 1)]),
    ("((very)) much", [("very", M**2), (" much", 1)]),
    ("(((most)))", [("most", M**3)]),
    ("a [little] less", [("a ", 1), ("little", L), (" less", 1)]),
    ("[[least]]", [("least", L**2)]),
    ("([even])", [("even", 1)]),
    ("[(even)]", [("even", 1)]),
    ("(word:1.3)", [("word", 1.3)]),
    ("(word:2)", [("word", 2)]),
    ("(word:2.)", [("word", 2)]),
    ("(word:.5)", [("word", 0.5)]),
    ("(word:0)", [("word", 0)]),
    ("(word:-1.5)", [("word", -1.5)]),
    ("(word:+1.5)", [("word", 1.5)]),
    ("(word: 1.5 )", [("word", 1.5)]),
    ("(two words:1.3) here", [("two words", 1.3), (" here", 1)]),
    ("(one, two:0.8), three", [("one, two", 0.8), (", three", 1)]),
    ("((word:1.3))", [("word", 1.3 * M)]),
    ("[(word:1.3)]", [("word", 1.3 * L)]),
    ("((a:2) b:3)", [("a", 6), (" b", 3)]),
    ("(a (b) c)", [("a ", M), ("b", M**2), (" c", M)]),
    ("(a [b] c:2)", [("a ", 2), ("b", 2 * L), (" c", 2)]),
    # what is no weight is text, and its brackets are brackets still
    ("(word:abc)", [("word:abc", M)]),
    ("(word:)", [("word:", M)]),
    ("(word:1,3)", [("word:1,3", M)]),
    ("(word:1.2.3)", [("word:1.2.3", M)]),
    ("(word:1.3", [("word:1.3", M)]),
    ("[word:1.3]", [("word:1.3", L)]),
    ("word:1.3", [("word:1.3", 1)]),
    ("word:1.3)", [("word:1.3)", 1)]),
    ("at 12:30", [("at 12:30", 1)]),
    ("(at 12:30)", [("at 12", 30)]),
    ("(a:b:1.5)", [("a:b", 1.5)]),
    ("(::2)", [(":", 2)]),
    # brackets that lack their other half
    ("(unbalanced", [("unbalanced", M)]),
    ("a (b", [("a ", 1), ("b", M)]),
    ("a ((b", [("a ", 1), ("b", M**2)]),
    ("a [b", [("a ", 1), ("b", L)]),
    ("a (b [c", [("a ", 1), ("b ", M), ("c", 1)]),
    ("a) b", [("a) b", 1)]),
    ("a] b", [("a] b", 1)]),
    ("(a)) b", [("a", M), (") b", 1)]),
    ("(a [b) c]", [("a ", M), ("b", 1), (" c", L)]),
    (":)", [(":)", 1)]),
    (":( sad", [(":", 1), (" sad", M)]),
    ("()", [("", 1)]),
    ("a () b", [("a  b", 1)]),
    ("(:1.3)", [("", 1)]),
    # escapes
    (r"\(literal\]", [("(literal]", 1)]),
    (r"\(literal\)", [("(literal)", 1)]),
    (r"saber \(fate\)", [("saber (fate)", 1)]),
    (r"(saber \(fate\):1.2)", [("saber (fate)", 1.2)]),
    (r"\[a\]", [("[a]", 1)]),
    (r"a\\b", [(r"a\b", 1)]),
    (r"a\b", [("ab", 1)]),
    (r"(a\)", [("a)", M)]),
    ("a\\", [("a", 1)]),
    # neighbours of one weight are one
    ("(unnecessary)(parens)", [("unnecessaryparens", M)]),
    ("(a:1.0) b", [("a b", 1)]),
    ("a BREAK (b)", [("a BREAK ", 1), ("b", M)]),
    ("rot(e) Äpfel, 林檎", [("rot", 1), ("e", M), (" Äpfel, 林檎", 1)]),
    (
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",  # A1111's own example
        [
            ("a ", 1),
            ("house", 1.573),
            (" ", 1.1),
            ("on", 1),
            (" a ", 1.1),
            ("hill", 0.55),
            (", sun, ", 1.1),
            ("sky", 1.4641),
            (".", 1.1),
        ],
    ),
]


@pytest.mark.parametrize(("text", "pieces"), CASES, ids=[text or "nothing" for text, _ in CASES])
def test_as_in_a1111(text: str, pieces: list[tuple[str, float]]) -> None:
    told = weighted(text)
    assert [piece for piece, _ in told] == [piece for piece, _ in pieces]
    assert [weight for _, weight in told] == pytest.approx([weight for _, weight in pieces])
    assert without_weights(text) == "".join(piece for piece, _ in pieces)


@given(st.text(st.characters(exclude_characters="()[]\\")))
def test_text_without_brackets_is_itself(text: str) -> None:
    assert weighted(text) == [(text, 1.0)]


@given(st.text("ab()[]:\\ 1."))
def test_escaped_text_is_itself(text: str) -> None:
    escaped = "".join("\\" + letter if letter in "()[]\\" else letter for letter in text)
    assert weighted(escaped) == [(text, 1.0)]


@given(st.text("ab()[]:\\ 1."))
def test_no_letter_is_lost(text: str) -> None:
    assert [letter for letter in without_weights(text) if letter in "ab"] == [
        letter for letter in text if letter in "ab"
    ]


@given(st.text("ab 1."), st.floats(-9, 9))
def test_an_outer_weight_multiplies(text: str, weight: float) -> None:
    inner = f"(a:2){text}(b)"
    both = weighted(f"({inner}:{weight:.3f})")
    factor = float(f"{weight:.3f}")
    assert [piece for piece, _ in both] == [piece for piece, _ in weighted(inner)] or factor == 0
    assert {letter: w for piece, w in both for letter in piece}["b"] == pytest.approx(
        {letter: w * factor for piece, w in weighted(inner) for letter in piece}["b"]
    )
