"""Pages in HTML that run nothing: their head, their colours, and text that is nothing but letters."""

from __future__ import annotations

import html
import re

COLOURS = """
:root { color-scheme: light dark; --page: #f6f6f4; --card: #fff; --line: #dddcd7; --ink: #1d1d1b; --soft: #63635e;
  --bar: #4f7fb8; --warned: #a8480a; --warned-bar: #d9822b; --good: #2d7a3e; --mat: #ecebe7; }
@media (prefers-color-scheme: dark) {
  :root { --page: #161617; --card: #212123; --line: #38383b; --ink: #e9e9e6; --soft: #a0a09a;
    --bar: #6d9fd8; --warned: #f0a562; --warned-bar: #d9822b; --good: #7fca8f; --mat: #2b2b2e; }
}
"""
UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f"  # C0 and C1 controls, ESC among them
    r"\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # what reverses the reading order or hides
    r"\ud800-\udfff\ufffe\uffff\U000e0000-\U000e007f]"  # bytes of a file name that are no UTF-8; letters never seen
)
ACCENTS = r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
HEAP = re.compile(f"({ACCENTS}{{3}})({ACCENTS}+)")  # so many on one letter would lie over other lines
SPACES = dict.fromkeys("\t\r\n", " ")


def head(title: str, policy: str, style: str) -> str:
    """The page up to its body; the policy is its Content-Security-Policy."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
    )


def text(told: str) -> str:
    """Text of files and users, as nothing but letters: no markup, and nothing that acts without being seen."""
    return html.escape(inert(told))


def inert(told: str) -> str:
    """The text with nothing that acts without being seen: U+202E is written out, heaps of accents are counted."""
    seen = UNSEEN.sub(lambda found: SPACES.get(found[0]) or f"[U+{ord(found[0]):04X}]", told)
    return HEAP.sub(lambda found: f"{found[1]}[+{len(found[2])}]", seen)
