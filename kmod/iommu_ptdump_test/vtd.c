// SPDX-License-Identifier: GPL-2.0-only
/*
 * What VT-d has been told, from its registers and the tables that it reads itself:
 * Intel VT-d specification, 3.4, 9.1 to 9.6, 11.4. The units are those of the
 * ACPI table DMAR (8.1), which the driver numbers in their order.
 */
#include <linux/acpi.h>
#include <linux/bitfield.h>
#include <linux/bits.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/pci.h>
#include <linux/sizes.h>

#include "told.h"

#define CAP			0x8
#define CAP_MGAW		GENMASK_ULL(21, 16)
#define ECAP			0x10
#define ECAP_C			BIT_ULL(0)
#define ECAP_SMPWC		BIT_ULL(48)
#define RTADDR			0x20
#define RTADDR_TTM		GENMASK_ULL(11, 10)
#define RTADDR_TTM_SCALABLE	1

#define PRESENT			BIT_ULL(0)
#define POINTER			GENMASK_ULL(63, 12)
#define ROOT_WORDS		2
#define CONTEXT_WORDS		2
#define CONTEXT0_TT		GENMASK_ULL(3, 2)
#define CONTEXT0_TT_PASS	2
#define CONTEXT1_AW		GENMASK_ULL(2, 0)
#define SCALABLE_WORDS		4
#define SCALABLE1_RID_PASID	GENMASK_ULL(19, 0)
#define PASID_WORDS		8
#define PASID0_AW		GENMASK_ULL(4, 2)
#define PASID0_PGTT		GENMASK_ULL(8, 6)
#define PASID0_PGTT_FIRST	1
#define PASID0_PGTT_SECOND	2
#define PASID2_FSPM		GENMASK_ULL(3, 2)

/* A second stage of the width AW has two levels more */
#define AW_LEVELS		2
#define FIRST_LEVELS		4

static u64 unit_address(unsigned int number)
{
	struct acpi_table_header *dmar;
	struct acpi_dmar_header *unit;
	u64 address = 0;
	void *end;

	if (ACPI_FAILURE(acpi_get_table(ACPI_SIG_DMAR, 0, &dmar)))
		return 0;
	end = (void *)dmar + dmar->length;
	unit = (void *)dmar + sizeof(struct acpi_table_dmar);
	for (; (void *)(unit + 1) <= end && unit->length; unit = (void *)unit + unit->length) {
		if (unit->type != ACPI_DMAR_TYPE_HARDWARE_UNIT || number--)
			continue;
		address = ((struct acpi_dmar_hardware_unit *)unit)->address;
		break;
	}
	acpi_put_table(dmar);
	return address;
}

/**
 * ptt_vtd_map() - the first page of a VT-d unit's registers
 * @unit: an IOMMU's device
 *
 * The driver has mapped them, too.
 *
 * Return: to be given to iounmap(); NULL for an IOMMU that is no VT-d, or an error pointer.
 */
void __iomem *ptt_vtd_map(struct device *unit)
{
	unsigned int number;
	void __iomem *regs;
	u64 address;

	if (sscanf(dev_name(unit), "dmar%u", &number) != 1)
		return NULL;
	address = unit_address(number);
	if (!address)
		return NULL;
	regs = ioremap(address, SZ_4K);
	return regs ?: IOMEM_ERR_PTR(-ENOMEM);
}

/* What an entry of one word points to, 0 where it is not present */
static u64 pointer_at(u64 at)
{
	u64 word;

	return !ptt_read_words(at, &word, 1) && word & PRESENT ? word & POINTER : 0;
}

static int legacy(u64 root, struct pci_dev *pdev, struct ptt_table *table)
{
	u64 at = pointer_at(root + pdev->bus->number * ROOT_WORDS * sizeof(u64));
	u64 context[CONTEXT_WORDS];
	int ret;

	if (!at)
		return -ENOENT;
	ret = ptt_read_words(at + pdev->devfn * sizeof(context), context, CONTEXT_WORDS);
	if (ret)
		return ret;
	if (!(context[0] & PRESENT) || FIELD_GET(CONTEXT0_TT, context[0]) >= CONTEXT0_TT_PASS)
		return -ENOENT;
	table->top = context[0] & POINTER;
	table->levels = FIELD_GET(CONTEXT1_AW, context[1]) + AW_LEVELS;
	return 2;
}

/* The two words of a root entry are the tables of the lower and the upper half of the functions */
static int scalable(u64 root, struct pci_dev *pdev, struct ptt_table *table)
{
	u64 half = pdev->bus->number * ROOT_WORDS + pdev->devfn / 128;
	u64 at = pointer_at(root + half * sizeof(u64));
	u64 context[SCALABLE_WORDS], entry[PASID_WORDS];
	unsigned int pasid;
	int ret;

	if (!at)
		return -ENOENT;
	at += pdev->devfn % 128 * sizeof(context);
	ret = ptt_read_words(at, context, SCALABLE_WORDS);
	if (ret)
		return ret;
	pasid = FIELD_GET(SCALABLE1_RID_PASID, context[1]);
	at = context[0] & PRESENT ? context[0] & POINTER : 0;
	at = at ? pointer_at(at + pasid / 64 * sizeof(u64)) : 0;
	if (!at)
		return -ENOENT;
	ret = ptt_read_words(at + pasid % 64 * sizeof(entry), entry, PASID_WORDS);
	if (ret)
		return ret;
	switch (entry[0] & PRESENT ? FIELD_GET(PASID0_PGTT, entry[0]) : 0) {
	case PASID0_PGTT_FIRST:
		table->top = entry[2] & POINTER;
		table->levels = FIELD_GET(PASID2_FSPM, entry[2]) + FIRST_LEVELS;
		return 1;
	case PASID0_PGTT_SECOND:
		table->top = entry[0] & POINTER;
		table->levels = FIELD_GET(PASID0_AW, entry[0]) + AW_LEVELS;
		return 2;
	default:
		return -ENOENT;
	}
}

/**
 * ptt_vtd_table() - the page table that a device's DMA without a PASID leads to
 * @regs: of the unit, see ptt_vtd_map()
 * @pdev: attached
 * @table: filled
 *
 * Return: the stage, 1 or 2; -ENOENT where it leads to none.
 */
int ptt_vtd_table(void __iomem *regs, struct pci_dev *pdev, struct ptt_table *table)
{
	u64 ecap = readq(regs + ECAP), root = readq(regs + RTADDR);
	bool wide = FIELD_GET(RTADDR_TTM, root) == RTADDR_TTM_SCALABLE;
	unsigned int most = FIELD_GET(CAP_MGAW, readq(regs + CAP)) + 1;
	int stage;

	root &= POINTER;
	stage = wide ? scalable(root, pdev, table) : legacy(root, pdev, table);
	if (stage < 0)
		return stage;
	table->granule_lg2 = ilog2(SZ_4K);
	table->index_bits = ilog2(SZ_4K / sizeof(u64));
	table->bits = min(table->granule_lg2 + table->levels * table->index_bits, most);
	table->coherent = ecap & (wide ? ECAP_SMPWC : ECAP_C);
	table->grows = false;
	return stage;
}
