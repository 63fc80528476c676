// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page table dump in debugfs: all default DMA domains in one file
 *
 * The layout is that of "iommu: Add io_ptdump debug interface for iommu", August
 * 2025. What is below it is the walk that domains/<id>/entries uses: it reads
 * the page table and not the tree of IOVAs, so it needs no lock of the DMA API.
 */
#include <linux/bitfield.h>
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>

#include "iommu-priv.h"
#include "iommu-ptdump.h"

/* Bounds the RCU section, also over a table that holds nothing */
#define DMA_BUDGET	512
#define DMA_BATCH	64

/* Level of Arm's smallest pages; generic_pt counts from there upwards */
#define ARM_LAST_LEVEL	3

enum dma_record {
	DMA_HEADING,
	DMA_ROW,
	DMA_FAILED,
	DMA_END,
};

/**
 * struct dma_stage - A format whose rows the layout can show
 * @format: Name in struct iommu_ptd_ops
 * @name: Name in the file
 * @stage: Of translation, from 1
 */
struct dma_stage {
	const char *format;
	const char *name;
	int stage;
};

static const struct dma_stage dma_stages[] = {
	{ "arm_32_lpae_s1", "ARM_32_LPAE_S1", 1 },
	{ "arm_32_lpae_s2", "ARM_32_LPAE_S2", 2 },
	{ "arm_64_lpae_s1", "ARM_64_LPAE_S1", 1 },
	{ "arm_64_lpae_s2", "ARM_64_LPAE_S2", 2 },
};

/**
 * struct dma_flag - One column of a row, blank unless it is set
 * @mask: Bits of the item, of a field all of them
 * @val: Value under @mask that shows @name
 * @name: Text
 * @stage: The only stage that has it, 0 for both
 */
struct dma_flag {
	u64 mask;
	u64 val;
	const char *name;
	int stage;
};

#define LPAE_SH		GENMASK_ULL(9, 8)
#define LPAE_XN		GENMASK_ULL(54, 53)

static const struct dma_flag dma_flags[] = {
	{ BIT_ULL(0), BIT_ULL(0), "V" },
	{ LPAE_XN, LPAE_XN, "XN" },
	{ BIT_ULL(51), BIT_ULL(51), "DBM" },
	{ BIT_ULL(10), BIT_ULL(10), "AF" },
	{ LPAE_SH, FIELD_PREP_CONST(LPAE_SH, 0), "SH_NS" },
	{ LPAE_SH, FIELD_PREP_CONST(LPAE_SH, 2), "SH_OS" },
	{ LPAE_SH, FIELD_PREP_CONST(LPAE_SH, 3), "SH_IS" },
	/* Part of MemAttr at stage 2 */
	{ BIT_ULL(5), BIT_ULL(5), "NS", 1 },
	/* A bit of items that lead to tables, never of a leaf */
	{ 0, 1, "NST" },
};

/**
 * struct dma_iter - What an open file remembers
 * @ptd: Whose table it is in, with a reference on its node; NULL before the
 *	first and after the last
 * @stage: What its rows are, NULL if it has none
 * @group: Number of its group
 * @record: The current record
 * @cursor: Where the next batch begins
 * @items: The current batch
 * @nr: Number of @items
 * @next: The one that is the current row
 * @pos: Number of the current record, -1 for none
 * @error: Why the read ended early
 */
struct dma_iter {
	struct iommu_ptd *ptd;
	const struct dma_stage *stage;
	unsigned int group;
	enum dma_record record;
	struct iommu_ptd_cursor cursor;
	struct iommu_ptd_item items[DMA_BATCH];
	int nr;
	int next;
	loff_t pos;
	int error;
};

static void dma_put(struct dma_iter *it)
{
	if (it->ptd)
		iommu_ptd_node_put(&it->ptd->node);
	it->ptd = NULL;
}

static const struct dma_stage *dma_stage_of(const struct iommu_ptd *ptd)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(dma_stages); i++)
		if (!strcmp(dma_stages[i].format, ptd->ops->format))
			return &dma_stages[i];
	return NULL;
}

/* The lock of the group keeps its default domain while this looks at it */
static int dma_take(struct device *dev, void *data)
{
	struct iommu_domain *domain = iommu_get_dma_domain(dev);
	struct dma_iter *it = data;

	if (!domain || domain->cookie_type != IOMMU_COOKIE_DMA_IOVA || !domain->ptd)
		return 0;
	it->ptd = domain->ptd;
	it->stage = dma_stage_of(it->ptd);
	kref_get(&it->ptd->node.ref);
	return 1;
}

/* Go to the first group from @min on that has a default domain with a table */
static bool dma_next_group(struct dma_iter *it, unsigned int min)
{
	int group;

	dma_put(it);
	while (!it->ptd) {
		group = iommu_group_next_each_dev(min, INT_MAX, it, dma_take);
		if (group < 0)
			return false;
		it->group = group;
		min = group + 1;
	}
	it->record = DMA_HEADING;
	it->cursor = (struct iommu_ptd_cursor){ .level = U8_MAX };
	it->nr = 0;
	it->next = 0;
	return true;
}

