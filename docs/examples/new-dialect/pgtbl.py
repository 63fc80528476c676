# SPDX-License-Identifier: GPL-2.0-only
"""An out-of-tree `pgtbl` file of AMD's IOMMU: tables (PDE) indented by depth, then leaves.

Device 0000:01:00.0 mode 3 root 0x114d7b000
PDE 0x0000000000000000 0x6000000114d7c401
  PDE 0x0000000000000000 0x6000000114d7d201
    PTE 0x0000000000001000 0x7000000041001001
"""

import re

from pytest_iommu import formats
from pytest_iommu.core.printed import Row, Table
from pytest_iommu.dialects import LiveFiles, TextDialect
from pytest_iommu.dialects.carried import carried, fault

RULE = "ENT-1"  # of docs/abi.md: entries are shown as in memory
DEVICE = re.compile(r"Device (\S{1,32}) mode ([2-6]) root 0x([0-9a-f]{1,16})")
ENTRY = re.compile(r"( *)(PDE|PTE) 0x([0-9a-f]{16}) 0x([0-9a-f]{16})")
AMD = formats.get("amdv1")


class Pgtbl(TextDialect):
    name = "pgtbl"
    about = "AMD's out-of-tree pgtbl"
    heading = DEVICE
    rules = ("ENT-1", "RNG-1", "RNG-2", "RNG-4", "LVL-2", "PRT-1")

    def live(self, kernel):
        if "pgtbl" not in kernel.names("iommu/amd"):
            return []
        return [LiveFiles({"pgtbl": "iommu/amd/pgtbl"})]

    def file(self, name, text, found):
        lines = carried(RULE, name, text)
        device = DEVICE.fullmatch(lines[0])
        if device is None:
            raise fault(RULE, name, 1, lines[0], "expected `Device NAME mode N root 0x...`")
        levels, config = int(device[2]), formats.configure("amdv1", levels=int(device[2]))
        rows, path = [], []
        for number, line in enumerate(lines[1:], 2):
            entry = ENTRY.fullmatch(line)
            if entry is None:
                raise fault(RULE, name, number, line, "not `PDE|PTE 0xIOVA 0xITEM`")
            depth, iova, item = len(entry[1]) // 2, int(entry[3], 16), int(entry[4], 16)
            if len(entry[1]) % 2 or depth > len(path) or depth >= levels:
                raise fault(RULE, name, number, line, "indented deeper than the table above it")
            del path[depth:]
            level = levels - 1 - depth
            decoded = AMD.decode(config, level, item)
            kind = {"PDE": "table", "PTE": "leaf"}[entry[2]]
            if decoded is None or decoded.kind.value != kind:
                raise fault(RULE, name, number, line, f"the item is no {kind} of level {level}")
            path.append(item)
            if kind == "table":
                continue
            prot, size = decoded.prot, decoded.size
            row = Row(
                number,
                iova,
                iova + size - 1,
                decoded.oa,
                level,
                size,
                prot,
                "rwc",
                raw=tuple(path),
            )
            rows.append(row)
            path.pop()
        found.tables.append(
            Table(
                name, 1, device[1], tuple(rows), "amdv1", top=int(device[3], 16), levels=levels
            )
        )


DIALECT = Pgtbl()
