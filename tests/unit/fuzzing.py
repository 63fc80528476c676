# SPDX-License-Identifier: GPL-2.0-only
"""Texts for the parsers of dialects: those of the corpus, mutated, and grammars run wild."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

CORPUS = Path(__file__).parents[1] / "data" / "dialects"
SEEDS = tuple(
    path.read_bytes().decode()
    for path in sorted(CORPUS.glob("*/*/*"))
    if path.suffix != ".want" and path.stat().st_size < 4096
)
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
