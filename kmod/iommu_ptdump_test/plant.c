// SPDX-License-Identifier: GPL-2.0-only
/*
 * Corrupt items in a page table, for a dump to survive. The kernel's own code
 * does not: it follows what it finds. So a domain with such an item refuses
 * whatever would walk its table, and gets the old value back before it goes.
 */
#include <linux/align.h>
#include <linux/bits.h>
#include <linux/ioport.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "items.h"

/**
 * struct ptt_plant - one item that was overwritten
 * @node: in its domain's list, the newest first
 * @item: where
 * @was: value to put back
 */
struct ptt_plant {
	struct list_head node;
	u64 *item;
	u64 was;
};

/**
 * struct place - an item of a page table
 * @item: the item
 * @table: address of the table that holds it, of the one it is in where several stand in a row
 * @level: of that table
 * @top: it is the top table, or the tops
 */
struct place {
	u64 *item;
	phys_addr_t table;
	unsigned int level;
	bool top;
};

static bool is_planted(const struct ptt_domain *d, const u64 *item)
{
	struct ptt_plant *p;

	list_for_each_entry(p, &d->plants, node)
		if (p->item == item)
			return true;
	return false;
}

static unsigned int item_lg2(const struct ptt_table *t, unsigned int level)
{
	return t->granule_lg2 + t->index_bits * level;
}

/* Down from the top to the item of @level that covers @iova */
static int find_item(const struct ptt_domain *d, const struct ptt_items *items,
		     const struct ptt_table *t, u64 iova, unsigned int level, struct place *at,
		     struct ptt_reply *reply)
{
	u64 pos = t->bits < 64 ? iova & GENMASK_ULL(t->bits - 1, 0) : iova;
	u64 mask = GENMASK_ULL(t->index_bits - 1, 0), index, raw;

	at->table = t->top;
	at->top = true;
	for (at->level = t->levels - 1;; at->level--) {
		index = pos >> item_lg2(t, at->level);
		/* only a top that grows can be too small: others look up all bits */
		if (at->top && t->grows && index > mask)
			return ptt_fail(reply, -ENOENT, "the top does not reach 0x%llx yet", iova);
		if (at->top)
			at->table += (index & ~mask) * sizeof(u64);
		at->item = (u64 *)phys_to_virt(at->table) + (index & mask);
		if (at->level == level)
			return 0;
		if (is_planted(d, at->item))
			return ptt_fail(reply, -EBUSY, "level %u is planted", at->level);
		raw = READ_ONCE(*at->item);
		if (!items->is_table(raw, at->level))
			return ptt_fail(reply, -ENOENT, "no table below level %u", at->level);
		at->table = ptt_item_address(items, t, raw);
		at->top = false;
	}
}

static int note_ram(struct resource *res, void *end)
{
	*(u64 *)end = max(*(u64 *)end, res->end + 1);
	return 0;
}

/* Pages get their struct page in units of so many */
#ifdef CONFIG_SPARSEMEM
#define UNIT_PAGES PAGES_PER_SECTION
#else
#define UNIT_PAGES MAX_ORDER_NR_PAGES
#endif

/* The first address after all memory that no struct page is for */
static u64 end_of_ram(void)
{
	u64 end = 0;

	walk_iomem_res_desc(IORES_DESC_NONE, IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY, 0, U64_MAX,
			    &end, note_ram);
	return ALIGN(end, (u64)UNIT_PAGES << PAGE_SHIFT);
}

/* An address that has a struct page but is no memory of Linux; 0 where there is none */
static u64 hole_in_ram(void)
{
#ifdef CONFIG_ARM64
	u64 end = end_of_ram(), at;

	for (at = 0; at < end; at += SZ_64K) {
		if (pfn_valid(PHYS_PFN(at)) && !pfn_is_map_memory(PHYS_PFN(at)))
			return at;
		if (IS_ALIGNED(at, SZ_1G))
			cond_resched();
	}
#endif
	return 0;
}

/* A table is read as a whole: the top must be as large and as aligned as any other */
static bool looks_like_table(const struct ptt_table *t, const struct place *at)
{
	unsigned int bits = t->bits - item_lg2(t, at->level);

	if (!at->top)
		return true;
	return IS_ALIGNED(at->table, BIT_ULL(t->granule_lg2)) &&
	       (bits >= t->index_bits || BIT_ULL(t->granule_lg2) == PAGE_SIZE);
}

