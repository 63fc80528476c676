# SPDX-License-Identifier: GPL-2.0-only
"""Raw items written out by hand from the specifications, encoded and decoded."""

from __future__ import annotations

import pytest

from pytest_iommu import formats
from pytest_iommu.core.model import Kind, Prot, TableConfig
from pytest_iommu.formats import ConfigError, configure, get

S1 = configure("arm_64_lpae_s1", ias=48, oas=44)
S1_HD = configure("arm_64_lpae_s1", ias=48, oas=44, options=["hd"])
S1_NS = configure("arm_64_lpae_s1", options=["ns"])
S1_64K = configure("arm_64_lpae_s1", granule=65536, ias=52, oas=52)
S2 = configure("arm_64_lpae_s2", ias=44, oas=44)
S2_FWB = configure("arm_64_lpae_s2", ias=44, oas=44, options=["fwb"])
AMD = configure("amdv1")
VTD = configure("vtdss")
VTD_SNOOP = configure("vtdss", options=["force_coherence"])
X86 = configure("x86_64")
RISCV = configure("riscv_64", options=["svnapot", "svpbmt"])

#: configuration, level, size, OA, request | raw, prot, flags, volatile
LEAVES = [
    (S1, 0, 1 << 12, 0x41000000, "rwc", 0x0060000041000F47, "rw-c--", "SH_IS nG ATTR1 PXN UXN", "AF"),
    (S1, 0, 1 << 12, 0x41000000, "rwxc", 0x0000000041000F47, "rwxc--", "SH_IS nG ATTR1", "AF"),
    (S1, 0, 1 << 12, 0x41000000, "rxc", 0x0000000041000FC7, "r-xc--", "SH_IS nG ATTR1", "AF"),
    (S1, 0, 1 << 12, 0x41000000, "w", 0x0060000041000E43, "rw----", "SH_OS nG ATTR0 PXN UXN", "AF"),
    (S1, 0, 1 << 12, 0x41000000, "rwm", 0x0060000041000E4B, "rw--m-", "SH_OS nG ATTR2 PXN UXN", "AF"),
    (S1, 0, 1 << 12, 0x41000000, "rwmc", 0x0060000041000F4B, "rw--m-", "SH_IS nG ATTR2 PXN UXN", "AF"),
    (S1, 0, 1 << 12, 0x41000000, "rwcp", 0x0060000041000F07, "rw-c-p", "SH_IS nG ATTR1 PXN UXN", "AF"),
    (S1, 1, 1 << 21, 0x42200000, "rwc", 0x0060000042200F45, "rw-c--", "SH_IS nG ATTR1 PXN UXN", "AF"),
    (S1, 2, 1 << 30, 0x80000000, "r", 0x0060000080000EC1, "r-----", "SH_OS nG ATTR0 PXN UXN", "AF"),
    (S1_HD, 0, 1 << 12, 0x41000000, "rwc", 0x0068000041000F47, "rw-c--", "SH_IS nG ATTR1 PXN UXN", "AF DBM"),
    (S1_HD, 0, 1 << 12, 0x41000000, "rc", 0x0060000041000FC7, "r--c--", "SH_IS nG ATTR1 PXN UXN", "AF"),
    (S1_NS, 0, 1 << 12, 0x41000000, "rwc", 0x0060000041000F67, "rw-c--", "SH_IS NS nG ATTR1 PXN UXN", "AF"),
    (S1_64K, 0, 1 << 16, 0xF000012340000, "rwc", 0x006000001234FF47, "rw-c--", "SH_IS nG ATTR1 PXN UXN", "AF"),
    (S1_64K, 1, 1 << 29, 0x5000060000000, "rwc", 0x0060000060005F45, "rw-c--", "SH_IS nG ATTR1 PXN UXN", "AF"),
    (S2, 0, 1 << 12, 0x41000000, "rwc", 0x00600000410007FF, "rw-c--", "SH_IS MEMATTR15 XN3", "AF"),
    (S2, 0, 1 << 12, 0x41000000, "rwx", 0x00000000410006D7, "rwx---", "SH_OS MEMATTR5", "AF"),
    (S2, 0, 1 << 12, 0x41000000, "w", 0x0060000041000697, "-w----", "SH_OS MEMATTR5 XN3", "AF"),
    (S2, 0, 1 << 12, 0x41000000, "rmp", 0x0060000041000647, "r---m-", "SH_OS MEMATTR1 XN3", "AF"),
    (S2, 0, 1 << 12, 0x41000000, "rwmc", 0x00600000410007C7, "rw--m-", "SH_IS MEMATTR1 XN3", "AF"),
    (S2, 1, 1 << 21, 0x42200000, "rc", 0x006000004220077D, "r--c--", "SH_IS MEMATTR15 XN3", "AF"),
    (S2_FWB, 0, 1 << 12, 0x41000000, "rwc", 0x00600000410007DB, "rw-c--", "SH_IS MEMATTR6 XN3", "AF"),
    (AMD, 0, 1 << 12, 0x10000000, "rw", 0x7000000010000001, "rw----", "FC", ""),
    (AMD, 0, 1 << 12, 0x10000000, "rx", 0x3000000010000001, "r-----", "FC", ""),
    (AMD, 0, 1 << 12, 0x10000000, "wcmp", 0x5000000010000001, "-w----", "FC", ""),
    (AMD, 0, 1 << 13, 0x10000000, "rw", 0x7000000010000E01, "rw----", "FC", ""),
    (AMD, 0, 1 << 14, 0x10000000, "rw", 0x7000000010001E01, "rw----", "FC", ""),
    (AMD, 0, 1 << 16, 0x10000, "rw", 0x7000000000017E01, "rw----", "FC", ""),
    (AMD, 1, 1 << 21, 0x200000, "rw", 0x7000000000200001, "rw----", "FC", ""),
    (AMD, 1, 1 << 22, 0x400000, "rw", 0x70000000005FFE01, "rw----", "FC", ""),
    (AMD, 3, 1 << 40, 1 << 41, "rw", 0x7000027FFFFFFE01, "rw----", "FC", ""),
    (VTD, 0, 1 << 12, 0x41000000, "rw", 0x0000000041000003, "rw----", "", ""),
    (VTD_SNOOP, 1, 1 << 21, 0x42200000, "r", 0x0000000042200881, "r-----", "SNP", ""),
    (X86, 0, 1 << 12, 0x41000000, "rw", 0x0000000041000067, "rwxc--", "", "A D"),
    (X86, 1, 1 << 21, 0x42200000, "r", 0x00000000422000A5, "r-xc--", "", "A"),
    (RISCV, 0, 1 << 12, 0x41000000, "rwc", 0x00000000104000D7, "rw-c--", "", "A D"),
    (RISCV, 0, 1 << 12, 0x41000000, "rx", 0x200000001040005B, "r-x---", "PBMT1", "A"),
    (RISCV, 0, 1 << 12, 0x41000000, "rwm", 0x40000000104000D7, "rw--m-", "PBMT2", "A D"),
    (RISCV, 0, 1 << 16, 0x41000000, "rc", 0x8000000010402053, "r--c--", "NAPOT", "A"),
]


