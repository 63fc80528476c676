/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Page table dump of IOMMU domains in debugfs
 *
 * A page table format hands the core one function that fills an array with the
 * entries from a cursor on. Everything else, the files, batches, merging and
 * text, is done once by drivers/iommu/iommu-ptdump.c. The words are those of
 * "Generic Page Table Language" in drivers/iommu/generic_pt/pt_defs.h.
 */
#ifndef __LINUX_IOMMU_PTDUMP_H
#define __LINUX_IOMMU_PTDUMP_H

#include <linux/bits.h>
#include <linux/iommu.h>
#include <linux/types.h>

/**
 * enum iommu_ptd_type - What an entry is
 * @IOMMU_PTD_TABLE: Points to a table of the next lower level
 * @IOMMU_PTD_LEAF: Translates
 * @IOMMU_PTD_BAD: Non-zero, but neither a valid leaf nor a table that can be
 *	followed
 */
enum iommu_ptd_type {
	IOMMU_PTD_TABLE,
	IOMMU_PTD_LEAF,
	IOMMU_PTD_BAD,
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
 * @raw: The item as in memory; of a contiguous entry the first item
 * @type: enum iommu_ptd_type
 * @level: Level of the table that holds the item
 * @lg2sz: log2 of the size of the whole entry in bytes
 * @prot: IOMMU_PTD_READ and so on, leaves only
 *
 * All of it is decoded from a single load of @raw.
 */
struct iommu_ptd_item {
	u64 iova;
	u64 oa;
	u64 raw;
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
 *	than @budget items, empty ones included. Called in an RCU read side
 *	section: it must not sleep, lock, allocate or print. An entry that
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

struct dentry;
struct file;
struct iov_iter;
struct kiocb;

/**
 * struct iommu_ptd - The dump of one domain
 * @domain: Whose page table it is
 * @ops: How to read it
 * @table: What @ops take
 * @dir: domains/<id>
 * @merge_mask: Bits that must be equal for neighbours to be one range
 * @id: Name of @dir, never 0
 * @dying: Set once the domain goes, readers give up at their next batch
 */
struct iommu_ptd {
	struct iommu_domain *domain;
	const struct iommu_ptd_ops *ops;
	void *table;
	struct dentry *dir;
	u64 merge_mask;
	u32 id;
	bool dying;
};

bool iommu_ptd_table_ok(phys_addr_t pa, size_t size);

#ifdef CONFIG_IOMMU_PTDUMP_DEBUGFS
void iommu_ptd_add(struct iommu_domain *domain, const struct iommu_ptd_ops *ops,
		   void *table);
void iommu_ptd_del(struct iommu_domain *domain);
u32 iommu_ptd_find(phys_addr_t top);

ssize_t iommu_ptd_read_iter(struct kiocb *iocb, struct iov_iter *iter);
loff_t iommu_ptd_llseek(struct file *file, loff_t offset, int whence);

/**
 * iommu_ptd_id() - The name of the domain's directory
 * @domain: The domain
 *
 * Returns: The id, or 0 where the domain has no directory.
 */
static inline u32 iommu_ptd_id(const struct iommu_domain *domain)
{
	return domain->ptd ? domain->ptd->id : 0;
}
#else
static inline void iommu_ptd_add(struct iommu_domain *domain,
				 const struct iommu_ptd_ops *ops, void *table)
{
}

static inline void iommu_ptd_del(struct iommu_domain *domain)
{
}

static inline u32 iommu_ptd_id(const struct iommu_domain *domain)
{
	return 0;
}
#endif

#endif /* __LINUX_IOMMU_PTDUMP_H */
