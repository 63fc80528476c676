// SPDX-License-Identifier: GPL-2.0-only
/* Domains of real IOMMUs: made by the core for a device, and what their page table is. */
#include <linux/bits.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/io-pgtable.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <uapi/linux/iommufd.h>

#include "hw.h"
#include "smmu_v3.h"
#if defined(PTT_HAS_SMMU_V3) && IS_ENABLED(CONFIG_ARM_SMMU_V3)
#define WITH_SMMU_V3
#include "arm/arm-smmu-v3/arm-smmu-v3.h"
#endif

static void hw_free(struct ptt_domain *d)
{
	iommu_domain_free(d->domain);
#ifndef WITH_SMMU_V3
	kfree(d->arm_cfg);
#endif
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
	d->stage = smmu_domain->stage == ARM_SMMU_DOMAIN_S1 ? 1 : 2;
	d->arm_cfg = &pgtable->cfg;
	return true;
}
#else
/* What the hardware is told while the group is attached to the domain; the stage or -errno */
static int read_while_attached(struct ptt_domain *d, struct ptt_device *dev, void __iomem *regs,
			       struct io_pgtable_cfg *cfg)
{
	struct iommu_fwspec *fwspec = dev_iommu_fwspec_get(&dev->pdev->dev);
	struct ptt_group *group = dev->group;
	int ret, again;

	if (!fwspec || !fwspec->num_ids)
		return -ENODEV;
	ptt_group_pause(group);
	ret = iommu_attach_group(d->domain, group->group);
	if (!ret) {
		ret = ptt_smmu_v3_cfg(regs, fwspec->ids[0], cfg);
		iommu_detach_group(d->domain, group->group);
	}
	again = ptt_group_resume(group);
	return again ?: ret;
}

/* Without the driver's header the domain is opaque, but the hardware is not */
static bool describe_smmu_v3(struct ptt_domain *d, struct ptt_device *dev)
{
	void __iomem *regs = ptt_smmu_v3_map(dev->pdev->dev.iommu->iommu_dev->dev->parent);
	struct io_pgtable_cfg *cfg;
	int stage;

	if (IS_ERR_OR_NULL(regs))
		return false;
	cfg = kzalloc_obj(*cfg);
	stage = cfg ? read_while_attached(d, dev, regs, cfg) : -ENOMEM;
	iounmap(regs);
	if (stage < 0) {
		kfree(cfg);
		return false;
	}
	d->stage = stage;
	d->arm_cfg = cfg;
	return true;
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

	if (describe_smmu_v3(d, dev)) {
		d->format = d->stage == 1 ? "arm_64_lpae_s1" : "arm_64_lpae_s2";
		d->ias = d->arm_cfg->ias;
		d->oas = d->arm_cfg->oas;
	} else if (!ptt_describe_generic_pt(d)) {
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
