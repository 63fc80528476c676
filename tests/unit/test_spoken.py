# SPDX-License-Identifier: GPL-2.0-only
"""Which dialects a kernel that runs speaks: found by its directories, read file by file, and judged."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from synthetic_memory import SyntheticMemory

from pytest_iommu.check import spoken
from pytest_iommu.check.spoken import GROUPS, ROOT
from pytest_iommu.check.witnesses import other_dumps
from pytest_iommu.compare.printed_rules import NO_DOMAINS, unsaid
from pytest_iommu.core.outcomes import CheckFailed, SetupError
from pytest_iommu.core.protocol import Op, Reply, Result
from pytest_iommu.dialects import LIVE_TEXTS, TextDialect
from pytest_iommu.guest.ops import Code

CORPUS = Path(__file__).parents[1] / "data" / "dialects"
DIALECTS = {one.name: one for one in LIVE_TEXTS}
DEVICE = "0000:00:02.0"


@dataclass
class Files:
    """A guest that is nothing but files: path -> text, or what gives it when it is read."""

    files: Mapping[str, str | Callable[[Files], str]]
    written: list[tuple[str, str]] = field(default_factory=list)
    memory: object = None
    in_ram: object = None

    def run(self, batch: Sequence[Op]) -> Reply:
        return Reply(tuple(self._one(op) for op in batch))

    def send(self, batch: Sequence[Op]) -> Sequence[Result]:
        return self.run(batch).results

    def _one(self, op: Op) -> Result:
        if op.code == Code.LIST:
            return self._listed(f"{op.path}/")
        if op.path not in self.files:
            return Result(-errno.ENOENT)
        if op.code == Code.WRITE_FILE:
            self.written.append((op.path, op.data.decode()))
            return Result(len(op.data))
        found = self.files[op.path]
        text = found if isinstance(found, str) else found(self)
        return Result(-errno.EINVAL) if text == "EINVAL" else Result(len(text), text.encode())

    def _listed(self, folder: str) -> Result:
        below = [path.removeprefix(folder) for path in self.files if path.startswith(folder)]
        names = {name.partition("/")[0] + "/" * ("/" in name) for name in below}
        return Result(len(names), "".join(f"{name}\n" for name in sorted(names)).encode()) if names else Result(-2)


def good(dialect: str, name: str) -> str:
    return (CORPUS / dialect / "good" / name).read_text()


def table_of(entry_of: str, pasid: str) -> str:
    return good("vtd", "plain").replace("0000:00:14.0 with pasid 0 @0x15f3d9000", f"{entry_of}{pasid} @0x105a87000")


def of_one_device(file: str) -> Callable[[Files], str]:
    """A file of 2021: it answers for the device that was written last, if that has a table of stage 1."""

    def read(guest: Files) -> str:
        (device,) = [text for path, text in guest.written if path.endswith("pci_dev")][-1:]
        if device != DEVICE:
            return "EINVAL"
        return good("smmuv3_2021", file)

    return read


STREAM = f"{ROOT}/iommu/arm_smmu_v3/smmu3.0x0000000009050000/stream_table"
KERNELS: dict[str, dict[str, str | Callable[[Files], str]]] = {
    "io_page_tables": {f"{ROOT}/io_page_tables": good("io_page_tables", "plain")},
    "vtd": {
        f"{ROOT}/iommu/intel/dmar_translation_struct": good("vtd", "contexts"),
        f"{ROOT}/iommu/intel/iommu_regset": "",
        f"{ROOT}/iommu/intel/0000:00:02.0/1/domain_translation_struct": table_of("0000:00:02.0", " with pasid 1"),
        f"{ROOT}/iommu/intel/0000:00:14.0/domain_translation_struct": good("vtd", "without-pasid"),
    },
    "smmuv3_2026_05": {
        f"{STREAM}/8/ste": good("smmuv3_2026_05", "ste-stage-1"),
        f"{STREAM}/8/cd": good("smmuv3_2026_05", "cd-two"),
    },
    "smmuv3_2026_03": {
        f"{STREAM}/0000:00:01.0:8/ste": good("smmuv3_2026_03", "ste-stage-1"),
        f"{STREAM}/0000:00:01.0:8/context_descriptors/all": good("smmuv3_2026_05", "cd-two"),
    },
    "smmuv3_2021": {
        **{f"{ROOT}/iommu/smmuv3/{name}": "" for name in ("pci_dev", "pasid")},
        **{f"{ROOT}/iommu/smmuv3/{name}": of_one_device(name) for name in ("ste", "cd", "pt_dump_s1")},
        f"{ROOT}/iommu/smmuv3/pt_dump_s2": "EINVAL",
        f"{GROUPS}/0/devices/0000:00:01.0": "",
        f"{GROUPS}/1/devices/{DEVICE}": "",
    },
}


def judged(guest: Files, dialect: TextDialect) -> other_dumps.Printed:
    return other_dumps.judge(cast(Any, guest), dialect)


def test_there_is_a_kernel_of_each() -> None:
    assert set(KERNELS) == set(DIALECTS)


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_speaks_the_dialect_whose_files_it_has(name: str) -> None:
    guest = Files(KERNELS[name])
    assert [one.name for one in spoken.spoken(guest.send, LIVE_TEXTS)] == [name]
    printed = judged(guest, DIALECTS[name])
    assert any(dump.tables or dump.streams or dump.contexts for dump in printed.dumps)


def test_a_kernel_without_any() -> None:
    guest = Files({f"{ROOT}/iommu/domains/1/info": ""})
    assert spoken.spoken(guest.send, LIVE_TEXTS) == ()


def test_the_streams_of_the_reference_are_not_the_posted_ones() -> None:
    guest = Files({**KERNELS["smmuv3_2026_05"], f"{ROOT}/iommu/domains/1/info": ""})
    assert spoken.spoken(guest.send, LIVE_TEXTS) == ()


def test_a_kernel_that_speaks_several() -> None:
    guest = Files({**KERNELS["vtd"], **KERNELS["io_page_tables"], f"{ROOT}/iommu/domains/1/info": ""})
    assert {one.name for one in spoken.spoken(guest.send, LIVE_TEXTS)} == {"vtd", "io_page_tables"}


def test_the_posted_streams_do_not_name_their_domains() -> None:
    for name in ("smmuv3_2026_05", "smmuv3_2026_03"):
        assert [unsaid(dump) for dump in judged(Files(KERNELS[name]), DIALECTS[name]).dumps] == [[NO_DOMAINS]]


def test_vtds_files_are_one_dump() -> None:
    """So that the top of each table is compared with the entry of its device."""
    files = dict(KERNELS["vtd"])
    assert [sorted(texts) for texts in spoken.read(Files(files).send, DIALECTS["vtd"])] == [
        [
            "0000:00:02.0/1/domain_translation_struct",
            "0000:00:14.0/domain_translation_struct",
            "dmar_translation_struct",
        ]
    ]
    path = f"{ROOT}/iommu/intel/0000:00:02.0/1/domain_translation_struct"
    files[path] = str(files[path]).replace("@0x105a87000", "@0x105a88000")
    with pytest.raises(CheckFailed, match="0000:00:02.0/1/domain_translation_struct:1: INF-3") as failed:
        judged(Files(files), DIALECTS["vtd"])
    assert failed.value.rules == ("INF-3",)
    assert set(failed.value.files) >= {"dmar_translation_struct.txt"}


def test_the_files_of_2021_are_written_first_and_each_device_has_its_dump() -> None:
    guest = Files(KERNELS["smmuv3_2021"])
    texts = spoken.read(guest.send, DIALECTS["smmuv3_2021"])
    assert guest.written == [
        *((f"{ROOT}/iommu/smmuv3/pci_dev", "0000:00:01.0"), (f"{ROOT}/iommu/smmuv3/pasid", "0")),
        *((f"{ROOT}/iommu/smmuv3/pci_dev", DEVICE), (f"{ROOT}/iommu/smmuv3/pasid", "0")),
    ]
    assert [sorted(one) for one in texts] == [[], [f"{DEVICE}/{file}" for file in ("cd", "pt_dump_s1", "ste")]]


@pytest.mark.parametrize(
    ("name", "old", "new", "rule"),
    [
        ("smmuv3_2026_05", f"{STREAM}/8/ste", f"{STREAM}/9/ste", "STE-2"),
        ("smmuv3_2026_05", f"{STREAM}/8/cd", f"{STREAM}/9/cd", "STE-6"),
        ("smmuv3_2026_03", f"{STREAM}/0000:00:01.0:8/ste", f"{STREAM}/0000:00:01.0:9/ste", "STE-2"),
        ("vtd", f"{ROOT}/iommu/intel/0000:00:14.0", f"{ROOT}/iommu/intel/0000:00:15.0", "ENT-1"),
        ("vtd", f"{ROOT}/iommu/intel/0000:00:02.0/1", f"{ROOT}/iommu/intel/0000:00:03.0/1", "ENT-1"),
        ("smmuv3_2021", f"{GROUPS}/1/devices/{DEVICE}", f"{GROUPS}/1/devices/0000:00:03.0", "STE-2"),
    ],
)
def test_a_file_in_the_directory_of_another_is_wrong(name: str, old: str, new: str, rule: str) -> None:
    files = {path.replace(old, new): text for path, text in KERNELS[name].items()}
    assert files.keys() != KERNELS[name].keys()
    if name == "smmuv3_2021":  # it answers for one device, whatever was written
        files.update({f"{ROOT}/iommu/smmuv3/{file}": good(name, file) for file in ("ste", "cd", "pt_dump_s1")})
    with pytest.raises(CheckFailed, match="not of ") as failed:
        judged(Files(files), DIALECTS[name])
    assert failed.value.rules == (rule,)


def test_a_file_that_cannot_be_read_is_a_failure() -> None:
    guest = Files({**KERNELS["vtd"], f"{ROOT}/iommu/intel/dmar_translation_struct": "EINVAL"})
    with pytest.raises(CheckFailed, match="intel/dmar_translation_struct: EINVAL"):
        spoken.read(guest.send, DIALECTS["vtd"])


def test_an_error_sentence_and_a_broken_rule_are_failures() -> None:
    path, text = f"{ROOT}/io_page_tables", good("io_page_tables", "plain")
    first = next(line for line in text.splitlines() if " lvl " in line)
    for bad, rule in (
        (text.replace(first, "IOVA INFO DUMP FAIL..."), "RNG-2"),
        (text.replace("-- domain 1 --", "-- domain 00000000a1b2c3d4 --"), "V1-4"),
    ):
        assert bad != text
        with pytest.raises(CheckFailed) as failed:
            judged(Files({path: bad}), DIALECTS["io_page_tables"])
        assert failed.value.rules == (rule,)


def test_what_changes_with_every_read_is_no_verdict() -> None:
    count = iter(range(1, 1000))
    text = good("io_page_tables", "plain")
    guest = Files({f"{ROOT}/io_page_tables": lambda _: text.replace("-- domain 1 --", f"-- domain {next(count)} --")})
    with pytest.raises(SetupError, match="another each time"):
        judged(guest, DIALECTS["io_page_tables"])


def test_a_table_is_compared_with_memory_where_the_text_says_where_it_is() -> None:
    """VT-d's top is nowhere in a memory of zeros: whatever is shown is not mapped."""
    guest = Files(KERNELS["vtd"], memory=SyntheticMemory())
    with pytest.raises(CheckFailed, match="not in memory") as failed:
        judged(guest, DIALECTS["vtd"])
    assert failed.value.rules == ("INF-3",)
