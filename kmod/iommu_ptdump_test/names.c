// SPDX-License-Identifier: GPL-2.0-only
/*
 * What devices are called. An address keeps its name until the module goes,
 * whatever is plugged and unplugged meanwhile, there or elsewhere.
 */
#include <linux/list.h>
#include <linux/pci.h>
#include <linux/slab.h>

#include "hw.h"

/**
 * struct device_name - an address that had a device, and what that is called
 * @node: in the list of names
 * @segment: PCI domain
 * @bdf: bus, device and function
 * @number: the N of eduN
 */
struct device_name {
	struct list_head node;
	int segment;
	u16 bdf;
	unsigned int number;
};

static LIST_HEAD(names);

static bool number_taken(unsigned int number)
{
	struct device_name *name;

	list_for_each_entry(name, &names, node)
		if (name->number == number)
			return true;
	return false;
}

/* Where it sits among all edus that are there: all get their numbers at once, the first time */
static unsigned int rank_of(struct pci_dev *pdev)
{
	struct pci_dev *other = NULL;
	unsigned int rank = 0;

	while ((other = pci_get_device(EDU_VENDOR, EDU_DEVICE, other))) {
		int order = pci_domain_nr(other->bus) - pci_domain_nr(pdev->bus);

		if (order < 0 || (!order && pci_dev_id(other) < pci_dev_id(pdev)))
			rank++;
	}
	return rank;
}

/**
 * ptt_name_device() - fill in a device's name
 * @dev: whose @pdev is set
 *
 * Return: 0 or -ENOMEM.
 */
int ptt_name_device(struct ptt_device *dev)
{
	int segment = pci_domain_nr(dev->pdev->bus);
	u16 bdf = pci_dev_id(dev->pdev);
	struct device_name *name;

	list_for_each_entry(name, &names, node)
		if (name->segment == segment && name->bdf == bdf)
			goto out;

	name = kzalloc_obj(*name);
	if (!name)
		return -ENOMEM;
	name->segment = segment;
	name->bdf = bdf;
	name->number = rank_of(dev->pdev);
	while (number_taken(name->number))
		name->number++;
	list_add_tail(&name->node, &names);
out:
	dev->number = name->number;
	scnprintf(dev->name, sizeof(dev->name), "edu%u", name->number);
	return 0;
}

/* ptt_names_free() - forget all names; no device is left */
void ptt_names_free(void)
{
	struct device_name *name, *next;

	list_for_each_entry_safe(name, next, &names, node) {
		list_del(&name->node);
		kfree(name);
	}
}
