/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tests of the page table dump in every format and configuration that the other
 * tests of generic_pt have.
 */
#include "kunit_iommu.h"
#include "pt_dump.h"

#include <linux/rcupdate.h>

/* Enough for a table of each level on the way to each page size */
#define DUMP_MAX	384

struct dump_list {
	struct iommu_ptd_item items[DUMP_MAX];
	unsigned int nr;
};

/* All entries, in batches of @n items after at most @budget looks */
static struct dump_list *dump_all(struct kunit *test, int n, int budget)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct iommu_ptd_cursor c = { .level = U8_MAX };
	struct dump_list *list = kunit_kzalloc(test, sizeof(*list), GFP_KERNEL);
	int count;

	KUNIT_ASSERT_NOT_NULL(test, list);
	while (!c.end) {
		KUNIT_ASSERT_LE(test, list->nr + n, DUMP_MAX);
		rcu_read_lock();
		count = NS(dump_walk)(priv->common, &c, &list->items[list->nr], n, budget);
		rcu_read_unlock();
		KUNIT_ASSERT_LE(test, count, n);
		list->nr += count;
		cond_resched();
	}
	return list;
}

/* The entries that translate @va, from the top down; returns how many */
static int dump_path(struct kunit *test, pt_vaddr_t va, struct iommu_ptd_item *items)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct iommu_ptd_cursor c = { .pos = va, .path = true };
	int count;

	rcu_read_lock();
	count = NS(dump_walk)(priv->common, &c, items, PT_MAX_TOP_LEVEL + 1,
			      PT_MAX_TOP_LEVEL + 1);
	rcu_read_unlock();
	KUNIT_EXPECT_TRUE(test, c.end);
	return count;
}

/* Where the item is that ends the path to @va, which is not in the top table */
static u64 *dump_item_of(struct kunit *test, pt_vaddr_t va)
{
	struct iommu_ptd_item path[PT_MAX_TOP_LEVEL + 1];
	unsigned int items_lg2 = PT_TABLEMEM_LG2SZ - ilog2(sizeof(u64));
	int count = dump_path(test, va, path);
	struct iommu_ptd_item *table = &path[count - 2];
	u64 *items;

	KUNIT_ASSERT_GE(test, count, 2);
	KUNIT_ASSERT_EQ(test, table->type, IOMMU_PTD_TABLE);
	items = __va(table->oa);
	return items + log2_mod(va >> (table->lg2sz - items_lg2), items_lg2);
}

static void dump_expect_leaf(struct kunit *test,
			     const struct iommu_ptd_item *item, pt_vaddr_t va,
			     pt_oaddr_t oa, unsigned int lg2sz)
{
	KUNIT_EXPECT_EQ(test, item->type, IOMMU_PTD_LEAF);
	KUNIT_EXPECT_EQ(test, item->iova, va);
	KUNIT_EXPECT_EQ(test, item->oa, oa);
	KUNIT_EXPECT_EQ(test, item->lg2sz, lg2sz);
	KUNIT_EXPECT_NE(test, item->raw, 0);
}

static void dump_expect_same(struct kunit *test,
			     const struct iommu_ptd_item *a,
			     const struct iommu_ptd_item *b)
{
	KUNIT_EXPECT_EQ(test, a->iova, b->iova);
	KUNIT_EXPECT_EQ(test, a->oa, b->oa);
	KUNIT_EXPECT_EQ(test, a->raw, b->raw);
	KUNIT_EXPECT_EQ(test, a->type, b->type);
	KUNIT_EXPECT_EQ(test, a->level, b->level);
	KUNIT_EXPECT_EQ(test, a->lg2sz, b->lg2sz);
	KUNIT_EXPECT_EQ(test, a->prot, b->prot);
}

/* Maps one page of every size, one after the other, and returns where it began */
static pt_vaddr_t dump_map_sizes(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	pt_vaddr_t va = pt_top_range(priv->common).va + priv->smallest_pgsz * 256;
	pt_vaddr_t first = va;
	unsigned int lg2;

	for (lg2 = 0; lg2 != PT_VADDR_MAX_LG2; lg2++) {
		pt_vaddr_t len = log2_to_int(lg2);

		if (!(priv->safe_pgsize_bitmap & len))
			continue;
		va = ALIGN(va, len);
		do_map(test, va, log2_set_mod(priv->test_oa, 0, lg2), len);
		va += len;
	}
	return first;
}

