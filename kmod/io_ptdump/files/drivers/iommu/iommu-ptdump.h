/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page table dump in debugfs: what page table formats and drivers supply
 *
 * A page table format hands the core one function that fills an array with the
 * entries from a cursor on. Everything else, directories, files, batches,
 * merging and text, is done once in iommu-ptdump*.c. The words are those of
 * "Generic Page Table Language" in generic_pt/pt_defs.h.
 */
#ifndef __IOMMU_PTDUMP_H
#define __IOMMU_PTDUMP_H

#include <linux/bits.h>
#include <linux/completion.h>
#include <linux/iommu-ptdump.h>
#include <linux/kref.h>
#include <linux/refcount.h>
#include <linux/types.h>
#include <linux/workqueue.h>

struct dentry;
struct file;
struct inode;
struct iov_iter;
struct kiocb;
struct seq_file;
struct seq_operations;

/**
 * enum iommu_ptd_type - What an entry is
 * @IOMMU_PTD_TABLE: Points to a table of the next lower level
 * @IOMMU_PTD_LEAF: Translates
 * @IOMMU_PTD_PART: One item of a contiguous entry whose first item is gone or
 *	not there yet, because the entry is being cleared or written
 * @IOMMU_PTD_BAD: Non-zero, but neither a valid leaf nor a table that can be
 *	followed
 * @IOMMU_PTD_EMPTY: Nothing; only the end of a path is that
 */
enum iommu_ptd_type {
	IOMMU_PTD_TABLE,
	IOMMU_PTD_LEAF,
	IOMMU_PTD_PART,
	IOMMU_PTD_BAD,
	IOMMU_PTD_EMPTY,
};

/* struct iommu_ptd_item prot: what the leaf entry itself permits */
enum {
	IOMMU_PTD_READ = BIT(0),
	IOMMU_PTD_WRITE = BIT(1),
	IOMMU_PTD_EXEC = BIT(2),
	IOMMU_PTD_CACHE = BIT(3),
	IOMMU_PTD_MMIO = BIT(4),
	IOMMU_PTD_PRIV = BIT(5),
};

/**
 * struct iommu_ptd_item - One entry of a page table
 * @iova: First IOVA that the entry covers, as a device issues it
 * @oa: Output address of @iova for a leaf, physical address of the lower table
 *	for a table
 * @raw: The item as in memory; the first one of a contiguous entry
 * @any: Leaves only: all bits that any item of a contiguous entry has set, for
 *	IOMMU_PTD_VOLATILE
 * @type: enum iommu_ptd_type
 * @level: Level of the table that holds the item
 * @lg2sz: log2 of the size of the whole entry in bytes
 * @prot: IOMMU_PTD_READ and so on, leaves only
 *
 * All but @any is decoded from a single load of @raw.
 */
struct iommu_ptd_item {
	u64 iova;
	u64 oa;
	u64 raw;
	u64 any;
	u8 type;
	u8 level;
	u8 lg2sz;
	u8 prot;
};

/**
 * struct iommu_ptd_cursor - Where a walk goes on
 * @pos: Position in the input space of the table, counted from its first
 *	address, not sign extended
 * @level: Entries that begin at @pos in a table of a higher level have been
 *	reported already
 * @end: Nothing is left
 * @path: @pos is an IOVA. All entries that cover it are reported as they are,
 *	from the top down, and nothing else; none where the table cannot map it
 *
 * An all zero cursor with @level set to U8_MAX starts at the beginning. Depth
 * first, the next entry begins at a greater position, or at the same one in a
 * lower table. Only what has taken the place of a table that was the last entry
 * of a batch is reported at that place again.
 */
struct iommu_ptd_cursor {
	u64 pos;
	u8 level;
	bool end;
	bool path;
};

/**
 * struct iommu_ptd_info - What a page table is right now
 * @top: Physical address of the top table
 * @top_bytes: Architectural size of the top table, of all where it is
 *	concatenated
 * @table_bytes: Architectural size of every other table
 * @levels: Number of levels in use
 */
struct iommu_ptd_info {
	phys_addr_t top;
	u32 top_bytes;
	u32 table_bytes;
	u8 levels;
};

/**
 * struct iommu_ptd_bits - One flag or field of a leaf entry
 * @mask: Bits of the item it occupies
 * @val: Value under @mask that shows @name; for IOMMU_PTD_FIELD the one value
 *	that shows nothing, U64_MAX to show them all
 * @name: Text, for IOMMU_PTD_FIELD followed by the value in decimal
 * @flags: IOMMU_PTD_FIELD, IOMMU_PTD_VOLATILE
 */
struct iommu_ptd_bits {
	u64 mask;
	u64 val;
	const char *name;
	u8 flags;
};

/* A number of several bits, shown as name and value */
#define IOMMU_PTD_FIELD		BIT(0)
/* Changed by hardware or bookkeeping: entries shows it, nothing is split by it */
#define IOMMU_PTD_VOLATILE	BIT(1)

