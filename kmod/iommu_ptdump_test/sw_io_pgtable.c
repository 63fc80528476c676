// SPDX-License-Identifier: GPL-2.0-only
/* Software page tables of io-pgtable's Arm formats, behind a wrapper iommu_domain. */
#include <linux/bits.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/io-pgtable.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "ptdump_test.h"

/* Older kernels do not have all of them */
#ifndef IO_PGTABLE_QUIRK_ARM_S2FWB
#define IO_PGTABLE_QUIRK_ARM_S2FWB 0
#endif
#ifndef IO_PGTABLE_QUIRK_ARM_HD
#define IO_PGTABLE_QUIRK_ARM_HD 0
#endif

/**
 * struct sw_table - one software table
 * @domain: what the core maps into
 * @ops: the page table
 */
struct sw_table {
	struct iommu_domain domain;
	struct io_pgtable_ops *ops;
};

/* io-pgtable takes the NUMA node of its tables from a device */
static struct device *sw_device;

static struct sw_table *to_table(struct iommu_domain *domain)
{
	return container_of(domain, struct sw_table, domain);
}

/* No TLB is behind these tables */
static void flush_all(void *cookie)
{
}

static void flush_walk(unsigned long iova, size_t size, size_t granule, void *cookie)
{
}

static void add_page(struct iommu_iotlb_gather *gather, unsigned long iova, size_t granule,
		     void *cookie)
{
}

static const struct iommu_flush_ops no_flush = {
	.tlb_flush_all = flush_all,
	.tlb_flush_walk = flush_walk,
	.tlb_add_page = add_page,
};

static int sw_map_pages(struct iommu_domain *domain, unsigned long iova, phys_addr_t pa,
			size_t pgsize, size_t count, int prot, gfp_t gfp, size_t *mapped)
{
	struct io_pgtable_ops *ops = to_table(domain)->ops;

	return ops->map_pages(ops, iova, pa, pgsize, count, prot, gfp, mapped);
}

static size_t sw_unmap_pages(struct iommu_domain *domain, unsigned long iova, size_t pgsize,
			     size_t count, struct iommu_iotlb_gather *gather)
{
	struct io_pgtable_ops *ops = to_table(domain)->ops;

	return ops->unmap_pages(ops, iova, pgsize, count, gather);
}

static phys_addr_t sw_iova_to_phys(struct iommu_domain *domain, dma_addr_t iova)
{
	struct io_pgtable_ops *ops = to_table(domain)->ops;

	return ops->iova_to_phys(ops, iova);
}

static const struct iommu_domain_ops sw_ops = {
	.map_pages = sw_map_pages,
	.unmap_pages = sw_unmap_pages,
	.iova_to_phys = sw_iova_to_phys,
};

static int sw_set_dirty_tracking(struct iommu_domain *domain, bool enabled)
{
	return 0;
}

static int sw_read_and_clear_dirty(struct iommu_domain *domain, unsigned long iova, size_t size,
				   unsigned long flags, struct iommu_dirty_bitmap *dirty)
{
	struct io_pgtable_ops *ops = to_table(domain)->ops;

	return ops->read_and_clear_dirty(ops, iova, size, flags, dirty);
}

static const struct iommu_dirty_ops sw_dirty_ops = {
	.set_dirty_tracking = sw_set_dirty_tracking,
	.read_and_clear_dirty = sw_read_and_clear_dirty,
};

/* Pages that are free at once, as some drivers give them to io-pgtable */
static void *own_alloc(void *cookie, size_t size, gfp_t gfp)
{
	return alloc_pages_exact(size, gfp | __GFP_ZERO);
}

static void own_free(void *cookie, void *pages, size_t size)
{
	free_pages_exact(pages, size);
}

static const struct {
	const char *name;
	enum io_pgtable_fmt fmt;
	unsigned int stage;
	unsigned int max_ias;
	unsigned int max_oas;
} formats[] = {
	{ "arm_32_lpae_s1", ARM_32_LPAE_S1, 1, 32, 40 },
	{ "arm_32_lpae_s2", ARM_32_LPAE_S2, 2, 40, 40 },
	{ "arm_64_lpae_s1", ARM_64_LPAE_S1, 1, 52, 52 },
	{ "arm_64_lpae_s2", ARM_64_LPAE_S2, 2, 52, 52 },
	/* a GPU's, neither of both stages */
	{ "arm_mali_lpae", ARM_MALI_LPAE, 0, 48, 40 },
};

