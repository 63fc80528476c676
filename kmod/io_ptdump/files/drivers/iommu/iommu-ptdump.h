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
#include <linux/container_of.h>
#include <linux/iommu.h>
#include <linux/kref.h>
#include <linux/module.h>
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

/* What an entry is */
enum iommu_ptd_type {
	IOMMU_PTD_TABLE,	/* Points to a table of the next lower level */
	IOMMU_PTD_LEAF,		/* Translates */
	IOMMU_PTD_PART,		/* Of a contiguous entry without its first item */
	IOMMU_PTD_BAD,		/* Neither a leaf nor a table to be followed */
	IOMMU_PTD_EMPTY,	/* Nothing, at the end of a path only */
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
 * @prot: What a leaf itself permits, as IOMMU_READ and so on; IOMMU_NOEXEC also
 *	where the format does not know instruction fetches
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

/* What a page table is right now; sizes are those that hardware reads */
struct iommu_ptd_info {
	phys_addr_t top;
	u32 top_bytes;		/* Of all tables if the top is concatenated */
	u32 table_bytes;	/* Of every other table */
	u8 levels;		/* In use */
};

/*
 * One flag or field of a leaf entry. @val under @mask shows @name; for
 * IOMMU_PTD_FIELD it is the one value that shows nothing, U64_MAX for none.
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

/*
 * A directory of debugfs whose subject may go.
 *
 * debugfs must not be touched under a lock that map, attach or probe take: a
 * getdents() that waits for user memory holds the lock of the directory. Work
 * items of one ordered queue do that, at some time; the subject waits for
 * nothing but the readers that are inside it.
 */
struct iommu_ptd_node {
	struct kref ref;		/* Of the directory and of open files */
	refcount_t users;		/* Readers inside, and the subject */
	struct completion idle;		/* The last of @users has left */
	struct work_struct add;
	struct work_struct del;
	struct dentry *dir;
	/* Makes the directory and its files, the private data of which is the node */
	struct dentry *(*create)(struct iommu_ptd_node *node);
	void (*release)(struct iommu_ptd_node *node);
	bool dying;			/* Readers give up at their next batch */
};

/* The dump of one domain */
struct iommu_ptd {
	struct iommu_ptd_node node;	/* domains/<id> */
	struct iommu_domain *domain;
	const struct iommu_ptd_ops *ops;
	void *table;			/* What @ops take */
	u64 merge_mask;			/* Equal in all entries of a range */
	u32 id;				/* Never 0 */
};

static inline struct iommu_ptd *node_to_ptd(struct iommu_ptd_node *node)
{
	return container_of(node, struct iommu_ptd, node);
}

/* What an open file remembers, first in its private data */
struct iommu_ptd_seq {
	struct iommu_ptd_node *node;
	/* Makes the next record; false at the end and on error */
	bool (*advance)(struct seq_file *m);
	/* Goes back to before the first record */
	void (*rewind)(struct seq_file *m);
	/* Number of the record, -1 for none. An IOVA may not fit loff_t */
	loff_t pos;
	int error;
	bool inside;			/* ->start() has entered the node */
};

bool iommu_ptd_table_ok(phys_addr_t pa, size_t size);

#ifdef CONFIG_IOMMU_PTDUMP_DEBUGFS
#ifdef MODULE
MODULE_IMPORT_NS("IOMMU_PTDUMP");
#endif

void iommu_ptd_add(struct iommu_domain *domain, const struct iommu_ptd_ops *ops,
		   void *table);
void iommu_ptd_del(struct iommu_domain *domain);
void iommu_ptd_flush(void);
u32 iommu_ptd_find(phys_addr_t top);
void iommu_ptd_create_files(struct iommu_ptd_node *node);

/* The name of the domain's directory, 0 if it has none */
static inline u32 iommu_ptd_id(const struct iommu_domain *domain)
{
	return domain->ptd ? domain->ptd->id : 0;
}

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
				 const struct iommu_ptd_ops *ops, void *table) {}
static inline void iommu_ptd_del(struct iommu_domain *domain) {}
static inline u32 iommu_ptd_find(phys_addr_t top) { return 0; }
#endif

#endif /* __IOMMU_PTDUMP_H */
