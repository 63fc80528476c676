// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page table dump of IOMMU domains in debugfs: the domains
 *
 * /sys/kernel/debug/iommu/domains/<id>/ is there for every domain whose page
 * table can be read, for as long as the table lives.
 */
#include <linux/debugfs.h>
#include <linux/init.h>
#include <linux/iommu.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "iommu-pages.h"
#include "iommu-ptdump.h"

static DEFINE_XARRAY_ALLOC1(ptd_domains);
static u32 ptd_next_id;
static struct dentry *ptd_domains_dir;

static struct dentry *ptd_create(struct iommu_ptd_node *node)
{
	char name[12];

	snprintf(name, sizeof(name), "%u", node_to_ptd(node)->id);
	node->dir = debugfs_create_dir(name, ptd_domains_dir);
	iommu_ptd_create_files(node);
	return node->dir;
}

static void ptd_release(struct iommu_ptd_node *node)
{
	kfree(node_to_ptd(node));
}

/**
 * iommu_ptd_add() - Offer the dump of a page table
 * @domain: Whose table it is
 * @ops: How to read it, valid until iommu_ptd_del()
 * @table: What @ops take
 *
 * The domain must work already as far as @ops go; what the driver fills in
 * later, like the aperture, is read when it is asked for. The directory appears
 * soon after this has returned. Without debugfs or memory there is none.
 *
 * Context: May sleep.
 */
void iommu_ptd_add(struct iommu_domain *domain, const struct iommu_ptd_ops *ops,
		   void *table)
{
	const struct iommu_ptd_bits *b;
	struct iommu_ptd *ptd;

	might_sleep();
	domain->ptd = NULL;
	if (!debugfs_initialized())
		return;
	ptd = kzalloc_obj(*ptd);
	if (!ptd)
		return;
	ptd->domain = domain;
	ptd->ops = ops;
	ptd->table = table;
	for (b = ops->bits; b->mask; b++)
		if (!(b->flags & IOMMU_PTD_VOLATILE))
			ptd->merge_mask |= b->mask;

	if (xa_alloc_cyclic(&ptd_domains, &ptd->id, ptd,
			    XA_LIMIT(1, INT_MAX), &ptd_next_id, GFP_KERNEL) < 0) {
		kfree(ptd);
		return;
	}
	ptd->node.create = ptd_create;
	ptd->node.release = ptd_release;
	domain->ptd = ptd;
	iommu_ptd_node_add(&ptd->node);
}

/**
 * iommu_ptd_del() - Withdraw the dump of a page table
 * @domain: Whose table it is; nothing happens where it has no dump
 *
 * Must be called before the first page of the table is freed. On return no
 * reader is inside the table, and none will be; open files fail with EIO, and
 * the directory goes soon.
 *
 * Context: May sleep, for a batch of a reader at most.
 */
void iommu_ptd_del(struct iommu_domain *domain)
{
	struct iommu_ptd *ptd = domain->ptd;

	might_sleep();
	if (!ptd)
		return;
	domain->ptd = NULL;
	xa_erase(&ptd_domains, ptd->id);
	iommu_ptd_node_del(&ptd->node);
}

/**
 * iommu_ptd_find() - Find the domain whose page table begins at an address
 * @top: Physical address of a top table, as hardware was told
 *
 * For drivers that show what their hardware uses. The lock of the array keeps
 * the domains that are looked at: iommu_ptd_del() takes it before it returns,
 * map, unmap and attach never do.
 *
 * Context: Any but interrupts.
 * Returns: The id, or 0 if there is no such domain.
 */
u32 iommu_ptd_find(phys_addr_t top)
{
	struct iommu_ptd_info info;
	struct iommu_ptd *ptd;
	unsigned long id;

	xa_lock(&ptd_domains);
	xa_for_each(&ptd_domains, id, ptd) {
		ptd->ops->info(ptd->table, &info);
		if (info.top == top)
			break;
	}
	xa_unlock(&ptd_domains);
	return ptd ? id : 0;
}

/*
 * Can a walk follow an item to a table at @pa? A corrupt table must not take the
 * kernel down with it. Leaves point anywhere, doorbells and BARs included, but a
 * table is memory that iommu-pages.c has allocated, and begins where that begins.
 */
bool iommu_ptd_table_ok(phys_addr_t pa, size_t size)
{
	struct folio *folio;

	if (!pfn_valid(PHYS_PFN(pa)))
		return false;
	folio = pfn_folio(PHYS_PFN(pa));
	return folio_test_iopt(folio) && folio_size(folio) >= size &&
	       PFN_PHYS(folio_pfn(folio)) == pa;
}

static int __init iommu_ptd_init(void)
{
	ptd_domains_dir = debugfs_create_dir("domains", iommu_debugfs_dir);
	return 0;
}

/* After iommu_debugfs_setup(), before any IOMMU is probed */
postcore_initcall(iommu_ptd_init);
