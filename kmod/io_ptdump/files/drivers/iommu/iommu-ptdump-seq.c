// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page table dump of IOMMU domains in debugfs: the files of a domain
 *
 * A reader takes no lock of map, unmap or attach. Levels of the table are freed
 * by RCU, so a walk is safe but not coherent: it sees each entry as it was at
 * some time during the read. Between two batches the reader reschedules and
 * finds out that the domain is going.
 */
#include <linux/debugfs.h>
#include <linux/iommu.h>
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/seq_file.h>

#include "iommu-ptdump.h"

/* Bounds the RCU section, also over a table that holds nothing */
#define PTD_BUDGET	512
#define PTD_BATCH	64

/* One line: an entry, or in page_table its neighbours too */
struct ptd_range {
	struct iommu_ptd_item item;
	u64 last;			/* IOVA, inclusive */
};

/* An open file */
struct ptd_iter {
	struct iommu_ptd_seq seq;
	struct iommu_ptd_cursor cursor;	/* Where the next batch begins */
	struct iommu_ptd_item items[PTD_BATCH];
	int nr;				/* Of @items */
	int next;			/* The first in no line yet */
	struct ptd_range line;
	u64 iova;			/* What a lookup is about */
	bool asked;			/* It was written */
};

static struct iommu_ptd *iter_to_ptd(struct ptd_iter *it)
{
	return node_to_ptd(it->seq.node);
}

static void ptd_rewind(struct seq_file *m)
{
	struct ptd_iter *it = m->private;

	it->cursor = (struct iommu_ptd_cursor){ .level = U8_MAX };
	it->line.item = (struct iommu_ptd_item){ .level = U8_MAX };
	it->nr = 0;
	it->next = 0;
}

/* Returns the next entry without consuming it, NULL at the end or on error */
static struct iommu_ptd_item *ptd_peek(struct ptd_iter *it)
{
	struct iommu_ptd *ptd = iter_to_ptd(it);

	while (it->next >= it->nr) {
		if (it->cursor.end || iommu_ptd_seq_stopped(&it->seq))
			return NULL;
		cond_resched();

		it->next = 0;
		rcu_read_lock();
		it->nr = ptd->ops->walk(ptd->table, &it->cursor, it->items,
					PTD_BATCH, PTD_BUDGET);
		rcu_read_unlock();
	}
	return &it->items[it->next];
}

static u64 ptd_item_last(const struct iommu_ptd_item *item)
{
	return item->iova | (BIT_ULL(item->lg2sz) - 1);
}

/* Does @item go on where @line ends, and look the same? */
static bool ptd_mergeable(const struct iommu_ptd *ptd,
			  const struct ptd_range *line,
			  const struct iommu_ptd_item *item)
{
	const struct iommu_ptd_item *first = &line->item;

	return item->iova == line->last + 1 &&
	       item->oa == first->oa + (item->iova - first->iova) &&
	       item->level == first->level && item->lg2sz == first->lg2sz &&
	       item->prot == first->prot &&
	       !((item->raw ^ first->raw) & ptd->merge_mask);
}

static struct iommu_ptd_item *ptd_peek_leaf(struct ptd_iter *it)
{
	struct iommu_ptd_item *item;

	while ((item = ptd_peek(it)) && item->type != IOMMU_PTD_LEAF)
		it->next++;
	return item;
}

static bool ptd_advance_range(struct seq_file *m)
{
	struct ptd_iter *it = m->private;
	struct iommu_ptd_item *item = ptd_peek_leaf(it);

	if (!item)
		return false;
	it->line.item = *item;
	do {
		it->line.last = ptd_item_last(item);
		it->next++;
		item = ptd_peek_leaf(it);
	} while (item && ptd_mergeable(iter_to_ptd(it), &it->line, item));
	return !it->seq.error;
}

/*
 * A table may be listed by one batch, and a leaf have taken its place before the
 * next. Each place is listed once, with what was there first.
 */
static bool ptd_listed(const struct iommu_ptd_item *last,
		       const struct iommu_ptd_item *item)
{
	return item->iova == last->iova && item->level >= last->level;
}

static bool ptd_advance_entry(struct seq_file *m)
{
	struct ptd_iter *it = m->private;
	struct iommu_ptd_item *item;

	do {
		item = ptd_peek(it);
		if (!item)
			return false;
		it->next++;
	} while (ptd_listed(&it->line.item, item));
	it->line.item = *item;
	it->line.last = ptd_item_last(item);
	return true;
}

/* The size in the largest unit that divides it; 0 stands for 2^64 */
static const char *ptd_size(char *buf, size_t len, u64 size)
{
	static const char units[] = " KMGTP";
	unsigned int unit = size ? min(__ffs64(size) / 10, 5) : 5;
	u64 count = size ? size >> (unit * 10) : BIT_ULL(64 - 50);

	if (unit)
		snprintf(buf, len, "%llu%c", count, units[unit]);
	else
		snprintf(buf, len, "%llu", count);
	return buf;
}