static void test_dump_sizes(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	pt_vaddr_t va = dump_map_sizes(test);
	struct dump_list *list = dump_all(test, 64, 512);
	unsigned int lg2, at = 0;

	for (lg2 = 0; lg2 != PT_VADDR_MAX_LG2; lg2++) {
		pt_vaddr_t len = log2_to_int(lg2);

		if (!(priv->safe_pgsize_bitmap & len))
			continue;
		va = ALIGN(va, len);
		while (at < list->nr &&
		       list->items[at].type == IOMMU_PTD_TABLE)
			at++;
		KUNIT_ASSERT_LT(test, at, list->nr);
		dump_expect_leaf(test, &list->items[at], va,
				 log2_set_mod(priv->test_oa, 0, lg2), lg2);
		va += len;
		at++;
	}
	KUNIT_EXPECT_EQ(test, at, list->nr);
}

/* A table comes before what is in it, and nothing is listed twice */
static void test_dump_order(struct kunit *test)
{
	struct dump_list *list;
	unsigned int i;

	dump_map_sizes(test);
	list = dump_all(test, 64, 512);
	for (i = 1; i < list->nr; i++) {
		struct iommu_ptd_item *a = &list->items[i - 1];
		struct iommu_ptd_item *b = &list->items[i];

		if (a->iova == b->iova) {
			KUNIT_EXPECT_EQ(test, a->type, IOMMU_PTD_TABLE);
			KUNIT_EXPECT_EQ(test, a->level, b->level + 1);
		} else {
			KUNIT_EXPECT_LT(test, a->iova, b->iova);
		}
	}
}

/* Where a batch ends makes no difference */
static void test_dump_batches(struct kunit *test)
{
	static const struct {
		int n;
		int budget;
	} ways[] = { { 1, 512 }, { 2, 11 }, { 64, 10 }, { 3, 100 } };
	struct dump_list *all, *other;
	unsigned int i, at;

	dump_map_sizes(test);
	all = dump_all(test, 64, 512);
	for (i = 0; i < ARRAY_SIZE(ways); i++) {
		other = dump_all(test, ways[i].n, ways[i].budget);
		KUNIT_ASSERT_EQ(test, other->nr, all->nr);
		for (at = 0; at < all->nr; at++)
			dump_expect_same(test, &other->items[at], &all->items[at]);
		kunit_kfree(test, other);
	}
}

static void test_dump_empty(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, dump_all(test, 64, 512)->nr, 0);
}

/* The last page of what the table can map, sign-extended where it is */
static void test_dump_last_page(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct pt_range range = pt_upper_range(priv->common);
	pt_vaddr_t va = range.last_va - priv->smallest_pgsz + 1;
	struct dump_list *list;

	do_map(test, va, 0, priv->smallest_pgsz);
	list = dump_all(test, 64, 512);
	KUNIT_ASSERT_NE(test, list->nr, 0);
	dump_expect_leaf(test, &list->items[list->nr - 1], va, 0, priv->smallest_pgsz_lg2);
	do_unmap(test, va, priv->smallest_pgsz);
}

static void test_dump_growing_top(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct pt_common *common = priv->common;
	struct iommu_ptd_item path[PT_MAX_TOP_LEVEL + 1];
	struct iommu_ptd_info before, after;
	struct pt_range range = pt_top_range(common);

	if (!pt_feature(common, PT_FEAT_DYNAMIC_TOP) ||
	    common->max_vasz_lg2 <= range.max_vasz_lg2)
		kunit_skip(test, "the top of this table does not grow");

	do_map(test, range.va, 0, priv->smallest_pgsz);
	NS(dump_info)(common, &before);
	/* Beyond the levels in use nothing is looked at */
	if (!range.va)
		KUNIT_EXPECT_EQ(test, dump_path(test, range.last_va + 1, path), 0);
	do_map(test, range.va ? range.va - priv->smallest_pgsz : range.last_va + 1,
	       0, priv->smallest_pgsz);
	NS(dump_info)(common, &after);
	KUNIT_EXPECT_EQ(test, after.levels, before.levels + 1);
	KUNIT_EXPECT_NE(test, (u64)after.top, (u64)before.top);
	KUNIT_EXPECT_EQ(test, dump_path(test, range.va, path), after.levels);
	KUNIT_EXPECT_EQ(test, path[0].level, after.levels - 1);
}

