# SPDX-License-Identifier: GPL-2.0-only
"""The SMMUv3 debugfs series, as posted: files of a stream as in abi.md, but without the Domain lines.

May 2026:    arm_smmu_v3/<iommu>/stream_table/<sid>/{ste,cd}
March 2026:  arm_smmu_v3/<iommu>/stream_table/<bdf>:<sid>/{ste,context_descriptors/all}, the RFC

The RFC prints an address only where it takes Config to have one, so both address lines may be absent there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_iommu.core.printed import Stream
from pytest_iommu.dialects.carried import carried, fault
from pytest_iommu.dialects.smmuv3_debugfs import CD_LINES, STE_LINES, parse_cd, parse_ste
from pytest_iommu.dialects.text_dialect import Found, LiveFiles, LiveKernel, TextDialect

STE_RULE, CD_RULE = "STE-2", "STE-6"
ADDRESSES = ("S1ContextPtr", "S2TTB")
#: what the driver prints instead of an entry, as the file's content
ERRORS = re.compile(r"Invalid Stream ID: [0-9]+ \(max [0-9]+\)|STE not available for SID [0-9]+|No SMMU master data")
_DOMAIN = re.compile(r"  Domain: ")
_STE, _CD = (tuple((name, re.compile(pattern)) for name, pattern in lines) for lines in (STE_LINES, CD_LINES))
_HEXES = "0x0000000000000000"


class Smmuv3Posted(TextDialect):
    """``optional`` names the lines that may be absent."""

    name = "smmuv3_2026_05"
    about = "the SMMUv3 debugfs series as posted in May 2026"
    place = "arm_smmu_v3/{domain}/{file}"
    files: tuple[str, ...] = ("ste", "cd")
    heading = re.compile(rf"(?:STE|CD) for Stream ID |{ERRORS.pattern}")
    optional: tuple[str, ...] = ()
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
        at, before = 0, None
        while at < len(lines):
            if not lines[at].strip():
                at += 1
                continue
            stream, end = self._block(name, lines, at)
            here = lines[at].split()
            if before is not None and (here[0] != before[0] or here[0] == "STE" or _ids(here) <= _ids(before)):
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
        at = start
        for field, pattern in grammar:
            line = lines[at] if at < len(lines) else ""
            if field == "Domain":
                if _DOMAIN.match(line):
                    raise fault(rule, name, at + 1, line, "a Domain line, which the posted series does not print")
                complete.append("  Domain: -")
                continue
            if pattern.fullmatch(line):
                shown[field] = at + 1
                complete.append(line)
                at += 1
            elif ste and field in self.optional and line.startswith("  "):
                complete.append(f"  {field}: {_HEXES}")
            else:
                raise fault(rule, name, at + 1, line, f"expected {field} here")
        text = "".join(f"{line}\n" for line in complete)
        entry = parse_ste(text) if ste else parse_cd(text)[0]
        return Stream(name, start + 1, entry, shown), at


class Smmuv3Rfc(Smmuv3Posted):
    """The layout of March 2026."""

    name = "smmuv3_2026_03"
    about = "the SMMUv3 debugfs RFC of March 2026"
    files = ("ste", "context_descriptors/all")
    optional = ADDRESSES
    stream = re.compile(r"[!-.0-~]{1,64}:[0-9]{1,10}")


def _ids(words: list[str]) -> tuple[int, int]:
    """Stream and substream id of the heading ``CD for Stream ID N SSID M``."""
    return int(words[4]), int(words[6]) if len(words) > 6 else -1


SMMUV3_POSTED, SMMUV3_RFC = Smmuv3Posted(), Smmuv3Rfc()
