// SPDX-License-Identifier: GPL-2.0-only
/*
 * The bits of table items, as far as corrupting them needs it. From the
 * architectures' manuals, not from the kernel's formats, which are under test.
 */
#include <linux/bits.h>
#include <linux/kernel.h>
#include <linux/sizes.h>
#include <linux/string.h>

#include "items.h"

#define ADDRESS_51_12	GENMASK_ULL(51, 12)

/* AMD IOMMU specification, 2.2.3: next level 1 to 6 is a table, 0 and 7 are leaves */
#define AMD_PRESENT	BIT_ULL(0)
#define AMD_NEXT_LEVEL	GENMASK_ULL(11, 9)
#define AMD_READ_WRITE	GENMASK_ULL(62, 61)

static bool amdv1_is_table(u64 raw, unsigned int level)
{
	return raw & AMD_PRESENT && level && (raw & AMD_NEXT_LEVEL) >> 9 == level;
}

static u64 amdv1_table(unsigned int level)
{
	return AMD_PRESENT | (u64)level << 9 | AMD_READ_WRITE;
}

/*
 * A group of contiguous items says its size by the ones at the low end of its
 * address: all ones is 2^53 bytes.
 */
static u64 amdv1_bad_size(const struct ptt_domain *d, u64 item_size, unsigned int level, u64 raw)
{
	return (raw & ~ADDRESS_51_12) | ADDRESS_51_12 | AMD_NEXT_LEVEL | AMD_PRESENT;
}

/*
 * VT-d specification, 9.8, and Intel SDM volume 3, 4.5: bit 7 makes a leaf at
 * levels 1 and 2, above it is reserved.
 */
#define VTD_READ_WRITE	GENMASK_ULL(1, 0)
#define X86_PRESENT	BIT_ULL(0)
#define X86_TABLE	(X86_PRESENT | BIT_ULL(1) | BIT_ULL(2) | BIT_ULL(5))
#define X86_PAGE_SIZE	BIT_ULL(7)

static bool vtdss_is_table(u64 raw, unsigned int level)
{
	return raw & VTD_READ_WRITE && level && !(raw & X86_PAGE_SIZE);
}

static u64 vtdss_table(unsigned int level)
{
	return VTD_READ_WRITE;
}

static u64 vtdss_bad_size(const struct ptt_domain *d, u64 item_size, unsigned int level, u64 raw)
{
	return level > 2 ? raw | VTD_READ_WRITE | X86_PAGE_SIZE : 0;
}

static bool x86_64_is_table(u64 raw, unsigned int level)
{
	return raw & X86_PRESENT && level && !(raw & X86_PAGE_SIZE);
}

static u64 x86_64_table(unsigned int level)
{
	return X86_TABLE;
}

static u64 x86_64_bad_size(const struct ptt_domain *d, u64 item_size, unsigned int level, u64 raw)
{
	return level > 2 ? raw | X86_TABLE | X86_PAGE_SIZE : 0;
}

/*
 * RISC-V privileged architecture, 12.4 and "Svnapot": N only at level 0, and
 * only with 1000 in the low bits of the PPN.
 */
#define RISCV_VALID	BIT_ULL(0)
#define RISCV_RWX	GENMASK_ULL(3, 1)
#define RISCV_RAU	(BIT_ULL(1) | BIT_ULL(4) | BIT_ULL(6))
#define RISCV_PPN	GENMASK_ULL(53, 10)
#define RISCV_NAPOT	BIT_ULL(63)
#define RISCV_PATTERN	GENMASK_ULL(13, 10)
#define RISCV_128K	BIT_ULL(14)

static bool riscv_is_table(u64 raw, unsigned int level)
{
	return raw & RISCV_VALID && level && !(raw & RISCV_RWX);
}

static u64 riscv_table(unsigned int level)
{
	return RISCV_VALID;
}

static u64 riscv_bad_size(const struct ptt_domain *d, u64 item_size, unsigned int level, u64 raw)
{
	return (raw & ~RISCV_PATTERN) | RISCV_128K | RISCV_NAPOT | RISCV_VALID | RISCV_RAU;
}

/*
 * Arm ARM, D8.3: type 3 is a table, at the last level a page; type 1 a block,
 * where the granule has any.
 */
#define ARM_TYPE	GENMASK_ULL(1, 0)
#define ARM_BLOCK	1
#define ARM_TABLE	3
#define ARM_ADDRESS	GENMASK_ULL(47, 12)

static bool arm_is_table(u64 raw, unsigned int level)
{
	return level && (raw & ARM_TYPE) == ARM_TABLE;
}

static u64 arm_table(unsigned int level)
{
	return ARM_TABLE;
}

static u64 arm_bad_size(const struct ptt_domain *d, u64 item_size, unsigned int level, u64 raw)
{
	if (level && d->domain->pgsize_bitmap & item_size)
		return 0;
	return (raw & ~ARM_TYPE) | ARM_BLOCK;
}

static const struct ptt_items formats[] = {
	{ "amdv1", ADDRESS_51_12, 0, amdv1_is_table, amdv1_table, amdv1_bad_size },
	{ "vtdss", ADDRESS_51_12, 0, vtdss_is_table, vtdss_table, vtdss_bad_size },
	{ "x86_64", ADDRESS_51_12, 0, x86_64_is_table, x86_64_table, x86_64_bad_size },
	{ "riscv_64", RISCV_PPN, 2, riscv_is_table, riscv_table, riscv_bad_size },
	{ "arm_32_lpae_s1", ARM_ADDRESS, 0, arm_is_table, arm_table, arm_bad_size },
	{ "arm_32_lpae_s2", ARM_ADDRESS, 0, arm_is_table, arm_table, arm_bad_size },
	{ "arm_64_lpae_s1", ARM_ADDRESS, 0, arm_is_table, arm_table, arm_bad_size },
	{ "arm_64_lpae_s2", ARM_ADDRESS, 0, arm_is_table, arm_table, arm_bad_size },
};

/* ptt_find_items() - the bits of a format, or NULL */
const struct ptt_items *ptt_find_items(const char *format)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(formats); i++)
		if (!strcmp(formats[i].format, format))
			return &formats[i];
	return NULL;
}

/* Arm's 64K granule has bits 51 to 48 of an address where a 64K-aligned one has zeros */
static bool folded(const struct ptt_items *items, const struct ptt_table *t)
{
	return items->is_table == arm_is_table && t->granule_lg2 == ilog2(SZ_64K);
}

/* ptt_item_address() - where a table item points */
phys_addr_t ptt_item_address(const struct ptt_items *items, const struct ptt_table *t, u64 raw)
{
	u64 address = (raw & items->address) << items->shift;

	if (folded(items, t))
		address = (address | address << 36) & GENMASK_ULL(51, 16);
	return address;
}

/* ptt_item_point() - the same item, pointing elsewhere */
u64 ptt_item_point(const struct ptt_items *items, const struct ptt_table *t, u64 raw,
		   phys_addr_t address)
{
	if (folded(items, t))
		address |= address >> 36;
	return (raw & ~items->address) | ((address >> items->shift) & items->address);
}
