// SPDX-License-Identifier: GPL-2.0-only
/*
 * Software page tables of the generic_pt formats. The table is an
 * iommu_domain of its own (struct pt_iommu), so the core maps into it as it
 * does for a driver, see iommufd/hwpt_noiommu.c.
 */
#include <linux/bits.h>
#include <linux/generic_pt/iommu.h>
#include <linux/numa.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>

#include "iommu-pages.h"
#include "ptdump_test.h"

struct sw_table {
	union {
		struct iommu_domain domain;
		struct pt_iommu iommu;
		struct pt_iommu_amdv1 amdv1;
		struct pt_iommu_vtdss vtdss;
		struct pt_iommu_x86_64 x86_64;
		struct pt_iommu_riscv_64 riscv_64;
	};
	spinlock_t top_lock;	/* held while the top grows */
};

PT_IOMMU_CHECK_DOMAIN(struct sw_table, amdv1.iommu, domain);
PT_IOMMU_CHECK_DOMAIN(struct sw_table, vtdss.iommu, domain);
PT_IOMMU_CHECK_DOMAIN(struct sw_table, x86_64.iommu, domain);
PT_IOMMU_CHECK_DOMAIN(struct sw_table, riscv_64.iommu, domain);

/* There is no hardware to tell of a new top */
static void sw_change_top(struct pt_iommu *iommu, phys_addr_t top, unsigned int level)
{
}

static spinlock_t *sw_get_top_lock(struct pt_iommu *iommu)
{
	return &container_of(iommu, struct sw_table, iommu)->top_lock;
}

static const struct pt_iommu_driver_ops sw_driver_ops = {
	.change_top = sw_change_top,
	.get_top_lock = sw_get_top_lock,
};

static void sw_iotlb_sync(struct iommu_domain *domain, struct iommu_iotlb_gather *gather)
{
	iommu_put_pages_list(&gather->freelist);
}

/**
 * struct pt_config - what was asked for, checked
 * @levels: levels to begin with
 * @vasz: bits of IOVA
 * @oasz: bits of PA
 * @features: PT_FEAT_* bits
 */
struct pt_config {
	u64 levels;
	u64 vasz;
	u64 oasz;
	unsigned int features;
};

static struct pt_iommu_cfg common_cfg(const struct pt_config *c)
{
	return (struct pt_iommu_cfg){
		.features = c->features,
		.hw_max_vasz_lg2 = c->vasz,
		.hw_max_oasz_lg2 = c->oasz,
	};
}

#if IS_ENABLED(CONFIG_IOMMU_PT_AMDV1)
static const struct iommu_domain_ops amdv1_ops = {
	IOMMU_PT_DOMAIN_OPS(amdv1),
	.iotlb_sync = sw_iotlb_sync,
};

static int amdv1_init(struct sw_table *t, const struct pt_config *c)
{
	struct pt_iommu_amdv1_cfg cfg = {
		.common = common_cfg(c),
		.starting_level = c->levels - 1,
	};

	t->domain.ops = &amdv1_ops;
	return pt_iommu_amdv1_init(&t->amdv1, &cfg, GFP_KERNEL);
}
#else
#define amdv1_init NULL
#endif

#if IS_ENABLED(CONFIG_IOMMU_PT_VTDSS)
static const struct iommu_domain_ops vtdss_ops = {
	IOMMU_PT_DOMAIN_OPS(vtdss),
	.iotlb_sync = sw_iotlb_sync,
};

static int vtdss_init(struct sw_table *t, const struct pt_config *c)
{
	struct pt_iommu_vtdss_cfg cfg = {
		.common = common_cfg(c),
		.top_level = c->levels - 1,
	};

	t->domain.ops = &vtdss_ops;
	return pt_iommu_vtdss_init(&t->vtdss, &cfg, GFP_KERNEL);
}
#else
#define vtdss_init NULL
#endif

#if IS_ENABLED(CONFIG_IOMMU_PT_X86_64)
static const struct iommu_domain_ops x86_64_ops = {
	IOMMU_PT_DOMAIN_OPS(x86_64),
	.iotlb_sync = sw_iotlb_sync,
};