/* A cursor that is within a leaf: what is left of it has an OA of its own */
static void test_dump_from_within(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	unsigned int lg2 = vafls(priv->safe_pgsize_bitmap) - 1;
	pt_vaddr_t len = log2_to_int(lg2), va = len;
	struct iommu_ptd_cursor c = { .level = U8_MAX };
	struct iommu_ptd_item item = {};

	if (len == priv->smallest_pgsz)
		kunit_skip(test, "there is one page size");
	if (pt_top_range(priv->common).va)
		kunit_skip(test, "the table does not begin at 0");

	do_map(test, va, 0, len);
	c.pos = va + priv->smallest_pgsz;
	rcu_read_lock();
	KUNIT_EXPECT_EQ(test, NS(dump_walk)(priv->common, &c, &item, 1, 512), 1);
	rcu_read_unlock();
	dump_expect_leaf(test, &item, va + priv->smallest_pgsz, priv->smallest_pgsz, lg2);
	KUNIT_EXPECT_EQ(test, c.pos, va + len);
}

static void test_dump_path(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct iommu_ptd_item path[PT_MAX_TOP_LEVEL + 1];
	pt_vaddr_t va = dump_map_sizes(test);
	unsigned int lg2, i;
	int count;

	for (lg2 = 0; lg2 != PT_VADDR_MAX_LG2; lg2++) {
		pt_vaddr_t len = log2_to_int(lg2);

		if (!(priv->safe_pgsize_bitmap & len))
			continue;
		va = ALIGN(va, len);
		count = dump_path(test, va + len - 1, path);
		KUNIT_ASSERT_GT(test, count, 0);
		for (i = 0; i + 1 < count; i++) {
			KUNIT_EXPECT_EQ(test, path[i].type, IOMMU_PTD_TABLE);
			KUNIT_EXPECT_EQ(test, path[i].level, path[i + 1].level + 1);
		}
		dump_expect_leaf(test, &path[count - 1], va,
				 log2_set_mod(priv->test_oa, 0, lg2), lg2);
		va += len;
	}

	/* 256 pages are left free before the first one */
	va = pt_top_range(priv->common).va;
	count = dump_path(test, va, path);
	KUNIT_ASSERT_GT(test, count, 0);
	KUNIT_EXPECT_EQ(test, path[count - 1].type, IOMMU_PTD_EMPTY);
	KUNIT_EXPECT_EQ(test, path[count - 1].raw, 0);
	KUNIT_EXPECT_EQ(test, path[count - 1].iova, va);
}

/* The first item of a contiguous entry is cleared first */
static void test_dump_torn_entry(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	pt_vaddr_t sizes = priv->safe_pgsize_bitmap & ~priv->smallest_pgsz;
	pt_vaddr_t len = sizes & -sizes, va = len * 4;
	unsigned int parts = 0, i;
	struct dump_list *list;
	u64 *item, first;

	if (pt_top_range(priv->common).va)
		kunit_skip(test, "the table does not begin at 0");
	if (!len || len >= priv->smallest_pgsz << 9)
		kunit_skip(test, "no contiguous entry of the smallest pages");

	do_map(test, va, 0, len);
	item = dump_item_of(test, va);
	first = *item;
	WRITE_ONCE(*item, 0);
	list = dump_all(test, 64, 512);
	for (i = 0; i < list->nr; i++) {
		KUNIT_EXPECT_NE(test, list->items[i].type, IOMMU_PTD_BAD);
		KUNIT_EXPECT_NE(test, list->items[i].type, IOMMU_PTD_LEAF);
		parts += list->items[i].type == IOMMU_PTD_PART;
	}
	KUNIT_EXPECT_EQ(test, parts, len / priv->smallest_pgsz - 1);
	WRITE_ONCE(*item, first);
	do_unmap(test, va, len);
}