/* What to write over the item */
static int corrupt(const struct ptt_domain *d, const struct ptt_items *items,
		   const struct ptt_table *t, const struct place *at, const char *how,
		   u64 *now, struct ptt_reply *reply)
{
	u64 raw = READ_ONCE(*at->item), address;

	if (!strcmp(how, "size")) {
		*now = items->bad_size(d, BIT_ULL(item_lg2(t, at->level)), at->level, raw);
		if (!*now)
			return ptt_fail(reply, -EOPNOTSUPP, "%s has no illegal size at level %u",
					d->format, at->level);
		return 0;
	}

	if (!strcmp(how, "outside")) {
		address = end_of_ram();
	} else if (!strcmp(how, "hole")) {
		address = hole_in_ram();
		if (!address)
			return ptt_fail(reply, -EOPNOTSUPP, "this memory has no hole");
	} else if (!strcmp(how, "self")) {
		address = at->table;
		if (!looks_like_table(t, at))
			return ptt_fail(reply, -EOPNOTSUPP, "the top is smaller than a table");
	} else {
		return ptt_fail(reply, -EINVAL, "outside, hole, self or size, not %.31s", how);
	}
	if (!at->level)
		return ptt_fail(reply, -EINVAL, "level 0 holds no table items");
	if (!items->is_table(raw, at->level))
		raw = items->table(at->level);
	*now = ptt_item_point(items, t, raw, address);
	return 0;
}

static int parse_place(struct ptt_domain *d, const struct ptt_items *items,
		       const struct ptt_table *t, struct ptt_args *args, struct place *at,
		       struct ptt_reply *reply)
{
	u64 iova, level;
	int ret;

	ret = ptt_parse_number(args->word[2], &iova);
	if (ret)
		return ptt_fail(reply, ret, "IOVA %.31s is not a number", args->word[2]);
	if (!ptt_in_aperture(d, iova, iova))
		return ptt_fail(reply, -ERANGE, "IOVA outside the aperture");
	ret = ptt_parse_number(args->word[3], &level);
	if (ret || level >= t->levels)
		return ptt_fail(reply, ret ?: -ERANGE, "LEVEL %.31s is not in 0..%u", args->word[3],
				t->levels - 1);
	return find_item(d, items, t, iova, level, at, reply);
}

/* ptt_cmd_plant() - plant NAME IOVA LEVEL raw=N | outside | hole | self | size */
int ptt_cmd_plant(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_domain *d = ptt_find_domain(args->word[1]);
	const struct ptt_items *items;
	struct ptt_table table;
	struct ptt_plant *p;
	struct place at;
	u64 now = 0;
	int ret;

	if (!d)
		return ptt_fail(reply, -ENOENT, "no domain %.31s", args->word[1]);
	if (args->nr_words - 4 == (args->value[PTT_RAW] ? 1 : 0))
		return ptt_fail(reply, -EINVAL, "plant needs either raw= or a word for it");
	ret = ptt_no_storm(d, reply);
	if (ret)
		return ret;
	if (d->attached)
		return ptt_fail(reply, -EINVAL, "%s is attached: its IOMMU would follow the item",
				d->name);
	items = ptt_find_items(d->format);
	if (!items || !ptt_get_table(d, &table))
		return ptt_fail(reply, -EOPNOTSUPP, "the items of %s are not known", d->format);
	if (!table.coherent)
		return ptt_fail(reply, -EOPNOTSUPP, "the IOMMU does not see what the CPU writes");

	ret = parse_place(d, items, &table, args, &at, reply);
	if (!ret && args->value[PTT_RAW])
		ret = ptt_arg_number(args, PTT_RAW, 0, U64_MAX, &now, reply);
	else if (!ret)
		ret = corrupt(d, items, &table, &at, args->word[4], &now, reply);
	if (ret)
		return ret;

	p = kmalloc_obj(*p);
	if (!p)
		return -ENOMEM;
	p->item = at.item;
	p->was = READ_ONCE(*at.item);
	list_add(&p->node, &d->plants);
	WRITE_ONCE(*at.item, now);
	return ptt_ok(reply, "was=0x%llx now=0x%llx pa=0x%llx", p->was, now,
		      (u64)virt_to_phys(at.item));
}

/* Put back what was planted, the newest first; the number of items */
static unsigned int restore_plants(struct ptt_domain *d)
{
	struct ptt_plant *p, *next;
	unsigned int nr = 0;

	list_for_each_entry_safe(p, next, &d->plants, node) {
		WRITE_ONCE(*p->item, p->was);
		list_del(&p->node);
		kfree(p);
		nr++;
	}
	return nr;
}

/* ptt_cmd_restore() - restore NAME */
int ptt_cmd_restore(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_domain *d = ptt_find_domain(args->word[1]);

	if (!d)
		return ptt_fail(reply, -ENOENT, "no domain %.31s", args->word[1]);
	return ptt_ok(reply, "items=%u", restore_plants(d));
}

/* ptt_no_plant() - refuse what would follow a planted item, in the kernel or in hardware */
int ptt_no_plant(const struct ptt_domain *d, struct ptt_reply *reply)
{
	if (list_empty(&d->plants))
		return 0;
	return ptt_fail(reply, -EBUSY, "items of %s are planted, restore them first", d->name);
}

static void free_plants(struct ptt_domain *d)
{
	restore_plants(d);
}

struct ptt_holder ptt_plant_holder = {
	.busy = ptt_no_plant,
	.free_domain = free_plants,
};