@pytest.mark.parametrize("row", LEAVES, ids=lambda row: f"{row[0].format}-{row[2]:x}-{row[4]}")
def test_leaf(row: tuple[TableConfig, int, int, int, str, int, str, str, str]) -> None:
    config, level, size, oa, request, raw, prot, flags, volatile = row
    fmt = get(config.format)
    assert f"{fmt.encode(config, level, size, oa, Prot.from_letters(request)):#018x}" == f"{raw:#018x}"
    found = fmt.decode(config, level, raw)
    assert found is not None
    assert found.kind is Kind.LEAF
    assert (found.oa, found.size, str(found.prot)) == (oa, size, prot)
    assert (" ".join(found.flags), " ".join(found.volatile)) == (flags, volatile)
    assert fmt.geometry(config).level_of(size) == level


@pytest.mark.parametrize(
    ("config", "level", "address", "raw"),
    [
        (S1, 3, 0x41000000, 0x0000000041000003),
        (S1_NS, 3, 0x41000000, 0x8000000041000003),
        (S1_64K, 1, 0x3000041000000, 0x0000000041003003),
        (S2, 2, 0x41000000, 0x0000000041000003),
        (AMD, 2, 0x41000000, 0x6000000041000401),
        (AMD, 5, 0x41000000, 0x6000000041000A01),
        (VTD, 1, 0x41000000, 0x0000000041000003),
        (X86, 3, 0x41000000, 0x0000000041000027),
        (RISCV, 1, 0x41000000, 0x0000000010400001),
    ],
)
def test_table_item(config: TableConfig, level: int, address: int, raw: int) -> None:
    fmt = get(config.format)
    assert fmt.encode_table(config, level, address) == raw
    found = fmt.decode(config, level, raw)
    assert found is not None
    assert (found.kind, found.oa) == (Kind.TABLE, address)