static int find_format(const char *name)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(formats); i++)
		if (!strcmp(formats[i].name, name))
			return i;
	return -ENOENT;
}

bool ptt_is_io_pgtable_format(const char *name)
{
	return find_format(name) >= 0;
}

static void sw_free(struct ptt_domain *d)
{
	struct sw_table *table = to_table(d->domain);

	ptt_dump_del(&table->domain);
	free_io_pgtable_ops(table->ops);
	kfree(table);
}

/* The sizes of one granule: all of a bitmap and the format would choose itself */
static unsigned long granule_sizes(u64 granule, u64 oas)
{
	switch (granule) {
	case SZ_4K:
		return SZ_4K | SZ_2M | SZ_1G;
	case SZ_16K:
		return SZ_16K | SZ_32M;
	case SZ_64K:
		return SZ_64K | SZ_512M | (oas > 48 ? BIT_ULL(42) : 0);
	default:
		return 0;
	}
}

static int parse_config(struct ptt_args *args, int fmt, struct io_pgtable_cfg *cfg,
			struct ptt_reply *reply)
{
	/* fwb is the one quirk of stage 2 */
	enum { HD, FWB, NS, TTBR1 };
	static const char *const words[] = { "hd", "fwb", "ns", "ttbr1" };
	static const unsigned long quirks[] = {
		IO_PGTABLE_QUIRK_ARM_HD, IO_PGTABLE_QUIRK_ARM_S2FWB,
		IO_PGTABLE_QUIRK_ARM_NS, IO_PGTABLE_QUIRK_ARM_TTBR1,
	};
	u64 granule = SZ_4K, ias, oas, max_bits;
	unsigned int stage = formats[fmt].stage;
	unsigned long bits = 0;
	int ret, i;

	ret = ptt_arg_number(args, PTT_GRANULE, SZ_4K, SZ_64K, &granule, reply);
	if (ret)
		return ret;
	if (!granule_sizes(granule, 0) || (granule != SZ_4K && formats[fmt].max_oas == 40))
		return ptt_fail(reply, -EINVAL, "no granule %s in %s",
				args->value[PTT_GRANULE], formats[fmt].name);

	/* 25 is the smallest input size of the architecture (TxSZ 39) */
	max_bits = granule == SZ_64K ? 52 : 48;
	oas = min(max_bits, formats[fmt].max_oas);
	ret = ptt_arg_number(args, PTT_OAS, 32, oas, &oas, reply);
	if (ret)
		return ret;
	ias = min(max_bits, formats[fmt].max_ias);
	/* a stage 2 translates what stage 1 puts out; more would need too many tops */
	if (stage == 2)
		ias = min(ias, oas);
	ret = ptt_arg_number(args, PTT_IAS, 25, ias, &ias, reply);
	if (ret)
		return ret;
	if (args->value[PTT_QUIRKS])
		ret = ptt_parse_words(args->value[PTT_QUIRKS], words, ARRAY_SIZE(words), &bits,
				      reply);
	if (ret)
		return ret;

	memset(cfg, 0, sizeof(*cfg));
	for (i = 0; i < ARRAY_SIZE(words); i++) {
		if (!(bits & BIT(i)))
			continue;
		if (stage != (i == FWB ? 2 : 1))
			return ptt_fail(reply, -EINVAL, "no quirk %s at stage %u", words[i], stage);
		if (!quirks[i])
			return ptt_fail(reply, -EOPNOTSUPP, "io-pgtable of this kernel has no %s",
					words[i]);
		cfg->quirks |= quirks[i];
	}
	cfg->pgsize_bitmap = granule_sizes(granule, oas);
	cfg->ias = ias;
	cfg->oas = oas;
	cfg->coherent_walk = true;
	cfg->tlb = &no_flush;
	if (args->value[PTT_PAGES]) {
		if (strcmp(args->value[PTT_PAGES], "own"))
			return ptt_fail(reply, -EINVAL, "pages= is own, or not given");
		cfg->alloc = own_alloc;
		cfg->free = own_free;
	}
	return 0;
}

