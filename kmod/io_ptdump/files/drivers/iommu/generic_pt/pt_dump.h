/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page table dump of every format, included by iommu_pt.h.
 *
 * A format may supply:
 *  pt_iommu_get_prot(common, attrs) - the inverse of pt_iommu_set_prot()
 *  pt_dump_bits       - flags of a leaf entry, see struct iommu_ptd_bits
 *  pt_dump_valid(pts) - false where the fields of the loaded item contradict
 *                       each other
 */
#ifndef __GENERIC_PT_PT_DUMP_H
#define __GENERIC_PT_PT_DUMP_H

#include <linux/rcupdate.h>

#include "pt_iter.h"

#include "../iommu-ptdump.h"

#ifdef CONFIG_IOMMU_PTDUMP_DEBUGFS
#ifndef pt_iommu_get_prot
static inline unsigned int
pt_iommu_get_prot(const struct pt_common *common,
		  const struct pt_write_attrs *attrs)
{
	return IOMMU_NOEXEC;
}
#endif

#ifndef pt_dump_bits
static const struct iommu_ptd_bits pt_dump_bits[] __maybe_unused = { {} };
#endif

#ifndef pt_dump_valid
static inline bool pt_dump_valid(const struct pt_state *pts)
{
	return true;
}
#endif

static inline u64 dump_pos_to_va(const struct pt_range *range, u64 pos)
{
	pt_vaddr_t prefix = pt_full_va_prefix(range->common);

	if (pt_feature(range->common, PT_FEAT_SIGN_EXTEND))
		prefix = fvalog2_div(pos, range->max_vasz_lg2 - 1) ?
				 PT_VADDR_MAX :
				 0;
	return fvalog2_set_mod(prefix, pos, range->max_vasz_lg2);
}

/* A size that does not exist would send the walk anywhere */
static inline bool dump_leaf_valid(const struct pt_state *pts)
{
	return pt_dump_valid(pts) && pt_can_have_leaf(pts) &&
	       pt_entry_num_contig_lg2(pts) < PT_TABLEMEM_LG2SZ &&
	       pt_possible_sizes(pts) & log2_to_int(pt_entry_oa_lg2sz(pts)) &&
	       !oalog2_mod(pt_entry_oa(pts), pt_entry_oa_lg2sz(pts));
}

/*
 * A contiguous entry is written and cleared one item after the other. It is
 * there when its first item is.
 */
static inline bool dump_load_first_item(struct pt_state *pts)
{
	unsigned int num_contig_lg2 = pt_entry_num_contig_lg2(pts);

	if (!log2_mod(pts->index, num_contig_lg2))
		return true;
	pts->index = log2_set_mod(pts->index, 0, num_contig_lg2);
	return pt_load_entry_raw(pts) == PT_ENTRY_OA && dump_leaf_valid(pts) &&
	       pt_entry_num_contig_lg2(pts) == num_contig_lg2;
}

/* Hardware may set A and D in any item of a contiguous entry */
static inline u64 dump_any_item(struct pt_state *pts)
{
	unsigned int last = pts->index +
			    log2_to_int_t(unsigned int,
					  pt_entry_num_contig_lg2(pts)) - 1;
	u64 any = pts->entry, first = pts->entry;

	while (pts->index < last) {
		pts->index++;
		pt_load_entry_raw(pts);
		any |= pts->entry;
	}
	pts->entry = first;
	return any;
}