@pytest.mark.parametrize(
    ("config", "level", "raw"),
    [
        (S1, 0, 0x41000001),  # a block where only pages are
        (S1, 1, 0x41000002),
        (AMD, 2, 0x6000000041000201),  # a next level that is not the one below
        (AMD, 5, 0x7000000000000001),  # a leaf in level 6, which has none
        (AMD, 0, 0x7000000010000000),  # not present, but not zero
        (X86, 3, 0x41000081),
    ],
)
def test_bad_item(config: TableConfig, level: int, raw: int) -> None:
    found = get(config.format).decode(config, level, raw)
    assert found is not None
    assert found.kind is Kind.BAD


def test_decoded_from_the_entry_alone() -> None:
    clean = get(S1.format)
    # hardware dirty: a page that is writeable and clean is read-only with DBM
    assert str(clean.prot(S1_HD, 0x0068000041000FC7)) == "rw-c--"
    assert str(clean.prot(S1, 0x0068000041000FC7)) == "r--c--"
    everything = clean.decode(S1, 0, 0x00F8000041000DEF)
    assert everything is not None
    assert " ".join(everything.flags + everything.volatile) == "NS nG ATTR3 PXN UXN AF DBM CONT SW55"
    assert get(AMD.format).decode(AMD, 0, 0) is None
    dirty = get(AMD.format).decode(AMD, 0, 0x7000000010000061)
    assert dirty is not None
    assert dirty.volatile == ("A", "D")


