# SPDX-License-Identifier: GPL-2.0-only
"""A guest without a kernel: it takes the test module's commands, keeps a model, and shows it, faulty if it is to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from buggy_kernel import Item, joins, line, no_fault, texts

from pytest_iommu.core.model import Prot, TableConfig, parse_size
from pytest_iommu.core.protocol import Evidence, Op, Reply, Result
from pytest_iommu.dialects import IO_PTDUMP, Dialect
from pytest_iommu.guest.ops import Code
from pytest_iommu.oracle import MappingError, TableModel
from pytest_iommu.oracle.lookups import answer

ENOENT = -2


class ModelGuest:
    """Its domains all have the configuration ``config``. ``fault`` and ``join`` are those of buggy_kernel.texts()."""

    name = "model"
    memory = None
    in_ram = None

    def __init__(
        self,
        config: TableConfig,
        fault: Callable[[list[Item]], list[Item]] = no_fault,
        join: Callable[[Item, int, Item], bool] = joins,
        show: Callable[[Item, int], str] = line,
    ) -> None:
        self.config = config
        self.batches = 0
        self.next_id = 17
        self._faults = fault, join, show
        self._models: dict[str, TableModel] = {}
        self._ids: dict[str, str] = {}
        self._status = ""
        self._texts: dict[str, dict[str, str]] = {}

    @property
    def dialect_or_none(self) -> Dialect:
        return IO_PTDUMP

    def run(self, batch: Sequence[Op], timeout: float = 10.0) -> Reply:
        self.batches += 1
        return Reply(tuple(self._one(op) for op in batch))

    def evidence(self) -> Evidence:
        return Evidence()

    def _one(self, op: Op) -> Result:
        if op.code == Code.WRITE_FILE:
            return self._commands(op.data.decode())
        if op.path.endswith("/status"):
            return Result(len(self._status), self._status.encode())
        name = self._ids.get(op.path.split("/")[-2])
        if name is None:
            return Result(ENOENT)
        if name not in self._texts:
            fault, join, show = self._faults
            self._texts[name] = texts(self._models[name].snapshot(), fault, join, show)
        data = self._texts[name][op.path.rpartition("/")[2]].encode()
        return Result(len(data), data)

    def _commands(self, script: str) -> Result:
        rows = []
        self._texts.clear()
        for number, text in enumerate(script.splitlines(), 1):
            try:
                rows.append(f"{number} ok{self._command(text.removeprefix('? ').split())}\n")
            except MappingError as error:
                rows.append(f"{number} error {error.errno} {error}\n")
                if not text.startswith("?"):
                    break
        self._status = "".join(rows)
        return Result(len(script))

    def _command(self, words: list[str]) -> str:
        options = dict(word.split("=") for word in words if "=" in word)
        word, *plain = [word for word in words if "=" not in word]
        if word == "reset":
            self._models.clear()
            self._ids.clear()
        elif word == "domain":
            self.next_id += 1
            self._models[plain[0]] = TableModel(self.config)
            self._ids[str(self.next_id)] = plain[0]
            return f" id={self.next_id}"
        elif word == "translate":
            ranges = self._models[plain[0]].snapshot().ranges
            return " pa=" + ",".join(f"{answer(ranges, int(iova, 0)):#x}" for iova in plain[1:])
        else:
            self._change(word, plain, {key: parse_size(value) for key, value in options.items()})
        return ""

    def _change(self, word: str, plain: list[str], options: dict[str, int]) -> None:
        model = self._models[plain[0]]
        addresses = [int(text, 0) for text in plain[1:] if re.fullmatch("0x[0-9a-f]+", text)]
        iova, size = addresses[0], addresses[-1]
        for index in range(options.get("count", 1)):
            at = iova + index * options.get("istep", size)
            if word == "map":
                pa = addresses[1] + index * options.get("pstep", size)
                model.map(at, pa, size, Prot.from_letters(plain[-1]), options.get("leaf"))
            else:
                model.unmap(at, size, options.get("leaf"))
