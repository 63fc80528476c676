// SPDX-License-Identifier: GPL-2.0-only
/*
 * The text of the SMMUv3 debugfs RFC of January 2021, for tests of its dialect:
 * iommu/smmuv3/{pci_dev,pasid} are written before {ste,cd,pt_dump_s1,pt_dump_s2} are read
 */
#include <linux/bitfield.h>
#include <linux/debugfs.h>
#include <linux/io.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/seq_file.h>

#include "arm-smmu-v3.h"

#define MAX_LEVEL	3
/* Of a granule of 4K */
#define shift_of(level)	(12 + 9 * (MAX_LEVEL - (level)))

static DEFINE_MUTEX(name_lock);
static char pci_dev_name[32];
static u32 pasid;

static ssize_t pci_dev_write(struct file *file, const char __user *buf, size_t count,
			     loff_t *pos)
{
	char name[sizeof(pci_dev_name)];
	struct device *dev;
	ssize_t len;

	if (count >= sizeof(name))
		return -ENOSPC;
	len = simple_write_to_buffer(name, sizeof(name) - 1, pos, buf, count);
	if (len < 0)
		return len;
	name[len] = '\0';
	dev = bus_find_device_by_name(&pci_bus_type, NULL, name);
	if (!dev)
		return -EINVAL;
	put_device(dev);
	guard(mutex)(&name_lock);
	strscpy(pci_dev_name, name);
	return count;
}

static const struct file_operations pci_dev_fops = {
	.open = simple_open,
	.write = pci_dev_write,
};

/* Calls what shows a file, with the device that was written to pci_dev */
static int with_master(struct seq_file *m,
		       int (*show)(struct seq_file *m, struct arm_smmu_master *master))
{
	struct device *dev;
	int ret = -ENODEV;

	guard(mutex)(&name_lock);
	dev = bus_find_device_by_name(&pci_bus_type, NULL, pci_dev_name);
	if (!dev)
		return -EINVAL;
	if (dev->iommu && dev_iommu_priv_get(dev))
		ret = show(m, dev_iommu_priv_get(dev));
	put_device(dev);
	return ret;
}

static const __le64 *ste_of(struct arm_smmu_master *master)
{
	return arm_smmu_get_step_for_sid(master->smmu, master->streams[0].id)->data;
}

static const __le64 *cd_of(struct arm_smmu_master *master)
{
	struct arm_smmu_cd *cd = NULL;

	if (!(pasid >> master->cd_table.s1cdmax))
		cd = arm_smmu_get_cd_ptr(master, pasid);
	return cd ? cd->data : NULL;
}

static void show_words(struct seq_file *m, const __le64 *data)
{
	int i;

	for (i = 0; i < STRTAB_STE_DWORDS; i++)
		seq_printf(m, "0x%016llx\n", le64_to_cpu(data[i]));
}

static void show_table(struct seq_file *m, u64 table, int level, unsigned int bits, u64 va)
{
	const __le64 *items = phys_to_virt(table);
	u64 i;

	for (i = 0; i < 1ULL << bits; i++) {
		u64 item = le64_to_cpu(READ_ONCE(items[i]));
		u64 address = item & GENMASK_ULL(47, 12), here = va | i << shift_of(level);

		if (!item)
			continue;
		if (level < MAX_LEVEL && item & BIT(1))
			show_table(m, address, level + 1, 9, here);
		else
			seq_printf(m, "va: %llx -> pa: %llx\n", here, address);
	}
}

static int master_ste(struct seq_file *m, struct arm_smmu_master *master)
{
	seq_printf(m, "SMMUv3 STE values for device: %s\n", dev_name(master->dev));
	show_words(m, ste_of(master));
	return 0;
}

static int master_cd(struct seq_file *m, struct arm_smmu_master *master)
{
	const __le64 *data = cd_of(master);

	if (!data)
		return -EINVAL;
	seq_printf(m, "SMMUv3 CD values for device: %s, ssid: 0x%x\n", dev_name(master->dev),
		   pasid);
	show_words(m, data);
	return 0;
}

static int master_s1(struct seq_file *m, struct arm_smmu_master *master)
{
	const __le64 *data = cd_of(master);
	unsigned int bits;
	int level = 0;

	if (!data || !(le64_to_cpu(data[0]) & CTXDESC_CD_0_V))
		return -EINVAL;
	bits = 64 - FIELD_GET(CTXDESC_CD_0_TCR_T0SZ, le64_to_cpu(data[0]));
	while (shift_of(level) >= bits)
		level++;
	seq_printf(m, "SMMUv3 dump page table for device %s, stage 1, ssid 0x%x:\n",
		   dev_name(master->dev), pasid);
	show_table(m, le64_to_cpu(data[1]) & CTXDESC_CD_1_TTB0_MASK, level,
		   bits - shift_of(level), 0);
	return 0;
}

static int master_s2(struct seq_file *m, struct arm_smmu_master *master)
{
	const __le64 *data = ste_of(master);
	unsigned int bits;
	int level;
	u64 vtcr;

	if (!(FIELD_GET(STRTAB_STE_0_CFG, le64_to_cpu(data[0])) & BIT(1)))
		return -EINVAL;
	vtcr = FIELD_GET(STRTAB_STE_2_VTCR, le64_to_cpu(data[2]));
	bits = 64 - FIELD_GET(STRTAB_STE_2_VTCR_S2T0SZ, vtcr);
	level = 2 - FIELD_GET(STRTAB_STE_2_VTCR_S2SL0, vtcr);
	seq_printf(m, "SMMUv3 dump page table for device %s, stage 2:\n",
		   dev_name(master->dev));
	show_table(m, le64_to_cpu(data[3]) & STRTAB_STE_3_S2TTB_MASK, level,
		   bits - shift_of(level), 0);
	return 0;
}

static int ste_show(struct seq_file *m, void *v)
{
	return with_master(m, master_ste);
}
DEFINE_SHOW_ATTRIBUTE(ste);

static int cd_show(struct seq_file *m, void *v)
{
	return with_master(m, master_cd);
}
DEFINE_SHOW_ATTRIBUTE(cd);

static int pt_dump_s1_show(struct seq_file *m, void *v)
{
	return with_master(m, master_s1);
}
DEFINE_SHOW_ATTRIBUTE(pt_dump_s1);

static int pt_dump_s2_show(struct seq_file *m, void *v)
{
	return with_master(m, master_s2);
}
DEFINE_SHOW_ATTRIBUTE(pt_dump_s2);

/* One directory for all devices, made when the first one comes */
void arm_smmu_debugfs_add(struct arm_smmu_master *master)
{
	static struct dentry *dir;

	guard(mutex)(&name_lock);
	if (dir)
		return;
	dir = debugfs_create_dir("smmuv3", iommu_debugfs_dir);
	debugfs_create_file("pci_dev", 0200, dir, NULL, &pci_dev_fops);
	debugfs_create_u32("pasid", 0644, dir, &pasid);
	debugfs_create_file("ste", 0444, dir, NULL, &ste_fops);
	debugfs_create_file("cd", 0444, dir, NULL, &cd_fops);
	debugfs_create_file("pt_dump_s1", 0444, dir, NULL, &pt_dump_s1_fops);
	debugfs_create_file("pt_dump_s2", 0444, dir, NULL, &pt_dump_s2_fops);
}

void arm_smmu_debugfs_remove(struct arm_smmu_master *master)
{
}
