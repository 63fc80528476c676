# SPDX-License-Identifier: GPL-2.0-only
"""The files ``ste`` and ``cd`` of a stream: debugfs/iommu/arm_smmu_v3/<iommu>/stream_table/<sid>/, as in abi.md.

Lines are matched exactly, indented by two spaces below the head and by four for the words: every space counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pytest_iommu.core.model import Cd, Ste, format_size
from pytest_iommu.dialects.dialect import DumpSyntaxError
from pytest_iommu.formats.smmuv3 import WITHOUT_DOMAIN, decode_cd, decode_ste

_HEX = "0x([0-9a-f]{16})"
_NUMBER = "(0|[1-9][0-9]*)"
_YES_NO = "(Yes|No)"
#: the kind behind `-` is newer than the line: without it, the words say it
_DOMAIN = f"(-|[1-9][0-9]*|- (?:{'|'.join(WITHOUT_DOMAIN)}))"
_CONFIG = r"(ABORT|BYPASS|only S1_TRANS|only S2_TRANS|S1\+S2_TRANS|UNKNOWN)"

Grammar = tuple[tuple[str, str], ...]


def _words(name: str) -> Grammar:
    return (("Raw Data", "  Raw Data:"), *((f"{name}[{at}]", rf"    {name}\[{at}\]: {_HEX}") for at in range(8)))


STE_LINES: Grammar = (
    ("STE for Stream ID", f"STE for Stream ID {_NUMBER}"),
    ("Valid", f"  Valid: {_YES_NO}"),
    ("Config", f"  Config: {_CONFIG}"),
    ("S1ContextPtr", f"  S1ContextPtr: {_HEX}"),
    ("S2TTB", f"  S2TTB: {_HEX}"),
    ("Domain", f"  Domain: {_DOMAIN}"),
    *_words("STE"),
)
CD_LINES: Grammar = (
    ("CD for Stream ID", f"CD for Stream ID {_NUMBER} SSID {_NUMBER}"),
    ("Valid", "  Valid: (Yes)"),  # others are not listed
    ("ASID", f"  ASID: {_NUMBER}"),
    ("T0SZ", f"  T0SZ: {_NUMBER}"),
    ("TG0", "  TG0: (4K|16K|64K|reserved)"),
    ("IPS", "  IPS: (32|36|40|42|44|48|52|56)"),
    ("EPD0", f"  EPD0: {_YES_NO}"),
    ("TTB0", f"  TTB0: {_HEX}"),
    ("MAIR", f"  MAIR: {_HEX}"),
    ("Domain", f"  Domain: {_DOMAIN}"),
    *_words("CD"),
)
_GRANULES = {"4K": 4096, "16K": 16384, "64K": 65536, "reserved": None}


def parse_ste(text: str) -> Ste:
    """Parse the file ``ste``. DumpSyntaxError (STE-2) at the first wrong line."""
    lines = _lines("ste", "STE-2", text)
    values = _block("ste", "STE-2", STE_LINES, lines, 0)
    if len(lines) > len(STE_LINES):
        number = len(STE_LINES) + 1
        raise DumpSyntaxError("STE-2", "ste", number, lines[number - 1], "unexpected line")
    sid, valid, config, context, s2ttb, domain, *raw = values
    words = tuple(int(word, 16) for word in raw)
    return Ste(
        sid=int(sid),
        valid=valid == "Yes",
        config=config,
        s1_context_ptr=int(context, 16),
        s2ttb=int(s2ttb, 16),
        words=words,
        domain=_id(domain),
        without=_without(domain) or decode_ste(0, words).without,
    )


def parse_cd(text: str) -> tuple[Cd, ...]:
    """Parse the file ``cd``, which may be empty. DumpSyntaxError (STE-6) at the first wrong line."""
    lines = _lines("cd", "STE-6", text)
    found: list[Cd] = []
    for start in range(0, len(lines), len(CD_LINES)):
        values = _block("cd", "STE-6", CD_LINES, lines, start)
        sid, ssid, valid, asid, t0sz, tg0, ips, epd0, ttb0, mair, domain, *raw = values
        words = tuple(int(word, 16) for word in raw)
        if found and (int(sid) != found[-1].sid or int(ssid) <= found[-1].ssid):
            why = f"after SSID {found[-1].ssid} of stream {found[-1].sid}"
            raise DumpSyntaxError("STE-6", "cd", start + 1, lines[start], why)
        found.append(
            Cd(
                sid=int(sid),
                ssid=int(ssid),
                valid=valid == "Yes",
                asid=int(asid),
                t0sz=int(t0sz),
                tg0=_GRANULES[tg0],
                ips=int(ips),
                epd0=epd0 == "Yes",
                ttb0=int(ttb0, 16),
                mair=int(mair, 16),
                words=words,
                domain=_id(domain),
                without=_without(domain) or decode_cd(0, 0, words).without,
            )
        )
    return tuple(found)


def _id(text: str) -> int | None:
    return None if text.startswith("-") else int(text)


def _without(text: str) -> str:
    return text.removeprefix("- ") if text.startswith("- ") else ""


def _lines(file: str, rule: str, text: str) -> list[str]:
    lines = text.split("\n")
    last = lines.pop()
    if last:
        why = "the last line has no newline: the file is truncated"
        raise DumpSyntaxError(rule, file, len(lines) + 1, last, why)
    return lines


def _block(file: str, rule: str, grammar: Grammar, lines: Sequence[str], start: int) -> list[str]:
    """Return the values of the lines from ``start`` on: one per line except ``Raw Data``, or two if it has two."""
    values: list[str] = []
    for number, (name, pattern) in enumerate(grammar, start):
        line = lines[number] if number < len(lines) else ""
        match = re.fullmatch(pattern, line) if number < len(lines) else None
        if match is None:
            raise DumpSyntaxError(rule, file, number + 1, line, f"expected {name} here")
        values += match.groups()
    return values


def render_ste(ste: Ste) -> str:
    """Render the file ``ste`` for this entry."""
    return (
        f"STE for Stream ID {ste.sid}\n"
        f"  Valid: {_yes(ste.valid)}\n"
        f"  Config: {ste.config}\n"
        f"  S1ContextPtr: 0x{ste.s1_context_ptr:016x}\n"
        f"  S2TTB: 0x{ste.s2ttb:016x}\n"
        f"  Domain: {_domain(ste)}\n"
        f"{_raw('STE', ste.words)}"
    )


def render_cd(cds: Iterable[Cd]) -> str:
    """Render the file ``cd`` for these descriptors."""
    return "".join(
        f"CD for Stream ID {cd.sid} SSID {cd.ssid}\n"
        f"  Valid: {_yes(cd.valid)}\n"
        f"  ASID: {cd.asid}\n"
        f"  T0SZ: {cd.t0sz}\n"
        f"  TG0: {'reserved' if cd.tg0 is None else format_size(cd.tg0)}\n"
        f"  IPS: {cd.ips}\n"
        f"  EPD0: {_yes(cd.epd0)}\n"
        f"  TTB0: 0x{cd.ttb0:016x}\n"
        f"  MAIR: 0x{cd.mair:016x}\n"
        f"  Domain: {_domain(cd)}\n"
        f"{_raw('CD', cd.words)}"
        for cd in cds
    )


def _yes(value: bool) -> str:
    return "Yes" if value else "No"


def _domain(entry: Ste | Cd) -> str:
    return f"- {entry.without}" if entry.domain is None else str(entry.domain)


def _raw(name: str, words: Iterable[int]) -> str:
    return "  Raw Data:\n" + "".join(f"    {name}[{at}]: 0x{word:016x}\n" for at, word in enumerate(words))
