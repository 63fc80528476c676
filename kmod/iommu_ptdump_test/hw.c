// SPDX-License-Identifier: GPL-2.0-only
/* edu devices and the IOMMU domains that are attached to them. */
#include <linux/err.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <uapi/linux/iommufd.h>

#ifdef PTT_HAS_GROUP_HANDLES
#include "iommu-priv.h"
#endif
#include "hw.h"

LIST_HEAD(ptt_devices);

/* ptt_find_device() - the device of that name or NULL; ptt_lock held */
struct ptt_device *ptt_find_device(const char *name)
{
	struct ptt_device *dev;

	list_for_each_entry(dev, &ptt_devices, node)
		if (!strcmp(dev->name, name))
			return dev;
	return NULL;
}

/* ptt_group_pause() - detach, but keep what was attached in mind */
void ptt_group_pause(struct ptt_group *group)
{
	if (!group->domain)
		return;
#ifdef PTT_HAS_GROUP_HANDLES
	iommu_detach_group_handle(group->domain->domain, group->group);
	kfree(group->handle);
	group->handle = NULL;
#else
	iommu_detach_group(group->domain->domain, group->group);
#endif
}

/* ptt_group_resume() - attach again; when that fails all its devices are detached */
int ptt_group_resume(struct ptt_group *group)
{
	struct ptt_device *dev;
	int ret;

	if (!group->domain)
		return 0;
	ret = iommu_attach_group(group->domain->domain, group->group);
	if (!ret)
		return 0;
	group->domain->attached -= group->attached;
	group->attached = 0;
	group->domain = NULL;
	list_for_each_entry(dev, &ptt_devices, node)
		if (dev->group == group)
			dev->attached = false;
	return ret;
}

/* ptt_detach_device() - nothing where it is not attached by name */
void ptt_detach_device(struct ptt_device *dev)
{
	struct ptt_group *group = dev->group;

	if (!dev->attached)
		return;
	dev->attached = false;
	group->domain->attached--;
	if (--group->attached)
		return;
	ptt_group_pause(group);
	group->domain = NULL;
}

/* Nothing is attached afterwards */
static void detach_all(void)
{
	struct ptt_device *dev;

	list_for_each_entry(dev, &ptt_devices, node)
		ptt_detach_device(dev);
}

struct ptt_holder ptt_hw_holder = {
	.before_reset = detach_all,
};

/* What attach and replace refuse; 0 or -errno */
static int may_attach(const struct ptt_domain *d, const struct ptt_device *dev,
		      struct ptt_reply *reply)
{
	if (d->sw)
		return ptt_fail(reply, -EINVAL, "%s is a software table", d->name);
	if (!dev->group)
		return ptt_fail(reply, -ENODEV, "%s has no IOMMU", dev->name);
	if (dev->group->shared)
		return ptt_fail(reply, -EBUSY, "the group of %s has shared memory", dev->name);
	return ptt_at_rest(d, reply);
}

/* The domain and the device that attach and replace name */
static int find_both(struct ptt_args *args, struct ptt_domain **d, struct ptt_device **dev,
		     struct ptt_reply *reply)
{
	*d = ptt_find_domain(args->word[1]);
	if (!*d)
		return ptt_fail(reply, -ENOENT, "no domain %.31s", args->word[1]);
	*dev = ptt_find_device(args->word[2]);
	if (!*dev)
		return ptt_fail(reply, -ENODEV, "no device %.31s", args->word[2]);
	return 0;
}

/* ptt_attach_device() - 0, or -errno and nothing has changed; ptt_lock held */
int ptt_attach_device(struct ptt_domain *d, struct ptt_device *dev, struct ptt_reply *reply)
{
	struct ptt_group *group = dev->group;
	int ret;

	ret = may_attach(d, dev, reply);
	if (ret)
		return ret;
	if (dev->attached)
		return ptt_fail(reply, -EBUSY, "%s is attached to %s", dev->name,
				group->domain->name);
	/* another device of the group brought it along */
	if (group->domain && group->domain != d)
		return ptt_fail(reply, -EBUSY, "the group of %s is attached to %s", dev->name,
				group->domain->name);
	if (!group->domain) {
		ret = iommu_attach_group(d->domain, group->group);
		if (ret)
			return ptt_fail(reply, ret, "the kernel refused");
		group->domain = d;
	}
	group->attached++;
	d->attached++;
	dev->attached = true;
	return 0;
}

/* ptt_cmd_attach() - attach NAME DEV */
int ptt_cmd_attach(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_device *dev;
	struct ptt_domain *d;
	int ret;

	ret = find_both(args, &d, &dev, reply);
	return ret ?: ptt_attach_device(d, dev, reply);
}

