// SPDX-License-Identifier: GPL-2.0-only
/* IOMMU groups of our devices: ours, or the kernel's while memory is shared with one of them. */
#include <linux/err.h>
#include <linux/slab.h>

#include "hw.h"

static LIST_HEAD(groups);

/* Whose the groups are: all our devices share one owner, so that two can be in one group */
static char owner;

static struct ptt_group *get_group(struct pci_dev *pdev)
{
	struct iommu_group *iommu_group = iommu_group_get(&pdev->dev);
	struct ptt_group *group;

	if (!iommu_group)
		return NULL;
	list_for_each_entry(group, &groups, node) {
		if (group->group == iommu_group) {
			iommu_group_put(iommu_group);
			group->devices++;
			return group;
		}
	}
	group = kzalloc_obj(*group);
	if (!group) {
		iommu_group_put(iommu_group);
		return ERR_PTR(-ENOMEM);
	}
	group->group = iommu_group;
	group->devices = 1;
	list_add_tail(&group->node, &groups);
	return group;
}

static void put_group(struct ptt_group *group)
{
	if (!group || --group->devices)
		return;
	list_del(&group->node);
	iommu_group_put(group->group);
	kfree(group);
}

/* ptt_group_join() - find the group of a device and own it; 0 without an IOMMU, or -errno */
int ptt_group_join(struct ptt_device *dev)
{
	struct ptt_group *group = get_group(dev->pdev);
	int ret = 0;

	if (IS_ERR_OR_NULL(group))
		return PTR_ERR_OR_ZERO(group);
	/* while it is the kernel's, ptt_group_take() claims it for all its devices later */
	if (!group->shared)
		ret = iommu_device_claim_dma_owner(&dev->pdev->dev, &owner);
	if (ret) {
		put_group(group);
		return dev_err_probe(&dev->pdev->dev, ret,
				     "its IOMMU group is in use\n");
	}
	dev->group = group;
	return 0;
}

/* ptt_group_leave() - undo ptt_group_join() */
void ptt_group_leave(struct ptt_device *dev)
{
	if (!dev->group)
		return;
	if (!dev->group->shared)
		iommu_device_release_dma_owner(&dev->pdev->dev);
	put_group(dev->group);
}

/**
 * ptt_group_give() - let the kernel have a group, which puts it on its default domain
 * @group: nothing of it may be attached; may be called again
 * @reply: says what is wrong
 *
 * Return: 0 or -errno.
 */
int ptt_group_give(struct ptt_group *group, struct ptt_reply *reply)
{
	struct ptt_device *dev;

	if (group->domain)
		return ptt_fail(reply, -EBUSY, "the group is attached to %s", group->domain->name);
	if (group->shared++)
		return 0;
	list_for_each_entry(dev, &ptt_devices, node)
		if (dev->group == group)
			iommu_device_release_dma_owner(&dev->pdev->dev);
	return 0;
}

/* ptt_group_take() - undo one ptt_group_give(); when that fails the group stays with the kernel */
int ptt_group_take(struct ptt_group *group)
{
	struct ptt_device *dev;
	int ret = 0;

	if (--group->shared)
		return 0;
	list_for_each_entry(dev, &ptt_devices, node) {
		if (dev->group != group)
			continue;
		ret = iommu_device_claim_dma_owner(&dev->pdev->dev, &owner);
		if (ret)
			break;
	}
	if (!ret)
		return 0;
	list_for_each_entry_continue_reverse(dev, &ptt_devices, node)
		if (dev->group == group)
			iommu_device_release_dma_owner(&dev->pdev->dev);
	group->shared = 1;
	return ret;
}