static void ptd_show_prot(struct seq_file *m, u8 prot)
{
	seq_putc(m, prot & IOMMU_READ ? 'r' : '-');
	seq_putc(m, prot & IOMMU_WRITE ? 'w' : '-');
	seq_putc(m, prot & IOMMU_NOEXEC ? '-' : 'x');
	seq_putc(m, prot & IOMMU_CACHE ? 'c' : '-');
	seq_putc(m, prot & IOMMU_MMIO ? 'm' : '-');
	seq_putc(m, prot & IOMMU_PRIV ? 'p' : '-');
}

static void ptd_show_flags(struct seq_file *m, const struct iommu_ptd *ptd,
			   const struct iommu_ptd_item *item, bool entry)
{
	const struct iommu_ptd_bits *b;

	for (b = ptd->ops->bits; b->mask; b++) {
		bool vol = b->flags & IOMMU_PTD_VOLATILE;
		u64 val = (vol ? item->any : item->raw) & b->mask;

		if (vol && !entry)
			continue;
		if (!(b->flags & IOMMU_PTD_FIELD)) {
			if (val == b->val)
				seq_printf(m, " %s", b->name);
		} else if (val != b->val) {
			seq_printf(m, " %s%llu", b->name,
				   val >> __ffs64(b->mask));
		}
	}
}

static int ptd_page_table_show(struct seq_file *m, void *v)
{
	struct ptd_iter *it = m->private;
	struct ptd_range *line = &it->line;
	struct iommu_ptd_item *item = &line->item;
	char size[24], leaf[24];

	seq_printf(m, "0x%016llx-0x%016llx 0x%016llx %8s %u %8s ", item->iova,
		   line->last, item->oa,
		   ptd_size(size, sizeof(size), line->last - item->iova + 1),
		   item->level,
		   ptd_size(leaf, sizeof(leaf), BIT_ULL(item->lg2sz)));
	ptd_show_prot(m, item->prot);
	ptd_show_flags(m, iter_to_ptd(it), item, false);
	seq_putc(m, '\n');
	return 0;
}

static void ptd_show_entry(struct seq_file *m, const struct iommu_ptd *ptd,
			   const struct iommu_ptd_item *item)
{
	static const char *const kinds[] = {
		[IOMMU_PTD_TABLE] = "table",
		[IOMMU_PTD_LEAF] = "leaf",
		[IOMMU_PTD_PART] = "part",
		[IOMMU_PTD_BAD] = "bad",
		[IOMMU_PTD_EMPTY] = "empty",
	};
	bool leaf = item->type == IOMMU_PTD_LEAF;
	char size[24] = "-";

	if (leaf)
		ptd_size(size, sizeof(size), BIT_ULL(item->lg2sz));
	seq_printf(m, "%u 0x%016llx %-5s %-2s 0x%016llx raw 0x%016llx",
		   item->level, item->iova, kinds[item->type], size, item->oa,
		   item->raw);
	if (leaf) {
		seq_putc(m, ' ');
		ptd_show_prot(m, item->prot);
		ptd_show_flags(m, ptd, item, true);
	}
	seq_putc(m, '\n');
}

static int ptd_entries_show(struct seq_file *m, void *v)
{
	struct ptd_iter *it = m->private;

	ptd_show_entry(m, iter_to_ptd(it), &it->line.item);
	return 0;
}

/* From the top table to where the translation of one IOVA ends */
static int ptd_lookup_show(struct seq_file *m, void *v)
{
	struct ptd_iter *it = m->private;
	struct iommu_ptd *ptd = iter_to_ptd(it);
	struct iommu_ptd_item *item = it->items;
	struct iommu_ptd_cursor c = { .pos = it->iova, .path = true };
	int i, nr;

	rcu_read_lock();
	nr = ptd->ops->walk(ptd->table, &c, item, PTD_BATCH, PTD_BUDGET);
	rcu_read_unlock();

	seq_printf(m, "iova: 0x%016llx\n", it->iova);
	for (i = 0; i < nr; i++)
		ptd_show_entry(m, ptd, &item[i]);
	if (nr && item[nr - 1].type == IOMMU_PTD_LEAF)
		seq_printf(m, "output: 0x%016llx\n",
			   item[nr - 1].oa + (it->iova - item[nr - 1].iova));
	else
		seq_puts(m, "output: -\n");
	return 0;
}

