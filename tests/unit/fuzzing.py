# SPDX-License-Identifier: GPL-2.0-only
"""Texts for the parsers of dialects: those of the corpus, mutated, and grammars run wild."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from hypothesis import strategies as st

CORPUS = Path(__file__).parents[1] / "data" / "dialects"
FILES = tuple(path for path in sorted(CORPUS.glob("*/*/*")) if path.suffix != ".want" and path.stat().st_size < 4096)
SEEDS = tuple(path.read_bytes().decode() for path in FILES)
WORDS = (
    *("\n", "\t", " ", "0x", "-", ":", "|", "> ", "[...]", "\r", "\x00", "\u0663", "0", "f", "g", "---[ ", " ]---"),
    *(
        "0x0000000000000000",
        "0xffffffffffffffff",
        "0x0000000041000003",
        "  lvl 3  stage ",
        "ARM_64_LPAE_S2",
        "V ",
        "NST",
    ),
    *(
        "[    0.000001] ",
        "Device ",
        "IOVA_PFN",
        "PTE",
        "STE for Stream ID 8",
        "  Domain: -",
        "va: ",
        " -> pa: ",
        "128M",
    ),
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A text of the corpus with up to four places changed: cut, doubled, moved, replaced by a word or by anything."""
    text = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(0, 4))):
        at, to = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        how = draw(st.integers(0, 5))
        if how == 0:
            text = text[:at]
        elif how == 1:
            text = text[:at] + text[to:]
        elif how == 2:
            text = text[:to] + text[at:]
        elif how == 3:
            text = text[:at] + draw(st.sampled_from(WORDS)) + text[min(to, at + 3) :]
        elif how == 4:
            lines = text.split("\n")
            one = draw(st.integers(0, len(lines) - 1))
            lines[one] = draw(st.sampled_from(draw(st.sampled_from(SEEDS)).split("\n")))
            text = "\n".join(lines)
        else:
            text = text[:at] + draw(st.text(max_size=8)) + text[at:]
    return text


#: most texts have few of them: the parser must get past what is right to reach what is wrong
CHANGES = (0, 1, 1, 1, 2, 2, 3, 4)


def mutations(seed: int, number: int, dialect: str) -> Iterator[str]:
    """Texts changed as texts() does, a hundred times as fast: one draw of hypothesis for all of them.

    Three in four are of that dialect.
    """
    random = Random(seed)
    own = [text for path, text in zip(FILES, SEEDS, strict=True) if path.parents[1].name == dialect]
    for number_of_text in range(number):
        text = random.choice(own if number_of_text % 4 else SEEDS)
        for _ in range(random.choice(CHANGES)):
            text = _changed(random, text)
        yield text


def _changed(random: Random, text: str) -> str:
    at, to = sorted((random.randint(0, len(text)), random.randint(0, len(text))))
    how = random.randint(0, 6)
    if how == 0:
        return text[:at]
    if how == 1:
        return text[:at] + text[to:]
    if how == 2:
        return text[:to] + text[at:]
    if how == 3:
        return text[:at] + random.choice(WORDS) + text[min(to, at + 3) :]
    if how == 4:
        lines = text.split("\n")
        lines[random.randrange(len(lines))] = random.choice(random.choice(SEEDS).split("\n"))
        return "\n".join(lines)
    if how == 5 and text:
        # One digit: grammar holds, and what it says does not.
        at = random.randrange(len(text))
        return text[:at] + random.choice("0123456789abcdef") + text[at + 1 :]
    return (
        text[:at]
        + "".join(chr(random.choice((random.randrange(128), random.randrange(0x3000)))) for _ in range(8))
        + text[at:]
    )