/*
 * Older kernels put tables side by side in the place of a top at level 0
 * wherever 16 of them are enough. Newer ones do where Arm ARM R_DXBSH and
 * R_SRKBC demand it, which is not the same for these tables.
 */
static bool other_top(const struct io_pgtable_cfg *cfg, unsigned int stage, u64 granule)
{
#ifndef PTT_HAS_CONCAT_RULE
	if (stage == 2 && granule == SZ_4K && cfg->ias >= 40 && cfg->ias <= 43)
		return cfg->oas != 40 && cfg->oas != 42;
	if (stage == 2 && granule == SZ_16K && cfg->ias >= 37 && cfg->ias <= 40)
		return cfg->oas == 40;
#endif
	return false;
}

/**
 * ptt_sw_io_pgtable() - make a software table of an Arm format
 * @d: filled
 * @args: format=, granule=, ias=, oas=, quirks=, pages=
 * @reply: says what is wrong
 *
 * Return: 0 or -errno.
 */
int ptt_sw_io_pgtable(struct ptt_domain *d, struct ptt_args *args, struct ptt_reply *reply)
{
	int ret, fmt = find_format(args->value[PTT_FORMAT]);
	struct io_pgtable_cfg cfg;
	struct sw_table *table;

	if (!IS_ENABLED(CONFIG_IOMMU_IO_PGTABLE_LPAE))
		return ptt_fail(reply, -EOPNOTSUPP, "%s is not built in", formats[fmt].name);
	if (args->value[PTT_LEVELS] || args->value[PTT_VASZ] || args->value[PTT_OASZ] ||
	    args->value[PTT_FEATURES] || args->value[PTT_STAGE])
		return ptt_fail(reply, -EINVAL, "%s takes granule= ias= oas= quirks= pages=",
				formats[fmt].name);
	ret = parse_config(args, fmt, &cfg, reply);
	if (ret)
		return ret;

	if (other_top(&cfg, formats[fmt].stage, BIT_ULL(__ffs(cfg.pgsize_bitmap))))
		return ptt_fail(reply, -EOPNOTSUPP,
				"io-pgtable of this kernel begins ias=%u oas=%u at another level",
				cfg.ias, cfg.oas);

	table = kzalloc_obj(*table);
	if (!table)
		return -ENOMEM;
	cfg.iommu_dev = sw_device;
	table->ops = alloc_io_pgtable_ops(formats[fmt].fmt, &cfg, table);
	if (!table->ops) {
		kfree(table);
		return ptt_fail(reply, -EINVAL, "io-pgtable refuses ias=%u oas=%u, or no memory",
				cfg.ias, cfg.oas);
	}

	table->domain.type = IOMMU_DOMAIN_UNMANAGED;
	table->domain.ops = &sw_ops;
	if (cfg.quirks & IO_PGTABLE_QUIRK_ARM_HD)
		table->domain.dirty_ops = &sw_dirty_ops;
	table->domain.pgsize_bitmap = cfg.pgsize_bitmap;
	table->domain.geometry.aperture_end = GENMASK_ULL(cfg.ias - 1, 0);
	if (cfg.quirks & IO_PGTABLE_QUIRK_ARM_TTBR1) {
		table->domain.geometry.aperture_start = ~GENMASK_ULL(cfg.ias - 1, 0);
		table->domain.geometry.aperture_end = U64_MAX;
	}
	table->domain.geometry.force_aperture = true;

	d->domain = &table->domain;
	d->free = sw_free;
	d->format = formats[fmt].name;
	d->stage = formats[fmt].stage;
	d->ias = cfg.ias;
	d->oas = cfg.oas;
	/* ptt_get_table() knows what the two stages are told */
	if (d->stage)
		d->arm_cfg = &io_pgtable_ops_to_pgtable(table->ops)->cfg;
	d->aperture[0].first = table->domain.geometry.aperture_start;
	d->aperture[0].last = table->domain.geometry.aperture_end;
	d->nr_apertures = 1;
	ptt_dump_add(table->ops, &table->domain);
	return 0;
}

/* ptt_sw_init() - once, before the first table; 0 or -errno */
int ptt_sw_init(void)
{
	sw_device = root_device_register("iommu_ptdump_test");
	return PTR_ERR_OR_ZERO(sw_device);
}

/* ptt_sw_exit() - after the last table */
void ptt_sw_exit(void)
{
	root_device_unregister(sw_device);
}