#ifdef PTT_HAS_GROUP_HANDLES
static int replace(struct ptt_group *group, struct ptt_domain *d, struct ptt_reply *reply)
{
	struct iommu_attach_handle *handle = kzalloc_obj(*handle);
	int ret;

	if (!handle)
		return -ENOMEM;
	ret = iommu_replace_group_handle(group->group, d->domain, handle);
	if (ret) {
		kfree(handle);
		return ptt_fail(reply, ret, "the kernel refused");
	}
	kfree(group->handle);
	group->handle = handle;
	return 0;
}
#else
static int replace(struct ptt_group *group, struct ptt_domain *d, struct ptt_reply *reply)
{
	return ptt_fail(reply, -EOPNOTSUPP, "this kernel's headers have no replacing of domains");
}
#endif

/* ptt_cmd_replace() - replace NAME DEV: without a moment on the blocking domain */
int ptt_cmd_replace(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_device *dev;
	struct ptt_group *group;
	struct ptt_domain *d;
	int ret;

	ret = find_both(args, &d, &dev, reply);
	if (!ret)
		ret = may_attach(d, dev, reply);
	if (ret)
		return ret;
	group = dev->group;
	if (!dev->attached)
		return ptt_fail(reply, -ENOTCONN, "%s is not attached", dev->name);

	ret = replace(group, d, reply);
	if (ret)
		return ret;
	group->domain->attached -= group->attached;
	d->attached += group->attached;
	group->domain = d;
	return 0;
}

/* ptt_cmd_detach() - detach DEV */
int ptt_cmd_detach(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_device *dev = ptt_find_device(args->word[1]);

	if (!dev)
		return ptt_fail(reply, -ENODEV, "no device %.31s", args->word[1]);
	if (!dev->attached)
		return ptt_fail(reply, -ENOTCONN, "%s is not attached", dev->name);
	ptt_detach_device(dev);
	return 0;
}

/* ptt_show_attached() - names of the devices on a domain, or - */
void ptt_show_attached(struct seq_file *s, const struct ptt_domain *d)
{
	const char *comma = "";
	struct ptt_device *dev;

	list_for_each_entry(dev, &ptt_devices, node) {
		if (!dev->attached || dev->group->domain != d)
			continue;
		seq_printf(s, "%s%s", comma, dev->name);
		comma = ",";
	}
	if (!*comma)
		seq_putc(s, '-');
}

/* An alias behind a bridge, or firmware, may list the same id twice */
static void show_stream_ids(struct seq_file *s, const struct iommu_fwspec *fwspec)
{
	const char *comma = "";
	unsigned int i, k;

	for (i = 0; fwspec && i < fwspec->num_ids; i++) {
		for (k = 0; k < i && fwspec->ids[k] != fwspec->ids[i]; k++)
			;
		if (k < i)
			continue;
		seq_printf(s, "%s%u", comma, fwspec->ids[i]);
		comma = ",";
	}
	if (!*comma)
		seq_putc(s, '-');
}

/* ptt_show_devices() - one line a device; ptt_lock held */
void ptt_show_devices(struct seq_file *s)
{
	struct ptt_device *dev;

	list_for_each_entry(dev, &ptt_devices, node) {
		seq_printf(s, "%s %s group=", dev->name, pci_name(dev->pdev));
		if (dev->group)
			seq_printf(s, "%d", iommu_group_id(dev->group->group));
		else
			seq_putc(s, '-');
		seq_puts(s, " sid=");
		show_stream_ids(s, dev_iommu_fwspec_get(&dev->pdev->dev));
		seq_putc(s, '\n');
	}
}

static int edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct ptt_device *dev, *next;
	int ret;

	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	dev = devm_kzalloc(&pdev->dev, sizeof(*dev), GFP_KERNEL);
	if (!dev)
		return -ENOMEM;
	dev->bar = pcim_iomap(pdev, 0, 0);
	if (!dev->bar)
		return -ENOMEM;
	dev->pdev = pdev;

	guard(mutex)(&ptt_lock);
	ret = ptt_name_device(dev);
	if (ret)
		return ret;
	ret = ptt_group_join(dev);
	if (ret)
		return ret;
	list_for_each_entry(next, &ptt_devices, node)
		if (next->number > dev->number)
			break;
	list_add_tail(&dev->node, &next->node);
	pci_set_drvdata(pdev, dev);
	pci_set_master(pdev);
	return 0;
}

static void edu_remove(struct pci_dev *pdev)
{
	struct ptt_device *dev = pci_get_drvdata(pdev);

	guard(mutex)(&ptt_lock);
	pci_clear_master(pdev);
	ptt_detach_device(dev);
	ptt_unshare_all(dev);
	list_del(&dev->node);
	ptt_group_leave(dev);
}

static const struct pci_device_id edu_ids[] = {
	{ PCI_DEVICE(EDU_VENDOR, EDU_DEVICE) },
	{}
};
MODULE_DEVICE_TABLE(pci, edu_ids);

static struct pci_driver edu_driver = {
	.name = "iommu_ptdump_test",
	.id_table = edu_ids,
	.probe = edu_probe,
	.remove = edu_remove,
	.driver_managed_dma = true,
};

int ptt_hw_register(void)
{
	return pci_register_driver(&edu_driver);
}

void ptt_hw_unregister(void)
{
	pci_unregister_driver(&edu_driver);
	ptt_names_free();
}