@pytest.mark.parametrize(
    ("name", "parameters", "levels", "top_items"),
    [
        ("arm_64_lpae_s1", {"ias": 48}, 4, 512),
        ("arm_64_lpae_s1", {"ias": 39}, 3, 512),
        ("arm_64_lpae_s1", {"granule": 16384, "ias": 48}, 4, 2),
        ("arm_64_lpae_s1", {"granule": 65536, "ias": 48}, 3, 64),
        ("arm_64_lpae_s1", {"granule": 65536, "ias": 52, "oas": 52}, 3, 1024),
        ("arm_64_lpae_s2", {"ias": 44, "oas": 44}, 4, 32),
        ("arm_64_lpae_s2", {"ias": 40, "oas": 40}, 3, 2 * 512),
        ("arm_64_lpae_s2", {"ias": 42, "oas": 42}, 3, 8 * 512),
        ("arm_64_lpae_s2", {"granule": 16384, "ias": 48, "oas": 48}, 3, 2 * 2048),
        ("arm_64_lpae_s2", {"granule": 16384, "ias": 40, "oas": 40}, 2, 16 * 2048),
        ("arm_64_lpae_s1", {"granule": 16384, "ias": 47}, 3, 2048),
        ("arm_64_lpae_s1", {"granule": 16384, "ias": 36}, 2, 2048),
        ("arm_64_lpae_s1", {"granule": 65536, "ias": 42}, 2, 8192),
        ("arm_64_lpae_s1", {"granule": 65536, "ias": 43}, 3, 2),
        ("arm_64_lpae_s1", {"granule": 65536, "ias": 29}, 1, 8192),
        ("arm_64_lpae_s2", {"ias": 40, "oas": 42}, 3, 2 * 512),
        ("arm_64_lpae_s2", {"ias": 40, "oas": 44}, 4, 2),
        ("arm_64_lpae_s2", {"granule": 16384, "ias": 37, "oas": 40}, 2, 2 * 2048),
        ("arm_64_lpae_s2", {"granule": 16384, "ias": 40, "oas": 42}, 3, 16),
        ("arm_64_lpae_s2", {"granule": 16384, "ias": 47, "oas": 48}, 3, 2048),
        ("arm_64_lpae_s2", {"granule": 65536, "ias": 44, "oas": 44}, 3, 4),
        ("arm_32_lpae_s1", {}, 3, 4),
        ("arm_32_lpae_s2", {}, 3, 2 * 512),
        ("amdv1", {}, 3, 512),
        ("amdv1", {"levels": 2, "vasz": 32}, 2, 512),
        ("amdv1", {"levels": 6}, 6, 128),
        ("vtdss", {"levels": 3}, 3, 512),
        ("x86_64", {"levels": 5}, 5, 512),
        ("riscv_64", {"levels": 3}, 3, 512),
    ],
)
def test_shape(name: str, parameters: dict[str, int], levels: int, top_items: int) -> None:
    config = configure(name, **parameters)
    geometry = get(name).geometry(config)
    assert (config.levels, geometry.items(geometry.top, geometry.top)) == (levels, top_items)


def test_page_sizes_and_apertures() -> None:
    assert S1.page_sizes == (1 << 12, 1 << 21, 1 << 30)
    assert S1_64K.page_sizes == (1 << 16, 1 << 29, 1 << 42)
    assert AMD.page_sizes == tuple(1 << bit for bit in range(12, 52) if bit != 39)
    assert configure("amdv1", vasz=36, levels=3).page_sizes[-1] == 1 << 34
    assert RISCV.page_sizes == (1 << 12, 1 << 16, 1 << 21, 1 << 30, 1 << 39)
    assert get("amdv1").aperture(AMD) == (0, (1 << 64) - 1)
    assert get("x86_64").aperture(X86) == (0, (1 << 47) - 1)
    upper = configure("arm_64_lpae_s1", options=["ttbr1"])
    assert get(upper.format).aperture(upper) == (0xFFFF000000000000, (1 << 64) - 1)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("nothing", {}),
        ("amdv1", {"levels": 1}),
        ("amdv1", {"levels": 7}),
        ("amdv1", {"granule": 4096}),
        ("amdv1", {"levels": "3"}),
        ("arm_64_lpae_s1", {"granule": 8192}),
        ("arm_64_lpae_s1", {"oas": 46}),
        ("arm_64_lpae_s1", {"options": ["fwb"]}),
        ("arm_64_lpae_s2", {"ias": 48, "oas": 40}),
        ("arm_32_lpae_s1", {"granule": 65536}),
        ("riscv_64", {"vasz": 40}),
    ],
)
def test_no_such_configuration(name: str, parameters: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        configure(name, **parameters)


def test_every_format_has_a_default_configuration() -> None:
    assert set(formats.names()) >= {"arm_64_lpae_s1", "arm_64_lpae_s2", "amdv1", "vtdss", "x86_64", "riscv_64"}
    for name in formats.names():
        assert configure(name).format == name
