/* SPDX-License-Identifier: GPL-2.0-only */
/* The bits of table items. */
#ifndef __IOMMU_PTDUMP_TEST_ITEMS_H
#define __IOMMU_PTDUMP_TEST_ITEMS_H

#include <linux/types.h>

#include "ptdump_test.h"

/**
 * struct ptt_items - what the bits of one format's items mean
 * @format: its name
 * @address: where an item has its address
 * @shift: how far an address is shifted to get there
 * @is_table: whether an item of a level points to a table
 * @table: all bits of a table item of a level but its address
 * @bad_size: the item with a size that does not exist, 0 where the level has none such
 */
struct ptt_items {
	const char *format;
	u64 address;
	unsigned int shift;
	bool (*is_table)(u64 raw, unsigned int level);
	u64 (*table)(unsigned int level);
	u64 (*bad_size)(const struct ptt_domain *d, u64 item_size, unsigned int level, u64 raw);
};

const struct ptt_items *ptt_find_items(const char *format);
phys_addr_t ptt_item_address(const struct ptt_items *items, const struct ptt_table *t, u64 raw);
u64 ptt_item_point(const struct ptt_items *items, const struct ptt_table *t, u64 raw,
		   phys_addr_t address);

#endif