/* Fill in all that does not depend on the cursor, returns enum iommu_ptd_type */
static inline u8 dump_decode(struct pt_state *pts, struct iommu_ptd_item *item)
{
	struct pt_write_attrs attrs;

	item->raw = pts->entry;
	item->level = pts->level;
	item->lg2sz = pt_table_item_lg2sz(pts);
	item->prot = 0;
	item->oa = 0;
	if (!pts->entry)
		return IOMMU_PTD_EMPTY;
	/* What a bad item would point to is worth showing, too */
	item->oa = pt_table_pa(pts);

	if (pts->type == PT_ENTRY_TABLE && pt_dump_valid(pts) &&
	    iommu_ptd_table_ok(item->oa, log2_to_int(PT_TABLEMEM_LG2SZ)))
		return IOMMU_PTD_TABLE;

	if (pts->type != PT_ENTRY_OA || !dump_leaf_valid(pts))
		return IOMMU_PTD_BAD;
	if (!dump_load_first_item(pts))
		return IOMMU_PTD_PART;

	item->raw = pts->entry;
	item->oa = pt_entry_oa(pts);
	item->lg2sz = pt_entry_oa_lg2sz(pts);
	pt_attr_from_entry(pts, &attrs);
	item->prot = pt_iommu_get_prot(pts->range->common, &attrs);
	item->any = dump_any_item(pts);
	return IOMMU_PTD_LEAF;
}

static int NS(dump_walk)(void *table, struct iommu_ptd_cursor *c,
			 struct iommu_ptd_item *items, int n, int budget)
{
	struct pt_table_p *tables[PT_MAX_TOP_LEVEL + 1];
	struct pt_range range = pt_top_range(table);
	struct pt_state pts = pt_init_top(&range);
	int count = 0;

	lockdep_assert_in_rcu_read_lock();
	if (c->path) {
		u64 va = c->pos;

		c->pos = fvalog2_mod(va, range.max_vasz_lg2);
		c->end = dump_pos_to_va(&range, c->pos) != va;
		if (c->end)
			return 0;
	}
	tables[pts.level] = pts.table;
	while (count < n && budget-- > 0) {
		unsigned int lg2sz = pt_table_item_lg2sz(&pts);
		struct iommu_ptd_item *item = &items[count];
		u64 start;

		pts.table = tables[pts.level];
		range.va = c->pos;
		pt_load_single_entry(&pts);
		if (pts.entry || c->path) {
			item->type = dump_decode(&pts, item);
			lg2sz = item->lg2sz;
			start = log2_set_mod(c->pos, 0, lg2sz);
			item->iova = dump_pos_to_va(&range, c->path ? start :
								      c->pos);
			if (item->type == IOMMU_PTD_TABLE) {
				pts.level--;
				tables[pts.level] = __va(item->oa);
				if (c->path || (start == c->pos &&
						item->level <= c->level)) {
					c->level = pts.level;
					count++;
				}
				continue;
			}
			if (item->type == IOMMU_PTD_LEAF && !c->path)
				item->oa += c->pos - start;
			count++;
		}

		c->pos = log2_set_mod_max(c->pos, lg2sz) + 1;
		c->level = U8_MAX;
		if (c->path || !c->pos || fvalog2_div(c->pos, range.max_vasz_lg2)) {
			c->end = true;
			break;
		}
		/* Up again past the last item of the table */
		while (pts.level < range.top_level &&
		       !log2_mod(c->pos, pt_table_oa_lg2sz(&pts)))
			pts.level++;
	}
	return count;
}

static void NS(dump_info)(void *table, struct iommu_ptd_info *info)
{
	struct pt_range range = pt_top_range(table);
	struct pt_state pts = pt_init_top(&range);
	unsigned int items_lg2 = range.max_vasz_lg2 -
				 min(range.max_vasz_lg2, pt_table_item_lg2sz(&pts));

	info->top = virt_to_phys(range.top_table);
	info->top_bytes = log2_to_int(items_lg2) * PT_ITEM_WORD_SIZE;
	info->table_bytes = log2_to_int(PT_TABLEMEM_LG2SZ);
	info->levels = range.top_level + 1;
}

static const struct iommu_ptd_ops NS(dump_ops) = {
	.format = __stringify(PTPFX_RAW),
	.bits = pt_dump_bits,
	.walk = NS(dump_walk),
	.info = NS(dump_info),
};

static void __maybe_unused NS(dump_add)(struct pt_iommu *iommu_table)
{
	iommu_ptd_add(&iommu_table->domain, &NS(dump_ops),
		      common_from_iommu(iommu_table));
}
#else
static inline void NS(dump_add)(struct pt_iommu *iommu_table)
{
}
#endif

#endif
