# SPDX-License-Identifier: GPL-2.0-only
"""The dialect of a kernel that has one file for each domain, tables/<id>. A line of it:

00100000 -> 41000000 x 3 pages rw
"""

import re

from pytest_iommu import Dump, DumpSyntaxError, Prot, Range

LINE = re.compile(r"([0-9a-f]{8}) -> ([0-9a-f]{8}) x ([0-9]+) pages (r-|-w|rw)")


class Flat:
    name = "flat"
    files = ("pages",)
    place = "tables/{domain}"  # below debugfs/iommu; {file} is not in it, as there is one file

    def probe(self, names):
        return "tables" in names  # of the directory debugfs/iommu, or of one domain

    def parse(self, texts):
        dump, errors = self.read(texts)
        if errors:
            raise errors[0]
        return dump

    def read(self, texts):
        ranges, errors = [], []
        for number, line in enumerate(texts["pages"].splitlines(), 1):
            match = LINE.fullmatch(line)
            if match is None:
                errors.append(
                    DumpSyntaxError("RNG-4", "pages", number, line, "no line of this dialect")
                )
                continue
            first, oa, size = int(match[1], 16), int(match[2], 16), int(match[3]) << 12
            prot = Prot(read="r" in match[4], write="w" in match[4])
            ranges.append(Range(first, first + size - 1, oa, 0, 4096, prot))
        # This kernel has no info, entries or stats: they stay None and are not compared.
        return Dump(ranges=tuple(ranges), texts=dict(texts)), errors
