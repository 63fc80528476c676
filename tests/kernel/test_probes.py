# SPDX-License-Identifier: GPL-2.0-only
"""The test module finds out what a kernel has: a tree with another dump, or without one, builds all the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pytest_iommu.core import paths

IOMMU = """
#include <stddef.h>
#define __maybe_unused __attribute__((unused))
typedef unsigned int u32;
typedef unsigned long u64;
struct device;
struct iommu_domain;
struct iommu_iotlb_gather { int freelist; };
"""
IO_PGTABLE = (
    "struct io_pgtable_ops;\nvoid io_pgtable_ptd_add(struct io_pgtable_ops *ops, struct iommu_domain *domain);\n"
)
OURS = (
    "u32 iommu_ptd_id(const struct iommu_domain *domain);\nvoid iommu_ptd_del(struct iommu_domain *domain);\n"
    "void iommu_ptd_flush(void);\n"
)
DUMPS = {
    "the reference implementation": (OURS, True),
    "no dump": (None, False),
    "a dump with an id that is no number": (OURS.replace("u32", "const char *", 1), False),
    "a dump that takes more to remove": (OURS.replace("*domain);\n", "*domain, int how);\n"), False),
    "a dump that makes directories in its callers": (OURS.replace("void iommu_ptd_flush(void);\n", ""), False),
    "a dump with other functions": ("void ptdump_register(struct iommu_domain *domain);\n", False),
    "a dump whose header needs one that is not there": ("#include <linux/private.h>\n" + OURS, False),
}
GENERIC_PT = """
struct pt_iommu { int ops; };
struct pt_common { unsigned int max_vasz_lg2; };
struct pt_iommu *iommupt_from_domain(struct iommu_domain *domain);
void pt_iommu_deinit(struct pt_iommu *iommu);
"""
AMD = """
struct iommu_domain { int type; };
enum { PAGE_MODE_NONE, PD_MODE_V1 };
struct protection_domain { struct iommu_domain domain; struct { u64 *root; int mode; } iop; int pd_mode; };
"""
# What kbuild does before and after it includes a Kbuild, as far as that matters here.
MAKEFILE = """
srctree := {fake}
src := {module}
CC := gcc
LINUXINCLUDE := -I{fake}/include
CONFIG_INTEL_IOMMU := {x86}
CONFIG_AMD_IOMMU := {x86}
KBUILD_CFLAGS := -Werror=implicit-function-declaration -Werror=incompatible-pointer-types -Werror=int-conversion
include {tree}/scripts/Makefile.compiler
include {module}/Kbuild
all:
	@echo $(filter -DPTT_HAS_%,$(ccflags-y))
	@echo $(iommu_ptdump_test-y)
"""


class Kernel:
    """A kernel tree with a few headers, as Kbuild sees it."""

    def __init__(self, path: Path, tree: Path) -> None:
        self.path = path
        self.tree = tree
        self.put("include/linux/iommu.h", IOMMU)
        self.put("include/linux/io-pgtable.h", IO_PGTABLE)

    def put(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def probed(self, x86: str = "") -> tuple[set[str], list[str]]:
        """What is defined, and the objects of the module; ``x86`` is y for a kernel with the IOMMUs of that."""
        made = MAKEFILE.format(fake=self.path, module=paths.module(), tree=self.tree, x86=x86)
        self.put("Makefile", made)
        done = subprocess.run(["make", "-s"], cwd=self.path, capture_output=True, text=True, check=True)
        defined, objects = done.stdout.splitlines()
        return {word.removeprefix("-DPTT_HAS_") for word in defined.split()}, objects.split()


@pytest.fixture
def kernel(tmp_path: Path, kernel_tree: Path) -> Kernel:
    return Kernel(tmp_path, kernel_tree)


@pytest.mark.parametrize("which", DUMPS)
def test_only_the_interface_that_the_module_knows_is_used(kernel: Kernel, which: str) -> None:
    header, known = DUMPS[which]
    if header is not None:
        kernel.put("drivers/iommu/iommu-ptdump.h", header)
    defined, _ = kernel.probed()
    assert ("DUMP" in defined) == known


def test_a_kernel_with_nothing_that_is_optional(kernel: Kernel) -> None:
    defined, objects = kernel.probed()
    assert defined == set()
    assert {"no_generic_pt.o", "no_sw_generic_pt.o"} <= set(objects)
    assert not {"generic_pt.o", "sw_generic_pt.o"} & set(objects)


def test_a_kernel_with_generic_pt(kernel: Kernel) -> None:
    kernel.put("include/linux/generic_pt/iommu.h", GENERIC_PT)
    kernel.put("drivers/iommu/iommu-pages.h", "void iommu_put_pages_list(int *list);\n")
    defined, objects = kernel.probed()
    assert defined == {"GENERIC_PT", "SW_GENERIC_PT"}
    assert {"generic_pt.o", "sw_generic_pt.o"} <= set(objects)
    assert not {"no_generic_pt.o", "no_sw_generic_pt.o"} & set(objects)


def test_headers_without_those_of_drivers(kernel: Kernel) -> None:
    """Those of a distribution: tables of drivers are known, but none can be made without a driver."""
    kernel.put("include/linux/generic_pt/iommu.h", GENERIC_PT)
    defined, objects = kernel.probed()
    assert defined == {"GENERIC_PT"}
    assert {"generic_pt.o", "no_sw_generic_pt.o"} <= set(objects)


def test_a_driver_of_amd_with_tables_of_its_own(kernel: Kernel) -> None:
    """What they are is in its header; where VT-d's are is in the registers."""
    assert "vtd.o" in kernel.probed("y")[1]
    assert "vtd.o" not in kernel.probed()[1]
    kernel.put("drivers/iommu/amd/amd_iommu_types.h", AMD)
    defined, objects = kernel.probed("y")
    assert defined == {"AMD_V1"}
    assert "amd_v1.o" in objects
    # the headers are there for every architecture
    defined, objects = kernel.probed()
    assert defined == set()
    assert "amd_v1.o" not in objects
    # what it is like since generic_pt
    kernel.put("drivers/iommu/amd/amd_iommu_types.h", AMD.replace("u64 *root; int mode;", "int nid;"))
    defined, objects = kernel.probed("y")
    assert defined == set()
    assert "amd_v1.o" not in objects


def test_every_object_of_the_module_has_a_source(kernel: Kernel) -> None:
    kernel.put("drivers/iommu/amd/amd_iommu_types.h", AMD)
    objects = kernel.probed("y")[1]
    sources = {path.stem for path in paths.module().glob("*.c")}
    assert {Path(name).stem for name in objects} | {"probes", "generic_pt", "sw_generic_pt"} == sources
