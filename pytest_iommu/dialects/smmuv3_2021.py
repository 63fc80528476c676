# SPDX-License-Identifier: GPL-2.0-only
"""The SMMUv3 debugfs of January 2021, which some vendors' kernels carry: raw words, and one row a translation.

smmuv3/{pci_dev,pasid}                 write a BDF and a number there first
smmuv3/{ste,cd,pt_dump_s1,pt_dump_s2}  then read these
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set

from pytest_iommu.core.printed import Row, Stream, Table
from pytest_iommu.dialects.carried import LEFT_OUT, carried, device_of, fault
from pytest_iommu.dialects.text_dialect import Found, LiveFiles, LiveKernel, TextDialect
from pytest_iommu.formats import smmuv3

STE_RULE, CD_RULE, ROW_RULE = "STE-2", "STE-6", "RNG-4"
_NAME = r"([!-+\--~]{1,64})"
_DEVICE = re.compile(rf"SMMUv3 (?:STE values|CD values|dump page table) for device:? {_NAME}")
_STE = re.compile(rf"SMMUv3 STE values for device: {_NAME}")
_CD = re.compile(rf"SMMUv3 CD values for device: {_NAME}, ssid: 0x([0-9a-f]{{1,5}})")
_TABLE = re.compile(rf"SMMUv3 dump page table for device {_NAME}, stage ([12])(?:, ssid 0x([0-9a-f]{{1,5}}))?:")
_WORD = re.compile(r"0x([0-9a-f]{16})")
_ROW = re.compile(r"va: ([0-9a-f]{1,16}) -> pa: ([0-9a-f]{1,16})")
NO_SID = -1
"""The stream id of an entry: the text has only the device's name."""


class Smmuv32021(TextDialect):
    """All four files are told apart by their headings."""

    name = "smmuv3_2021"
    about = "the SMMUv3 debugfs RFC of January 2021"
    place = "smmuv3/{file}"
    files = ("ste", "cd", "pt_dump_s1", "pt_dump_s2")
    heading = _DEVICE

    rules = ("STE-2", "STE-6", "RNG-1", "RNG-2", "RNG-4")
    options = ("ARM_SMMU_V3_DEBUGFS",)

    def live(self, kernel: LiveKernel) -> Sequence[LiveFiles]:
        """One dump for each device: its name is written first. What it has no file for cannot be read."""
        if not self.probe(kernel.names("iommu/smmuv3")):
            return []
        there = "iommu/smmuv3"
        return [
            LiveFiles(
                {f"{device}/{file}": f"{there}/{file}" for file in self.files},
                ((f"{there}/pci_dev", device), (f"{there}/pasid", "0")),
                optional=True,
            )
            for device in kernel.devices()
        ]

    def probe(self, names: Set[str]) -> bool:
        """True for its directory, or debugfs/iommu: `ste` and `cd` alone are also those of others."""
        return "pt_dump_s1" in names or "smmuv3" in names

    def file(self, name: str, text: str, found: Found) -> None:
        lines = carried(STE_RULE, name, text)
        place = device_of(name)  # what was written to pci_dev before it was read
        at = 0
        while at < len(lines):
            line = lines[at]
            heading = _DEVICE.match(line)
            if place is not None and heading is not None and heading[1] != place:
                raise fault(STE_RULE, name, at + 1, line, f"not of {place}, which was asked for")
            if not line:
                at += 1
            elif (ste := _STE.fullmatch(line)) is not None:
                words, end = _words(STE_RULE, name, lines, at + 1)
                shown = {f"STE[{word}]": at + 2 + word for word in range(smmuv3.WORDS)}
                found.streams.append(Stream(name, at + 1, smmuv3.decode_ste(NO_SID, words), shown, ste[1]))
                at = end
            elif (cd := _CD.fullmatch(line)) is not None:
                words, end = _words(CD_RULE, name, lines, at + 1)
                shown = {f"CD[{word}]": at + 2 + word for word in range(smmuv3.WORDS)}
                entry = smmuv3.decode_cd(NO_SID, int(cd[2], 16), words)
                found.streams.append(Stream(name, at + 1, entry, shown, cd[1]))
                at = end
            elif (table := _TABLE.fullmatch(line)) is not None:
                at = _table(name, lines, at, table, found)
            else:
                raise fault(STE_RULE, name, at + 1, line, "expected a heading `SMMUv3 ... for device ...`")


def _words(rule: str, name: str, lines: list[str], at: int) -> tuple[tuple[int, ...], int]:
    found: list[int] = []
    for index in range(at, at + smmuv3.WORDS):
        line = lines[index] if index < len(lines) else ""
        match = _WORD.fullmatch(line)
        if match is None:
            raise fault(rule, name, index + 1, line, f"expected word {index - at} of {smmuv3.WORDS}, 0x and 16 digits")
        found.append(int(match[1], 16))
    return tuple(found), at + smmuv3.WORDS


def _table(name: str, lines: list[str], at: int, heading: re.Match[str], found: Found) -> int:
    rows: list[Row] = []
    whole, match_row = True, _ROW.fullmatch
    begun = at + 1
    for at in range(begun, len(lines) + 1):
        line = lines[at] if at < len(lines) else "SMMUv3 "
        match = match_row(line)
        if match is not None:
            first = int(match[1], 16)
            rows.append(Row(at + 1, first, first, int(match[2], 16)))
        elif line == LEFT_OUT:
            whole = False
        elif line.startswith("SMMUv3 "):
            break
        elif line:
            raise fault(ROW_RULE, name, at + 1, line, "not a row `va: VA -> pa: PA`")
    found.tables.append(
        Table(
            file=name,
            line=begun,
            name=heading[1],
            rows=tuple(rows),
            format=f"arm_64_lpae_s{heading[2]}",
            pasid=None if heading[3] is None else int(heading[3], 16),
            stage=int(heading[2]),
            whole=whole,
            points=True,
        )
    )
    return at


SMMUV3_2021 = Smmuv32021()
