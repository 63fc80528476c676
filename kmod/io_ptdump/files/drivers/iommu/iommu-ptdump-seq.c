// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page table dump of IOMMU domains in debugfs: reading
 *
 * A reader takes no lock of map, unmap or attach. Levels of the table are freed
 * by RCU, so a walk is safe but not coherent: it sees each entry as it was at
 * some time during the read. Between two batches the reader reschedules and
 * finds out that the domain is going. debugfs_file_get() keeps the domain, from
 * ->start() to ->stop() and never while text is copied to user space, so that
 * iommu_ptd_del() waits for one batch at most.
 */
#include <linux/debugfs.h>
#include <linux/export.h>
#include <linux/iommu-ptdump.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>

#include "iommu-ptdump.h"

/* Bounds the RCU section, also over a table that holds nothing */
#define PTD_BUDGET	512
#define PTD_BATCH	64

/**
 * struct ptd_range - One line: an entry, or in page_table its neighbours too
 * @item: The first entry
 * @last: Last IOVA, inclusive
 */
struct ptd_range {
	struct iommu_ptd_item item;
	u64 last;
};

/**
 * struct ptd_iter - What an open file remembers
 * @ptd: Only valid from debugfs_file_get() to debugfs_file_put()
 * @advance: Make the next line
 * @cursor: Where the next batch begins
 * @items: The current batch
 * @nr: Number of @items
 * @next: The first of @items that is in no line yet
 * @line: The current line
 * @pos: Its number, -1 for none. Not an IOVA: loff_t is signed, IOVAs may have bit 63 set
 * @held: ->start() has got hold of the domain
 * @error: Why the walk ended early; said again by ->start(), as seq_file drops
 *	what ->next() returns while it has text to copy
 */
struct ptd_iter {
	struct iommu_ptd *ptd;
	bool (*advance)(struct ptd_iter *it);
	struct iommu_ptd_cursor cursor;
	struct iommu_ptd_item items[PTD_BATCH];
	int nr;
	int next;
	struct ptd_range line;
	loff_t pos;
	bool held;
	int error;
};

static void ptd_iter_reset(struct ptd_iter *it)
{
	it->cursor = (struct iommu_ptd_cursor){ .level = U8_MAX };
	it->line.item = (struct iommu_ptd_item){ .level = U8_MAX };
	it->nr = 0;
	it->next = 0;
	it->pos = -1;
	it->error = 0;
}

/* Returns the next entry without consuming it, NULL at the end or on error */
static struct iommu_ptd_item *ptd_peek(struct ptd_iter *it)
{
	struct iommu_ptd *ptd = it->ptd;