/* A table item that points to memory that is no table is not followed */
static void test_dump_foreign_table(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	struct pt_range range = pt_top_range(priv->common);
	pt_vaddr_t va = range.va + priv->smallest_pgsz * 256;
	struct iommu_ptd_item path[PT_MAX_TOP_LEVEL + 1];
	struct pt_write_attrs attrs = {};
	struct pt_state pts;
	u64 *item, was;
	void *page;
	int count;

	do_map(test, va, 0, priv->smallest_pgsz);
	count = dump_path(test, va, path);
	if (count < 3)
		kunit_skip(test, "all tables are in the top");

	pts = pt_init(&range, path[count - 2].level, __va(path[count - 3].oa));
	pts.index = log2_mod(va >> path[count - 2].lg2sz, pt_num_items_lg2(&pts));
	pts.type = pt_load_entry_raw(&pts);
	KUNIT_ASSERT_EQ(test, pts.type, PT_ENTRY_TABLE);
	KUNIT_ASSERT_EQ(test, pts.entry, path[count - 2].raw);
	was = pts.entry;
	item = (u64 *)pts.table + pts.index;

	page = kunit_kzalloc(test, PAGE_SIZE, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, page);
	KUNIT_ASSERT_NO_ERRNO(test, pt_iommu_set_prot(priv->common, &attrs,
						      IOMMU_READ | IOMMU_WRITE));
	KUNIT_ASSERT_TRUE(test, pt_install_table(&pts, virt_to_phys(page), &attrs));
	count = dump_path(test, va, path);
	WRITE_ONCE(*item, was);

	KUNIT_EXPECT_EQ(test, path[count - 1].type, IOMMU_PTD_BAD);
	KUNIT_EXPECT_EQ(test, path[count - 1].oa, virt_to_phys(page));
	do_unmap(test, va, priv->smallest_pgsz);
}

/* Permissions decode to a request that encodes to the same, and are shown */
static __maybe_unused void test_dump_prot(struct kunit *test)
{
	struct kunit_iommu_priv *priv = test->priv;
	pt_vaddr_t va = pt_top_range(priv->common).va + priv->smallest_pgsz * 256;
	struct iommu_ptd_item path[PT_MAX_TOP_LEVEL + 1];
	struct pt_write_attrs attrs = {}, again = {};
	unsigned int asked, got;
	int count;

	for (asked = 0; asked < IOMMU_PRIV * 2; asked++) {
		/* Not every format can encode every request */
		if (pt_iommu_set_prot(priv->common, &attrs, asked))
			continue;
		got = pt_iommu_get_prot(priv->common, &attrs);
		KUNIT_EXPECT_EQ(test, asked & IOMMU_WRITE, got & IOMMU_WRITE);
		KUNIT_EXPECT_EQ(test, asked & ~got & IOMMU_READ, 0);
		KUNIT_ASSERT_NO_ERRNO(test, pt_iommu_set_prot(priv->common, &again, got));
		KUNIT_EXPECT_EQ(test, again.descriptor_bits, attrs.descriptor_bits);

		/* iommu_map() takes no other request */
		if (!(asked & (IOMMU_READ | IOMMU_WRITE)))
			continue;
		KUNIT_ASSERT_NO_ERRNO_FN(test, "iommu_map",
					 iommu_map(&priv->domain, va, 0, priv->smallest_pgsz,
						   asked, GFP_KERNEL));
		count = dump_path(test, va, path);
		KUNIT_ASSERT_GT(test, count, 0);
		KUNIT_EXPECT_EQ(test, path[count - 1].prot, got);
		do_unmap(test, va, priv->smallest_pgsz);
	}
}

static struct kunit_case dump_test_cases[] = {
	KUNIT_CASE_FMT(test_dump_sizes),
	KUNIT_CASE_FMT(test_dump_order),
	KUNIT_CASE_FMT(test_dump_batches),
	KUNIT_CASE_FMT(test_dump_empty),
	KUNIT_CASE_FMT(test_dump_last_page),
	KUNIT_CASE_FMT(test_dump_growing_top),
	KUNIT_CASE_FMT(test_dump_from_within),
	KUNIT_CASE_FMT(test_dump_path),
	KUNIT_CASE_FMT(test_dump_torn_entry),
	KUNIT_CASE_FMT(test_dump_foreign_table),
#ifdef pt_iommu_get_prot
	KUNIT_CASE_FMT(test_dump_prot),
#endif
	{},
};

static struct kunit_suite NS(dump_suite) = {
	.name = __stringify(NS(dump_test)),
	.init = pt_kunit_iommu_init,
	.exit = pt_kunit_iommu_exit,
	.test_cases = dump_test_cases,
};

kunit_test_suites(&NS(dump_suite));
