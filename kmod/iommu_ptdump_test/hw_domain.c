// SPDX-License-Identifier: GPL-2.0-only
/* Domains of real IOMMUs: made by the core for a device, and what their page table is. */
#include <linux/device.h>
#include <linux/err.h>
#include <linux/io-pgtable.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <uapi/linux/iommufd.h>

#include "told.h"
#if defined(PTT_HAS_SMMU_V3) && IS_ENABLED(CONFIG_ARM_SMMU_V3)
#define WITH_SMMU_V3
#include "arm/arm-smmu-v3/arm-smmu-v3.h"
#endif

static void hw_free(struct ptt_domain *d)
{
	iommu_domain_free(d->domain);
	kfree(d->told);
}

#ifdef WITH_SMMU_V3
/*
 * The core does not say how many bits of PA a page table takes, and warns when
 * there are more; only the table itself knows.
 */
static bool describe_smmu_v3(struct ptt_domain *d, struct ptt_device *dev)
{
	struct device *smmu = dev->pdev->dev.iommu->iommu_dev->dev->parent;
	struct arm_smmu_domain *smmu_domain;
	struct io_pgtable *pgtable;

	if (!smmu || !smmu->driver || strcmp(smmu->driver->name, "arm-smmu-v3"))
		return false;
	smmu_domain = container_of(d->domain, struct arm_smmu_domain, domain);
	pgtable = io_pgtable_ops_to_pgtable(smmu_domain->pgtbl_ops);
	ptt_describe_arm(d, smmu_domain->stage == ARM_SMMU_DOMAIN_S1 ? 1 : 2, &pgtable->cfg);
	return true;
}
#else
static bool describe_smmu_v3(struct ptt_domain *d, struct ptt_device *dev)
{
	return false;
}
#endif

/*
 * Stage 2 is asked for as a nest parent: nothing else makes SMMUv3 choose it
 * where it has both. One that has stage 2 alone knows no nesting, and so does
 * a kernel that cannot be asked.
 */
static struct iommu_domain *alloc_paging(struct device *dev, u64 stage)
{
	struct iommu_domain *domain = ERR_PTR(-EOPNOTSUPP);

#ifdef PTT_HAS_ALLOC_FLAGS
	if (stage == 2)
		domain = iommu_paging_domain_alloc_flags(dev, IOMMU_HWPT_ALLOC_NEST_PARENT);
#endif
	if (domain == ERR_PTR(-EOPNOTSUPP))
		domain = iommu_paging_domain_alloc(dev);
	return domain;
}

/* An Arm table of the stage that hardware is told as @cfg */
void ptt_describe_arm(struct ptt_domain *d, unsigned int stage, const struct io_pgtable_cfg *cfg)
{
	d->format = stage == 1 ? "arm_64_lpae_s1" : "arm_64_lpae_s2";
	d->stage = stage;
	d->ias = cfg->ias;
	d->oas = cfg->oas;
	d->arm_cfg = cfg;
}

/* ptt_own_tables() - whether x86's driver has page tables of its own; ptt_lock held */
bool ptt_own_tables(void)
{
	struct iommu_domain *domain;
	struct ptt_device *dev;
	bool own;

	list_for_each_entry(dev, &ptt_devices, node) {
		if (!IS_ENABLED(CONFIG_X86) || !dev->group)
			continue;
		domain = alloc_paging(&dev->pdev->dev, 0);
		if (IS_ERR(domain))
			continue;
		own = !ptt_is_generic_pt(domain);
		iommu_domain_free(domain);
		return own;
	}
	return false;
}

/**
 * ptt_hw_domain() - make a domain for a device
 * @d: filled
 * @args: dev=, stage=
 * @reply: says what is wrong
 *
 * Return: 0 or -errno; -EOPNOTSUPP when the IOMMU has no such stage.
 */
int ptt_hw_domain(struct ptt_domain *d, struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_device *dev = ptt_find_device(args->value[PTT_DEV]);
	struct iommu_domain *domain;
	u64 stage = 0;
	int i, ret;

	for (i = PTT_FORMAT; i < PTT_NR_KEYS; i++)
		if (args->value[i])
			return ptt_fail(reply, -EINVAL, "dev= and %s= exclude each other",
					ptt_key_name(i));
	ret = ptt_arg_number(args, PTT_STAGE, 1, 2, &stage, reply);
	if (ret)
		return ret;
	if (!dev)
		return ptt_fail(reply, -ENODEV, "no device %.31s", args->value[PTT_DEV]);
	if (!dev->group)
		return ptt_fail(reply, -ENODEV, "%s has no IOMMU", dev->name);

	domain = alloc_paging(&dev->pdev->dev, stage);
	if (IS_ERR(domain))
		return ptt_fail(reply, PTR_ERR(domain), "the IOMMU refused stage %llu", stage);
	d->domain = domain;
	d->free = hw_free;
	strscpy(d->dev_name, dev->name);

	if (!describe_smmu_v3(d, dev) && !ptt_describe_generic_pt(d) &&
	    !ptt_describe_amd_v1(d, dev) && !ptt_describe_told(d, dev)) {
		hw_free(d);
		return ptt_fail(reply, -EOPNOTSUPP, "unknown kind of page table");
	}
	if (stage && d->stage && stage != d->stage) {
		hw_free(d);
		return ptt_fail(reply, -EOPNOTSUPP, "the IOMMU made stage %u", d->stage);
	}
	d->aperture[0].first = domain->geometry.aperture_start;
	d->aperture[0].last = domain->geometry.aperture_end;
	d->nr_apertures = 1;
	return 0;
}