static int x86_64_init(struct sw_table *t, const struct pt_config *c)
{
	struct pt_iommu_x86_64_cfg cfg = {
		.common = common_cfg(c),
		.top_level = c->levels - 1,
	};

	t->domain.ops = &x86_64_ops;
	return pt_iommu_x86_64_init(&t->x86_64, &cfg, GFP_KERNEL);
}
#else
#define x86_64_init NULL
#endif

#if IS_ENABLED(CONFIG_IOMMU_PT_RISCV64)
static const struct iommu_domain_ops riscv_64_ops = {
	IOMMU_PT_DOMAIN_OPS(riscv_64),
	.iotlb_sync = sw_iotlb_sync,
};

static int riscv_64_init(struct sw_table *t, const struct pt_config *c)
{
	struct pt_iommu_riscv_64_cfg cfg = {
		.common = common_cfg(c),
	};

	t->domain.ops = &riscv_64_ops;
	return pt_iommu_riscv_64_init(&t->riscv_64, &cfg, GFP_KERNEL);
}
#else
#define riscv_64_init NULL
#endif

static const char *const feature_words[] = { "sign_extend", "force_coherence",
					     "force_writeable", "svnapot", "svpbmt" };

enum { SIGN_EXTEND, FORCE_COHERENCE, FORCE_WRITEABLE, SVNAPOT, SVPBMT, NR_FEATURES };

/**
 * struct sw_format - one format
 * @name: as in format=
 * @min_levels: fewest levels
 * @max_levels: most
 * @levels: by default
 * @max_vasz: most bits of IOVA, 0 for what the levels span
 * @max_oasz: most bits of PA
 * @fixed: features that are always on
 * @feature: PT_FEAT_* bit of each word, 0 where the format has none such
 * @on: words that are on when features= is not given, as the drivers have it
 * @init: makes the table
 */
static const struct sw_format {
	const char *name;
	unsigned int min_levels;
	unsigned int max_levels;
	unsigned int levels;
	unsigned int max_vasz;
	unsigned int max_oasz;
	unsigned int fixed;
	unsigned int feature[NR_FEATURES];
	unsigned long on;
	int (*init)(struct sw_table *t, const struct pt_config *c);
} formats[] = {
	{
		.name = "amdv1", .min_levels = 2, .max_levels = 6, .levels = 3,
		.max_vasz = 64, .max_oasz = 52, .init = amdv1_init,
		.fixed = BIT(PT_FEAT_DYNAMIC_TOP) | BIT(PT_FEAT_AMDV1_ENCRYPT_TABLES) |
			 BIT(PT_FEAT_AMDV1_FORCE_COHERENCE) | BIT(PT_FEAT_FLUSH_RANGE),
		.feature[FORCE_COHERENCE] = BIT(PT_FEAT_AMDV1_FORCE_COHERENCE),
		.on = BIT(FORCE_COHERENCE),
	},
	{
		.name = "vtdss", .min_levels = 3, .max_levels = 5, .levels = 4,
		.max_oasz = 52, .init = vtdss_init,
		.fixed = BIT(PT_FEAT_FLUSH_RANGE),
		.feature[FORCE_COHERENCE] = BIT(PT_FEAT_VTDSS_FORCE_COHERENCE),
		.feature[FORCE_WRITEABLE] = BIT(PT_FEAT_VTDSS_FORCE_WRITEABLE),
	},
	{
		.name = "x86_64", .min_levels = 4, .max_levels = 5, .levels = 4,
		.max_oasz = 52, .init = x86_64_init,
		.fixed = BIT(PT_FEAT_FLUSH_RANGE),
		.feature[SIGN_EXTEND] = BIT(PT_FEAT_SIGN_EXTEND),
		.on = BIT(SIGN_EXTEND),
	},
	{
		.name = "riscv_64", .min_levels = 3, .max_levels = 5, .levels = 4,
		.max_oasz = 56, .init = riscv_64_init,
		.fixed = BIT(PT_FEAT_FLUSH_RANGE) | BIT(PT_FEAT_DETAILED_GATHER),
		.feature[SIGN_EXTEND] = BIT(PT_FEAT_SIGN_EXTEND),
		.feature[SVNAPOT] = BIT(PT_FEAT_RISCV_SVNAPOT_64K),
		.feature[SVPBMT] = BIT(PT_FEAT_RISCV_SVPBMT),
		.on = BIT(SIGN_EXTEND) | BIT(SVNAPOT),
	},
};

