# SPDX-License-Identifier: GPL-2.0-only
"""The board, without a kernel: it keeps a model of the mappings and prints the model's dump.

With the argument `read-only` it loses the write permission. A real board would perform each
operation: read the file, write the file, list the directory.
"""

import json
import sys
from base64 import b64decode, b64encode

from pytest_iommu import Prot, formats
from pytest_iommu.dialects.io_ptdump import render
from pytest_iommu.guest.ops import Code
from pytest_iommu.oracle import TableModel

tables, status = {}, ""


def command(line):
    """One command of the test module (kmod/iommu_ptdump_test/README) -> what follows `ok`."""
    word, *rest = line.split()
    if word == "reset":
        tables.clear()
    elif word == "domain":
        tables[rest[0]] = TableModel(formats.configure("amdv1"))
        return f" id={len(tables)}"
    elif word == "map":
        name, iova, oa, size, prot = rest
        letters = prot.replace("w", "") if "read-only" in sys.argv else prot
        tables[name].map(int(iova, 0), int(oa, 0), int(size, 0), Prot.from_letters(letters))
    return ""


def answer(code, path, data):
    """The system call's value, and what was read."""
    global status
    if code == Code.LIST:
        text = "domains/\n"
    elif code == Code.WRITE_FILE:
        lines = enumerate(data.decode().splitlines(), 1)
        status = "".join(f"{number} ok{command(line)}\n" for number, line in lines)
        return len(data), ""
    elif path.endswith("/status"):
        text = status
    elif "/iommu/domains/" in path:
        number, file = path.split("/")[-2:]
        text = render(list(tables.values())[int(number) - 1].snapshot().dump())[file]
    else:
        return -2, ""  # ENOENT
    return len(text), text


for batch in sys.stdin:
    results = [
        answer(code, path, b64decode(data)) for code, _, _, path, data in json.loads(batch)
    ]
    print(
        json.dumps([[value, b64encode(text.encode()).decode()] for value, text in results]),
        flush=True,
    )
