// SPDX-License-Identifier: GPL-2.0-only
/*
 * Domains whose driver tells nothing of their page table, since its headers are
 * not there or the table is neither io-pgtable's nor generic_pt's. What hardware
 * is told is no secret: it is read while a device is attached.
 */
#include <linux/device.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/slab.h>

#include "smmu_v3.h"
#include "told.h"

static int told_smmu_v3(struct ptt_domain *d, struct ptt_device *dev, void __iomem *regs)
{
	struct iommu_fwspec *fwspec = dev_iommu_fwspec_get(&dev->pdev->dev);
	int stage;

	if (!fwspec || !fwspec->num_ids)
		return -ENODEV;
	stage = ptt_smmu_v3_cfg(regs, fwspec->ids[0], &d->told->arm);
	if (stage < 0)
		return stage;
	ptt_describe_arm(d, stage, &d->told->arm);
	return 0;
}

/* VT-d's table has the same top as long as it lives */
static bool vtd_table(const struct ptt_domain *d, struct ptt_table *table)
{
	*table = d->told->table;
	return true;
}

/* PAs have as many bits as its items have for them: the driver asks for no less */
static int told_vtd(struct ptt_domain *d, struct ptt_device *dev, void __iomem *regs)
{
	int stage = ptt_vtd_table(regs, dev->pdev, &d->told->table);

	if (stage < 0)
		return stage;
	d->stage = stage;
	d->format = stage == 1 ? "x86_64" : "vtdss";
	d->ias = d->told->table.bits;
	d->oas = 52;
	d->table = vtd_table;
	return 0;
}

/* The group is @d's for that long */
static int while_attached(struct ptt_domain *d, struct ptt_device *dev, void __iomem *regs,
			  int (*told)(struct ptt_domain *d, struct ptt_device *dev,
				      void __iomem *regs))
{
	struct ptt_group *group = dev->group;
	int ret, again;

	ptt_group_pause(group);
	ret = iommu_attach_group(d->domain, group->group);
	if (!ret) {
		ret = told(d, dev, regs);
		iommu_detach_group(d->domain, group->group);
	}
	again = ptt_group_resume(group);
	return again ?: ret;
}

/**
 * ptt_describe_told() - fill in format and sizes by what hardware is told
 * @d: new domain, attached for a moment
 * @dev: device that it was made for
 *
 * Return: false for an IOMMU that is not known.
 */
bool ptt_describe_told(struct ptt_domain *d, struct ptt_device *dev)
{
	struct device *unit = dev->pdev->dev.iommu->iommu_dev->dev;
	void __iomem *smmu = ptt_smmu_v3_map(unit->parent);
	void __iomem *vtd = ptt_vtd_map(unit);
	int ret = -ENODEV;

	d->told = kzalloc_obj(*d->told);
	if (d->told && !IS_ERR_OR_NULL(smmu))
		ret = while_attached(d, dev, smmu, told_smmu_v3);
	else if (d->told && !IS_ERR_OR_NULL(vtd))
		ret = while_attached(d, dev, vtd, told_vtd);
	if (!IS_ERR_OR_NULL(smmu))
		iounmap(smmu);
	if (!IS_ERR_OR_NULL(vtd))
		iounmap(vtd);
	return !ret;
}