	while (it->next >= it->nr) {
		if (it->cursor.end)
			return NULL;
		if (READ_ONCE(ptd->dying)) {
			it->error = -EIO;
			return NULL;
		}
		if (fatal_signal_pending(current)) {
			it->error = -EINTR;
			return NULL;
		}
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

static bool ptd_next_range(struct ptd_iter *it)
{
	struct iommu_ptd_item *item = ptd_peek_leaf(it);

	if (!item)
		return false;
	it->line.item = *item;
	do {
		it->line.last = ptd_item_last(item);
		it->next++;
		item = ptd_peek_leaf(it);
	} while (item && ptd_mergeable(it->ptd, &it->line, item));
	return !it->error;
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

static bool ptd_next_entry(struct ptd_iter *it)
{
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
	static const char letters[] = "rwxcmp";
	int i;

	for (i = 0; letters[i]; i++)
		seq_putc(m, prot & BIT(i) ? letters[i] : '-');
}

static void ptd_show_flags(struct seq_file *m, const struct iommu_ptd *ptd,
			   u64 raw, bool volatile_too)
{
	const struct iommu_ptd_bits *b;

	for (b = ptd->ops->bits; b->mask; b++) {
		u64 val = raw & b->mask;

		if (b->flags & IOMMU_PTD_VOLATILE && !volatile_too)
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
	struct ptd_range *line = v;
	struct iommu_ptd_item *item = &line->item;
	struct ptd_iter *it = m->private;
	char size[24], leaf[24];

	seq_printf(m, "0x%016llx-0x%016llx 0x%016llx %8s %u %8s ", item->iova,
		   line->last, item->oa,
		   ptd_size(size, sizeof(size), line->last - item->iova + 1),
		   item->level,
		   ptd_size(leaf, sizeof(leaf), BIT_ULL(item->lg2sz)));
	ptd_show_prot(m, item->prot);
	ptd_show_flags(m, it->ptd, item->raw, false);
	seq_putc(m, '\n');
	return 0;
}

static int ptd_entries_show(struct seq_file *m, void *v)
{
	static const char *const kinds[] = {
		[IOMMU_PTD_TABLE] = "table",
		[IOMMU_PTD_LEAF] = "leaf",
		[IOMMU_PTD_BAD] = "bad",
	};
	struct ptd_range *line = v;
	struct iommu_ptd_item *item = &line->item;
	struct ptd_iter *it = m->private;
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
		ptd_show_flags(m, it->ptd, item->raw, true);
	}
	seq_putc(m, '\n');
	return 0;
}

static int ptd_stats_show(struct seq_file *m, void *v)
{
	u64 tables[8] = {}, leaves[8] = {}, all[3] = {};
	struct ptd_iter *it = m->private;
	struct iommu_ptd_info info;
	int level;

	it->ptd->ops->info(it->ptd->table, &info);
	while (ptd_next_entry(it)) {
		struct iommu_ptd_item *item = &it->line.item;

		if (item->type == IOMMU_PTD_TABLE)
			tables[(item->level - 1) & 7]++;
		else if (item->type == IOMMU_PTD_LEAF)
			leaves[item->level & 7]++;
	}
	if (it->error)
		return it->error;

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
	struct ptd_iter *it = m->private;
	struct iommu_domain *domain = it->ptd->domain;
	unsigned long sizes = READ_ONCE(domain->pgsize_bitmap);
	unsigned int type = READ_ONCE(domain->type), bit;
	struct iommu_ptd_info info;
	char size[24];

	it->ptd->ops->info(it->ptd->table, &info);
	seq_printf(m, "format: %s\n", it->ptd->ops->format);
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

/* info and stats are one line to seq_file */
static bool ptd_next_once(struct ptd_iter *it)
{
	return it->pos < 0;
}

static void *ptd_line(struct ptd_iter *it, loff_t pos)
{
	if (it->error)
		return ERR_PTR(it->error);
	return it->pos == pos ? &it->line : NULL;
}

/* seq_file begins at line 0, or goes on with the line that did not fit */
static void *ptd_start(struct seq_file *m, loff_t *pos)
{
	struct ptd_iter *it = m->private;
	int ret;

	ret = debugfs_file_get(m->file->f_path.dentry);
	it->held = !ret;
	if (ret)
		return ERR_PTR(ret);

	if (*pos == 0) {
		ptd_iter_reset(it);
		if (it->advance(it))
			it->pos = 0;
	}
	return ptd_line(it, *pos);
}

static void *ptd_next(struct seq_file *m, void *v, loff_t *pos)
{
	struct ptd_iter *it = m->private;

	++*pos;
	/* Also between the lines of one batch, or removal would wait for a page */
	if (READ_ONCE(it->ptd->dying))
		it->error = -EIO;
	it->pos = !it->error && it->advance(it) ? *pos : -1;
	return ptd_line(it, *pos);
}

static void ptd_stop(struct seq_file *m, void *v)
{
	struct ptd_iter *it = m->private;

	if (it->held)
		debugfs_file_put(m->file->f_path.dentry);
	it->held = false;
}

static int ptd_open(struct inode *inode, struct file *file,
		    const struct seq_operations *seq,
		    bool (*advance)(struct ptd_iter *it))
{
	struct ptd_iter *it = __seq_open_private(file, seq, sizeof(*it));

	if (!it)
		return -ENOMEM;
	it->ptd = inode->i_private;
	it->advance = advance;
	ptd_iter_reset(it);
	return 0;
}

/*
 * seq_file hands out the rest of its buffer without ->start(), and may seek
 * without it. Once the domain is gone neither may succeed.
 */
static int ptd_alive(struct file *file)
{
	int ret = debugfs_file_get(file->f_path.dentry);

	if (!ret)
		debugfs_file_put(file->f_path.dentry);
	return ret;
}

/**
 * iommu_ptd_read_iter() - ->read_iter() of a seq_file in debugfs
 * @iocb: The file, of debugfs_create_file_unsafe()
 * @iter: Where to
 *
 * The seq_file's ->start() must call debugfs_file_get() and ->stop()
 * debugfs_file_put(). Then removal waits for a reader only while it is between
 * the two, and not while it copies to user space.
 *
 * Returns: Number of bytes, -EIO once the file is removed.
 */
ssize_t iommu_ptd_read_iter(struct kiocb *iocb, struct iov_iter *iter)
{
	int ret = ptd_alive(iocb->ki_filp);

	return ret ?: seq_read_iter(iocb, iter);
}
EXPORT_SYMBOL_GPL(iommu_ptd_read_iter);

/**
 * iommu_ptd_llseek() - ->llseek() that goes with iommu_ptd_read_iter()
 * @file: The file
 * @offset: As for lseek()
 * @whence: As for lseek()
 *
 * Returns: The new offset, -EIO once the file is removed.
 */
loff_t iommu_ptd_llseek(struct file *file, loff_t offset, int whence)
{
	int ret = ptd_alive(file);

	return ret ?: seq_lseek(file, offset, whence);
}
EXPORT_SYMBOL_GPL(iommu_ptd_llseek);

#define PTD_FILE(name, advance)						\
static const struct seq_operations ptd_##name##_seq_ops = {		\
	.start = ptd_start,						\
	.next = ptd_next,						\
	.stop = ptd_stop,						\
	.show = ptd_##name##_show,					\
};									\
									\
static int ptd_##name##_open(struct inode *inode, struct file *file)	\
{									\
	return ptd_open(inode, file, &ptd_##name##_seq_ops, advance);	\
}									\
									\
static const struct file_operations ptd_##name##_fops = {		\
	.open = ptd_##name##_open,					\
	.read_iter = iommu_ptd_read_iter,				\
	.llseek = iommu_ptd_llseek,					\
	.release = seq_release_private,					\
}

PTD_FILE(info, ptd_next_once);
PTD_FILE(page_table, ptd_next_range);
PTD_FILE(entries, ptd_next_entry);
PTD_FILE(stats, ptd_next_once);

static const struct {
	const char *name;
	const struct file_operations *fops;
} ptd_files[] = {
	{ "info", &ptd_info_fops },
	{ "page_table", &ptd_page_table_fops },
	{ "entries", &ptd_entries_fops },
	{ "stats", &ptd_stats_fops },
};

/**
 * ptd_create_files() - Make the files of a domain
 * @ptd: The domain's dump, its directory made
 *
 * The unsafe variety: the other one would hold the file while seq_file copies to
 * user space, and with it whoever frees the domain.
 */
int ptd_create_files(struct iommu_ptd *ptd)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(ptd_files); i++) {
		struct dentry *file =
			debugfs_create_file_unsafe(ptd_files[i].name, 0400,
						   ptd->dir, ptd,
						   ptd_files[i].fops);

		if (IS_ERR(file))
			return PTR_ERR(file);
	}
	return 0;
}