static ssize_t ptd_lookup_write(struct file *file, const char __user *buf,
				size_t count, loff_t *ppos)
{
	struct seq_file *m = file->private_data;
	struct ptd_iter *it = m->private;
	u64 iova;
	loff_t ret = kstrtou64_from_user(buf, count, 0, &iova);

	if (ret)
		return ret;
	mutex_lock(&m->lock);
	it->iova = iova;
	it->asked = true;
	mutex_unlock(&m->lock);
	/* What is read next is the answer */
	*ppos = 0;
	ret = iommu_ptd_seq_llseek(file, 0, SEEK_SET);
	return ret < 0 ? ret : count;
}

static int ptd_stats_show(struct seq_file *m, void *v)
{
	u64 tables[8] = {}, leaves[8] = {}, all[3] = {};
	struct ptd_iter *it = m->private;
	struct iommu_ptd *ptd = iter_to_ptd(it);
	struct iommu_ptd_info info;
	int level;

	ptd->ops->info(ptd->table, &info);
	while (ptd_advance_entry(m)) {
		struct iommu_ptd_item *item = &it->line.item;

		if (item->type == IOMMU_PTD_TABLE)
			tables[(item->level - 1) & 7]++;
		else if (item->type == IOMMU_PTD_LEAF)
			leaves[item->level & 7]++;
	}
	if (it->seq.error)
		return it->seq.error;

	seq_puts(m, "level tables leaves bytes\n");
	tables[info.levels - 1] = 1;
	for (level = info.levels - 1; level >= 0; level--) {
		u64 bytes = level == info.levels - 1 ?
				    info.top_bytes :
				    tables[level] * info.table_bytes;

		seq_printf(m, "%d %llu %llu %llu\n", level, tables[level],
			   leaves[level], bytes);
		all[0] += tables[level];
		all[1] += leaves[level];
		all[2] += bytes;
	}
	seq_printf(m, "total %llu %llu %llu\n", all[0], all[1], all[2]);
	return 0;
}

static int ptd_info_show(struct seq_file *m, void *v)
{
	struct iommu_ptd *ptd = iter_to_ptd(m->private);
	struct iommu_domain *domain = ptd->domain;
	unsigned long sizes = READ_ONCE(domain->pgsize_bitmap);
	unsigned int type = READ_ONCE(domain->type), bit;
	struct iommu_ptd_info info;
	char size[24];

	ptd->ops->info(ptd->table, &info);
	seq_printf(m, "format: %s\n", ptd->ops->format);
	seq_printf(m, "type: %s\n", type == IOMMU_DOMAIN_DMA_FQ ? "dma-fq" :
				    type == IOMMU_DOMAIN_DMA	? "dma" :
								  "unmanaged");
	seq_printf(m, "aperture: 0x%016llx-0x%016llx\n",
		   (u64)READ_ONCE(domain->geometry.aperture_start),
		   (u64)READ_ONCE(domain->geometry.aperture_end));
	seq_puts(m, "page_sizes:");
	for_each_set_bit(bit, &sizes, BITS_PER_LONG)
		seq_printf(m, " %s", ptd_size(size, sizeof(size), BIT_ULL(bit)));
	seq_printf(m, "\nlevels: %u\n", info.levels);
	seq_printf(m, "top: 0x%016llx\n", (u64)info.top);
	return 0;
}

/* info and stats are one record to seq_file */
static bool ptd_advance_once(struct seq_file *m)
{
	struct ptd_iter *it = m->private;

	return it->seq.pos < 0;
}

static bool ptd_advance_lookup(struct seq_file *m)
{
	struct ptd_iter *it = m->private;

	return it->asked && it->seq.pos < 0;
}

#define PTD_FILE(name, advance, writer)					\
	IOMMU_PTD_FILE(name, sizeof(struct ptd_iter), advance,		\
		       ptd_rewind, writer)

PTD_FILE(ptd_info, ptd_advance_once, NULL);
PTD_FILE(ptd_page_table, ptd_advance_range, NULL);
PTD_FILE(ptd_entries, ptd_advance_entry, NULL);
PTD_FILE(ptd_stats, ptd_advance_once, NULL);
PTD_FILE(ptd_lookup, ptd_advance_lookup, ptd_lookup_write);

/* The files of a domain, its directory made */
void iommu_ptd_create_files(struct iommu_ptd_node *node)
{
	debugfs_create_file_unsafe("info", 0400, node->dir, node, &ptd_info_fops);
	debugfs_create_file_unsafe("page_table", 0400, node->dir, node, &ptd_page_table_fops);
	debugfs_create_file_unsafe("entries", 0400, node->dir, node, &ptd_entries_fops);
	debugfs_create_file_unsafe("stats", 0400, node->dir, node, &ptd_stats_fops);
	debugfs_create_file_unsafe("lookup", 0600, node->dir, node, &ptd_lookup_fops);
}
