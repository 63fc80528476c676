# SPDX-License-Identifier: GPL-2.0-only
"""The target `printed`: accepts every command, and prints what a kernel once printed."""

from pytest_iommu import Evidence, Reply, Result, TargetKind
from pytest_iommu.guest.ops import Code

PRINTED = "00100000 -> 41000000 x 3 pages rw\n00200000 -> 41003000 x 1 pages r-\n"


class Printed:
    name = "printed"
    memory = None

    def start(self):
        self._status = ""
        return self

    def run(self, ops, timeout=10.0):
        return Reply(tuple(self._one(op) for op in ops))

    def _one(self, op):
        if op.code == Code.WRITE_FILE:
            lines = enumerate(op.data.decode().splitlines(), 1)
            self._status = "".join(
                f"{n} ok{' id=1' if 'domain' in line else ''}\n" for n, line in lines
            )
            return Result(len(op.data))
        files = {"iommu": "tables/\n", "status": self._status, "1": PRINTED}
        text = files.get(op.path.rpartition("/")[2])
        return Result(-2) if text is None else Result(len(text), text.encode())

    def pause(self):
        pass

    def close(self):
        pass

    def evidence(self):
        return Evidence()


def kind():
    return TargetKind(
        lambda *_: Printed(),
        needs_kernel=False,
        programs=False,
        live=False,
        takes_argument=False,
    )
