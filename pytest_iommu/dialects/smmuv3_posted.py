# SPDX-License-Identifier: GPL-2.0-only
"""The SMMUv3 debugfs series, as posted: files of a stream as in abi.md, but without the Domain lines.

May 2026:    arm_smmu_v3/<iommu>/stream_table/<sid>/{ste,cd}
March 2026:  arm_smmu_v3/<iommu>/stream_table/<bdf>:<sid>/{ste,context_descriptors/all}, the RFC

They print an address only where they take Config to use it. The RFC calls S2TTB S2ContextPtr.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_iommu.core.model import Cd
from pytest_iommu.core.printed import Stream
from pytest_iommu.dialects.carried import carried, fault
from pytest_iommu.dialects.smmuv3_debugfs import CD_LINES, STE_LINES, parse_cd, parse_ste
from pytest_iommu.dialects.text_dialect import Found, LiveFiles, LiveKernel, TextDialect

STE_RULE, CD_RULE = "STE-2", "STE-6"
#: the address lines, and the values of Config that use the address
ADDRESSES = {"S1ContextPtr": ("only S1_TRANS", "S1+S2_TRANS"), "S2TTB": ("only S2_TRANS", "S1+S2_TRANS")}
#: what the driver prints instead of an entry, as the file's content
ERRORS = re.compile(
    r"Invalid Stream ID: [0-9]+ \(max [0-9]+\)|STE not available for SID [0-9]+|No SMMU master data"
    "|No streams configured for device"
)
#: the directory of a stream, where the file was read from debugfs or saved with its directories
_PLACE = re.compile(r"(?:^|/)stream_table/(?:[^/]*:)?([0-9]{1,10})/")
SID_BITS, SSID_BITS = 32, 20
_DOMAIN = re.compile(r"  Domain: ")
_STE, _CD = (tuple((name, re.compile(pattern)) for name, pattern in lines) for lines in (STE_LINES, CD_LINES))
_NAME_OF_S2TTB = re.compile(r"  S2ContextPtr: ")
_CONFIG = "  Config: "
_HEXES = "0x0000000000000000"


class Smmuv3Posted(TextDialect):
    """The layout of May 2026."""

    name = "smmuv3_2026_05"
    about = "the SMMUv3 debugfs series as posted in May 2026"
    place = "arm_smmu_v3/{domain}/{file}"
    files: tuple[str, ...] = ("ste", "cd")
    heading = re.compile(rf"(?:STE|CD) for Stream ID |{ERRORS.pattern}")
    rules = ("STE-2", "STE-6")
    options: tuple[str, ...] = ("ARM_SMMU_V3_DEBUGFS",)
    stream = re.compile(r"[0-9]{1,10}")

    def live(self, kernel: LiveKernel) -> Sequence[LiveFiles]:
        """The files of every stream. The reference has the same directories, with its own dump beside them."""
        if "domains" in kernel.names("iommu"):
            return []
        paths = {path: f"iommu/arm_smmu_v3/{path}" for path in self._paths(kernel)}
        return [LiveFiles(paths)] if paths else []

    def _paths(self, kernel: LiveKernel) -> Iterator[str]:
        for smmu in sorted(kernel.names("iommu/arm_smmu_v3")):
            top = f"{smmu}/stream_table"
            for stream in sorted(filter(self.stream.fullmatch, kernel.names(f"iommu/arm_smmu_v3/{top}"))):
                for file in self.files:
                    folder, _, base = file.rpartition("/")
                    where = f"{top}/{stream}/{folder}".rstrip("/")
                    if base in kernel.names(f"iommu/arm_smmu_v3/{where}"):
                        yield f"{where}/{base}"

    def claims(self, text: str) -> bool:
        """A text with a Domain line is that of the reference."""
        return "\n  Domain: " not in text and super().claims(text)

    def file(self, name: str, text: str, found: Found) -> None:
        base = name.rpartition("/")[2]
        if not text and base in ("cd", "all"):
            return  # a stream without a table of context descriptors
        rule = CD_RULE if base in ("cd", "all") else STE_RULE
        lines = carried(rule, name, text)
        place = _PLACE.search(name)
        sid = None if place is None else int(place[1])
        at, before = 0, None
        while at < len(lines):
            if not lines[at].strip():
                at += 1
                continue
            stream, end = self._block(name, lines, at)
            here = lines[at].split()
            if sid not in (None, stream.entry.sid):
                raise fault(rule, name, at + 1, lines[at], f"not of stream {sid}, whose directory the file is in")
            if before is not None and (here[:5] != before[:5] or here[0] == "STE" or _ssid(here) <= _ssid(before)):
                raise fault(CD_RULE, name, at + 1, lines[at], f"out of order after `{' '.join(before)}`")
            found.streams.append(stream)
            before, at = here, end

    def _block(self, name: str, lines: list[str], start: int) -> tuple[Stream, int]:
        """Read the block of lines that begins at index ``start``; returns it and where it ends."""
        if ERRORS.fullmatch(lines[start]):
            raise fault(STE_RULE, name, start + 1, lines[start], "an error sentence instead of an entry")
        ste = not lines[start].startswith("CD ")
        rule, grammar = (STE_RULE, _STE) if ste else (CD_RULE, _CD)
        shown: dict[str, int] = {}
        complete: list[str] = []
        at, config = start, ""
        for field, pattern in grammar:
            line = lines[at] if at < len(lines) else ""
            if field == "Domain":
                if _DOMAIN.match(line):
                    raise fault(rule, name, at + 1, line, "a Domain line, which the posted series does not print")
                complete.append("  Domain: -")
                continue
            if field == "S2TTB":
                line = _NAME_OF_S2TTB.sub("  S2TTB: ", line)
            if pattern.fullmatch(line):
                shown[field] = at + 1
                complete.append(line)
                at += 1
                if field == "Config":
                    config = line.removeprefix(_CONFIG)
            elif field in ADDRESSES and config not in ADDRESSES[field]:
                complete.append(f"  {field}: {_HEXES}")
            else:
                raise fault(rule, name, at + 1, line, f"expected {field} here")
        text = "".join(f"{line}\n" for line in complete)
        entry = parse_ste(text) if ste else parse_cd(text)[0]
        if entry.sid >> SID_BITS or (isinstance(entry, Cd) and entry.ssid >> SSID_BITS):
            why = f"a stream ID has {SID_BITS} bits, a substream ID {SSID_BITS}"
            raise fault(rule, name, start + 1, lines[start], why)
        return Stream(name, start + 1, entry, shown), at


class Smmuv3Rfc(Smmuv3Posted):
    """The layout of March 2026."""

    name = "smmuv3_2026_03"
    about = "the SMMUv3 debugfs RFC of March 2026"
    files = ("ste", "context_descriptors/all")
    stream = re.compile(r"[!-.0-~]{1,64}:[0-9]{1,10}")


def _ssid(words: list[str]) -> int:
    """The substream id of the heading ``CD for Stream ID N SSID M``."""
    return int(words[6])


SMMUV3_POSTED, SMMUV3_RFC = Smmuv3Posted(), Smmuv3Rfc()