/**
 * struct iommu_ptd_ops - How the core reads a page table format
 * @format: Name of the format, [a-z0-9_]+
 * @bits: Flags of a leaf entry in the order they are shown, ends with an empty
 *	mask
 * @walk: Fill @item with at most @n entries from @c on, and look at no more
 *	than @budget items, empty ones included; there must be more than levels,
 *	since each call begins at the top. Called in an RCU read side section:
 *	it must not sleep, lock, allocate or print. An entry that
 *	begins before the cursor was not there when the cursor passed it, and is
 *	reported from the cursor on. Returns the number of entries; none without
 *	@c->end means to call again.
 * @info: Fill in @info from one load of the top table. It must not sleep.
 */
struct iommu_ptd_ops {
	const char *format;
	const struct iommu_ptd_bits *bits;
	int (*walk)(void *table, struct iommu_ptd_cursor *c,
		    struct iommu_ptd_item *item, int n, int budget);
	void (*info)(void *table, struct iommu_ptd_info *info);
};

/**
 * struct iommu_ptd_node - A directory of debugfs whose subject may go
 * @ref: Held by the directory and by every open file
 * @users: Readers that are inside the subject, and one for the subject itself
 * @idle: Completed when the last of @users has left
 * @add: Makes the directory
 * @del: Removes it
 * @dir: The directory
 * @create: Make the directory and its files, the private data of which is the
 *	node
 * @release: Free what the node is part of
 * @dying: The subject goes; readers give up at their next batch
 *
 * debugfs must not be touched under a lock that map, attach or probe take: a
 * getdents() that waits for user memory holds the lock of the directory. Work
 * items of one ordered queue do that, at some time; the subject waits for
 * nothing but the readers that are inside it.
 */
struct iommu_ptd_node {
	struct kref ref;
	refcount_t users;
	struct completion idle;
	struct work_struct add;
	struct work_struct del;
	struct dentry *dir;
	struct dentry *(*create)(struct iommu_ptd_node *node);
	void (*release)(struct iommu_ptd_node *node);
	bool dying;
};

/**
 * struct iommu_ptd_seq - What an open file remembers, first in its private data
 * @node: Whose file it is
 * @advance: Make the next record; false at the end and on error
 * @rewind: Go back to before the first record
 * @pos: Number of the current record, -1 for none. Not an IOVA: loff_t is
 *	signed, IOVAs may have bit 63 set
 * @error: Why the walk ended early
 * @inside: ->start() has entered the node
 */
struct iommu_ptd_seq {
	struct iommu_ptd_node *node;
	bool (*advance)(struct seq_file *m);
	void (*rewind)(struct seq_file *m);
	loff_t pos;
	int error;
	bool inside;
};

bool iommu_ptd_table_ok(phys_addr_t pa, size_t size);

#ifdef CONFIG_IOMMU_PTDUMP_DEBUGFS
void iommu_ptd_add(struct iommu_domain *domain, const struct iommu_ptd_ops *ops,
		   void *table);
u32 iommu_ptd_find(phys_addr_t top);

void iommu_ptd_node_add(struct iommu_ptd_node *node);
void iommu_ptd_node_del(struct iommu_ptd_node *node);

int iommu_ptd_seq_open(struct inode *inode, struct file *file,
		       const struct seq_operations *ops, size_t size,
		       bool (*advance)(struct seq_file *m),
		       void (*rewind)(struct seq_file *m));
int iommu_ptd_seq_release(struct inode *inode, struct file *file);
bool iommu_ptd_seq_stopped(struct iommu_ptd_seq *s);
void *iommu_ptd_seq_start(struct seq_file *m, loff_t *pos);
void *iommu_ptd_seq_next(struct seq_file *m, void *v, loff_t *pos);
void iommu_ptd_seq_stop(struct seq_file *m, void *v);
ssize_t iommu_ptd_seq_read_iter(struct kiocb *iocb, struct iov_iter *iter);
loff_t iommu_ptd_seq_llseek(struct file *file, loff_t offset, int whence);

/* Defines <name>_fops; <name>_show() shows a record */
#define IOMMU_PTD_FILE(name, size, advance, rewind, writer)			\
static const struct seq_operations name##_seq_ops = {			\
	.start = iommu_ptd_seq_start,					\
	.next = iommu_ptd_seq_next,					\
	.stop = iommu_ptd_seq_stop,					\
	.show = name##_show,						\
};									\
									\
static int name##_open(struct inode *inode, struct file *file)		\
{									\
	return iommu_ptd_seq_open(inode, file, &name##_seq_ops, size,	\
				  advance, rewind);			\
}									\
									\
static const struct file_operations name##_fops = {			\
	.owner = THIS_MODULE,						\
	.open = name##_open,						\
	.read_iter = iommu_ptd_seq_read_iter,				\
	.write = writer,						\
	.llseek = iommu_ptd_seq_llseek,					\
	.release = iommu_ptd_seq_release,				\
}
#else
static inline void iommu_ptd_add(struct iommu_domain *domain,
				 const struct iommu_ptd_ops *ops, void *table)
{
}
#endif

#endif /* __IOMMU_PTDUMP_H */