static const struct sw_format *find_format(const char *name)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(formats); i++)
		if (!strcmp(formats[i].name, name))
			return &formats[i];
	return NULL;
}

bool ptt_is_generic_pt_format(const char *name)
{
	return find_format(name);
}

static int parse_config(struct ptt_args *args, const struct sw_format *f, struct pt_config *c,
			struct ptt_reply *reply)
{
	unsigned long words = f->on;
	unsigned int span, i;
	int ret;

	c->levels = f->levels;
	ret = ptt_arg_number(args, PTT_LEVELS, f->min_levels, f->max_levels, &c->levels, reply);
	if (ret)
		return ret;

	/* The top table must hold at least two items, a sign-extended one two a half */
	span = 12 + 9 * c->levels;
	c->vasz = f->max_vasz ?: span;
	ret = ptt_arg_number(args, PTT_VASZ, span - 7, f->max_vasz ?: span, &c->vasz, reply);
	if (ret)
		return ret;
	c->oasz = f->max_oasz;
	ret = ptt_arg_number(args, PTT_OASZ, 32, f->max_oasz, &c->oasz, reply);
	if (!ret && args->value[PTT_FEATURES])
		ret = ptt_parse_words(args->value[PTT_FEATURES], feature_words, NR_FEATURES,
				      &words, reply);
	if (ret)
		return ret;

	c->features = f->fixed;
	for (i = 0; i < NR_FEATURES; i++) {
		if (!(words & BIT(i)))
			continue;
		if (!f->feature[i])
			return ptt_fail(reply, -EINVAL, "%s has no %s", f->name, feature_words[i]);
		c->features |= f->feature[i];
	}
	return 0;
}

static void sw_free(struct ptt_domain *d)
{
	struct sw_table *table = container_of(d->domain, struct sw_table, domain);

	pt_iommu_deinit(&table->iommu);
	kfree(table);
}

/**
 * ptt_sw_generic_pt() - make a software table of a generic_pt format
 * @d: filled
 * @args: format=, levels=, vasz=, oasz=, features=
 * @reply: says what is wrong
 *
 * Return: 0 or -errno; -EOPNOTSUPP when the kernel is built without the format.
 */
int ptt_sw_generic_pt(struct ptt_domain *d, struct ptt_args *args, struct ptt_reply *reply)
{
	const struct sw_format *f = find_format(args->value[PTT_FORMAT]);
	struct iommu_domain_geometry *geometry;
	struct sw_table *table;
	struct pt_config c;
	int ret;

	if (!f->init)
		return ptt_fail(reply, -EOPNOTSUPP, "%s is not built in", f->name);
	if (args->value[PTT_GRANULE] || args->value[PTT_IAS] || args->value[PTT_OAS] ||
	    args->value[PTT_QUIRKS] || args->value[PTT_PAGES] || args->value[PTT_STAGE])
		return ptt_fail(reply, -EINVAL, "%s takes levels= vasz= oasz= features=", f->name);
	ret = parse_config(args, f, &c, reply);
	if (ret)
		return ret;

	table = kzalloc_obj(*table);
	if (!table)
		return -ENOMEM;
	spin_lock_init(&table->top_lock);
	table->iommu.nid = NUMA_NO_NODE;
	table->iommu.driver_ops = &sw_driver_ops;
	ret = f->init(table, &c);
	if (ret) {
		kfree(table);
		return ptt_fail(reply, ret, "%s refuses levels=%llu vasz=%llu oasz=%llu", f->name,
				c.levels, c.vasz, c.oasz);
	}

	d->domain = &table->domain;
	d->free = sw_free;
	d->format = f->name;
	d->ias = c.vasz;
	d->oas = c.oasz;
	geometry = &table->domain.geometry;
	d->aperture[0].first = geometry->aperture_start;
	d->aperture[0].last = geometry->aperture_end;
	d->nr_apertures = 1;
	/* the geometry says only the lower half, the table takes both */
	if (c.features & BIT(PT_FEAT_SIGN_EXTEND)) {
		d->aperture[1].first = ~geometry->aperture_end;
		d->aperture[1].last = U64_MAX;
		d->nr_apertures = 2;
	}
	return 0;
}