/* Returns 1 for a row, 0 at the end of the table, or an error */
static int dma_next_row(struct dma_iter *it)
{
	struct iommu_ptd *ptd = it->ptd;

	for (it->next++; ; it->next++) {
		while (it->next >= it->nr) {
			if (!it->stage || it->cursor.end)
				return 0;
			if (fatal_signal_pending(current))
				return -EINTR;
			cond_resched();

			/* The domain may go between any two batches */
			if (iommu_ptd_node_enter(&ptd->node))
				return -EIO;
			it->next = 0;
			rcu_read_lock();
			it->nr = ptd->ops->walk(ptd->table, &it->cursor, it->items,
						DMA_BATCH, DMA_BUDGET);
			rcu_read_unlock();
			iommu_ptd_node_leave(&ptd->node);
		}
		if (it->items[it->next].type == IOMMU_PTD_LEAF)
			return 1;
	}
}

/* Returns 1 for a record, 0 at the end of the file, or an error */
static int dma_advance(struct dma_iter *it)
{
	int ret;

	if (!it->ptd)
		return dma_next_group(it, 0);
	switch (it->record) {
	case DMA_HEADING:
	case DMA_ROW:
		ret = dma_next_row(it);
		if (ret == -EINTR)
			return ret;
		it->record = ret < 0 ? DMA_FAILED : ret ? DMA_ROW : DMA_END;
		return 1;
	case DMA_FAILED:
		it->record = DMA_END;
		return 1;
	default:
		return dma_next_group(it, it->group + 1);
	}
}

static void *dma_record(struct dma_iter *it, loff_t pos)
{
	int ret = dma_advance(it);

	it->error = min(ret, 0);
	it->pos = ret > 0 ? pos : -1;
	return ret < 0 ? ERR_PTR(ret) : ret ? it : NULL;
}

/* seq_file begins at record 0, or goes on with the one that did not fit */
static void *dma_seq_start(struct seq_file *m, loff_t *pos)
{
	struct dma_iter *it = m->private;

	if (*pos == 0) {
		dma_put(it);
		return dma_record(it, 0);
	}
	/* seq_file drops what ->next() returns while it has text */
	if (it->error)
		return ERR_PTR(it->error);
	return it->pos == *pos ? it : NULL;
}

static void *dma_seq_next(struct seq_file *m, void *v, loff_t *pos)
{
	++*pos;
	return dma_record(m->private, *pos);
}

static void dma_seq_stop(struct seq_file *m, void *v)
{
}

static int dma_show_device(struct device *dev, void *data)
{
	seq_printf(data, "  - %s\n", dev_name(dev));
	return 0;
}

static void dma_show_heading(struct seq_file *m, struct dma_iter *it)
{
	seq_printf(m, "-- domain %u --\n- group %u\n", it->ptd->id, it->group);
	iommu_group_next_each_dev(it->group, it->group, m, dma_show_device);
	seq_puts(m, "---[ RANGE START ]---\n");
}

static void dma_show_row(struct seq_file *m, struct dma_iter *it)
{
	const struct iommu_ptd_item *item = &it->items[it->next];
	u64 last = item->iova | (BIT_ULL(item->lg2sz) - 1);
	int i;

	seq_printf(m, "%llx - %llx    lvl %d  stage %s ", item->iova, last + 1,
		   ARM_LAST_LEVEL - item->level, it->stage->name);
	for (i = 0; i < ARRAY_SIZE(dma_flags); i++) {
		const struct dma_flag *flag = &dma_flags[i];
		bool set = (item->raw & flag->mask) == flag->val &&
			   (!flag->stage || flag->stage == it->stage->stage);

		seq_printf(m, "%-*s ", (int)strlen(flag->name),
			   set ? flag->name : "");
	}
	seq_putc(m, '\n');
}

static int dma_seq_show(struct seq_file *m, void *v)
{
	struct dma_iter *it = v;

	switch (it->record) {
	case DMA_HEADING:
		dma_show_heading(m, it);
		break;
	case DMA_ROW:
		dma_show_row(m, it);
		break;
	case DMA_FAILED:
		seq_puts(m, "IOVA INFO DUMP FAIL...\n");
		break;
	case DMA_END:
		seq_puts(m, "---[ RANGE END   ]---\n");
		break;
	}
	return 0;
}

static const struct seq_operations dma_seq_ops = {
	.start = dma_seq_start,
	.next = dma_seq_next,
	.stop = dma_seq_stop,
	.show = dma_seq_show,
};

static int dma_open(struct inode *inode, struct file *file)
{
	struct dma_iter *it;

	it = __seq_open_private(file, &dma_seq_ops, sizeof(*it));
	return it ? 0 : -ENOMEM;
}

static int dma_release(struct inode *inode, struct file *file)
{
	dma_put(((struct seq_file *)file->private_data)->private);
	return seq_release_private(inode, file);
}

static const struct file_operations dma_fops = {
	.owner = THIS_MODULE,
	.open = dma_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = dma_release,
};

static int __init iommu_ptd_dma_init(void)
{
	/* It is never removed, so a reader may wait for the lock of a group */
	debugfs_create_file("io_page_tables", 0400, NULL, NULL, &dma_fops);
	return 0;
}
device_initcall(iommu_ptd_dma_init);
