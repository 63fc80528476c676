// SPDX-License-Identifier: GPL-2.0-only
/*
 * The text of the SMMUv3 debugfs series of May 2026, for tests of its dialect:
 * iommu/arm_smmu_v3/<iommu>/stream_table/<sid>/{ste,cd,<device>}
 */
#include <linux/bitfield.h>
#include <linux/debugfs.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "arm-smmu-v3.h"

static struct dentry *stream_table(struct arm_smmu_device *smmu)
{
	const char *const path[] = { "arm_smmu_v3", dev_name(smmu->iommu.dev), "stream_table" };
	struct dentry *dir = iommu_debugfs_dir;
	int i;

	for (i = 0; i < ARRAY_SIZE(path); i++) {
		struct dentry *found = debugfs_lookup(path[i], dir);

		dir = found ?: debugfs_create_dir(path[i], dir);
		dput(found);
	}
	return dir;
}

static void show_raw(struct seq_file *m, const char *name, const __le64 *data)
{
	int i;

	seq_puts(m, "  Raw Data:\n");
	for (i = 0; i < STRTAB_STE_DWORDS; i++)
		seq_printf(m, "    %s[%d]: 0x%016llx\n", name, i, le64_to_cpu(data[i]));
}

static int ste_show(struct seq_file *m, void *v)
{
	static const char *const configs[8] = {
		[STRTAB_STE_0_CFG_ABORT] = "ABORT",
		[STRTAB_STE_0_CFG_BYPASS] = "BYPASS",
		[STRTAB_STE_0_CFG_S1_TRANS] = "only S1_TRANS",
		[STRTAB_STE_0_CFG_S2_TRANS] = "only S2_TRANS",
		[STRTAB_STE_0_CFG_NESTED] = "S1+S2_TRANS",
	};
	struct arm_smmu_stream *stream = m->private;
	struct arm_smmu_device *smmu = stream->master->smmu;
	const __le64 *data;
	u64 word, cfg;

	if (stream->id >= 1ULL << smmu->sid_bits) {
		seq_printf(m, "Invalid Stream ID: %u (max %u)\n", stream->id,
			   (1U << smmu->sid_bits) - 1);
		return 0;
	}
	data = arm_smmu_get_step_for_sid(smmu, stream->id)->data;
	word = le64_to_cpu(data[0]);
	cfg = FIELD_GET(STRTAB_STE_0_CFG, word);
	seq_printf(m, "STE for Stream ID %u\n", stream->id);
	seq_printf(m, "  Valid: %s\n", word & STRTAB_STE_0_V ? "Yes" : "No");
	seq_printf(m, "  Config: %s\n", configs[cfg] ?: "UNKNOWN");
	if (cfg == STRTAB_STE_0_CFG_S1_TRANS || cfg == STRTAB_STE_0_CFG_NESTED)
		seq_printf(m, "  S1ContextPtr: 0x%016llx\n",
			   le64_to_cpu(data[0]) & STRTAB_STE_0_S1CTXPTR_MASK);
	if (cfg == STRTAB_STE_0_CFG_S2_TRANS || cfg == STRTAB_STE_0_CFG_NESTED)
		seq_printf(m, "  S2TTB: 0x%016llx\n",
			   le64_to_cpu(data[3]) & STRTAB_STE_3_S2TTB_MASK);
	show_raw(m, "STE", data);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(ste);

static void show_cd(struct seq_file *m, u32 sid, u32 ssid, const __le64 *data)
{
	static const char *const granules[] = { "4K", "64K", "16K", "reserved" };
	static const u8 sizes[] = { 32, 36, 40, 42, 44, 48, 52, 56 };
	u64 word = le64_to_cpu(data[0]);

	seq_printf(m, "CD for Stream ID %u SSID %u\n", sid, ssid);
	seq_puts(m, "  Valid: Yes\n");
	seq_printf(m, "  ASID: %llu\n", FIELD_GET(CTXDESC_CD_0_ASID, word));
	seq_printf(m, "  T0SZ: %llu\n", FIELD_GET(CTXDESC_CD_0_TCR_T0SZ, word));
	seq_printf(m, "  TG0: %s\n", granules[FIELD_GET(CTXDESC_CD_0_TCR_TG0, word)]);
	seq_printf(m, "  IPS: %u\n", sizes[FIELD_GET(CTXDESC_CD_0_TCR_IPS, word)]);
	seq_printf(m, "  EPD0: %s\n", word & CTXDESC_CD_0_TCR_EPD0 ? "Yes" : "No");
	seq_printf(m, "  TTB0: 0x%016llx\n", le64_to_cpu(data[1]) & CTXDESC_CD_1_TTB0_MASK);
	seq_printf(m, "  MAIR: 0x%016llx\n", le64_to_cpu(data[3]));
	show_raw(m, "CD", data);
}

static int cd_show(struct seq_file *m, void *v)
{
	struct arm_smmu_stream *stream = m->private;
	struct arm_smmu_master *master = stream->master;
	u32 ssid;

	for (ssid = 0; ssid < 1U << master->cd_table.s1cdmax; ssid++) {
		const struct arm_smmu_cd *cd = arm_smmu_get_cd_ptr(master, ssid);

		if (cd && le64_to_cpu(cd->data[0]) & CTXDESC_CD_0_V)
			show_cd(m, stream->id, ssid, cd->data);
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(cd);

static void stream_name(char *name, size_t size, struct arm_smmu_stream *stream)
{
	snprintf(name, size, "%u", stream->id);
}

void arm_smmu_debugfs_add(struct arm_smmu_master *master)
{
	char *path = kobject_get_path(&master->dev->kobj, GFP_KERNEL);
	char name[64], target[256];
	unsigned int i;

	snprintf(target, sizeof(target), "/sys%s", path ?: "");
	kfree(path);
	for (i = 0; i < master->num_streams; i++) {
		struct arm_smmu_stream *stream = &master->streams[i];
		struct dentry *dir;

		/* Sorted. Bridged PCI devices may have duplicated IDs */
		if (i && stream->id == stream[-1].id)
			continue;
		stream_name(name, sizeof(name), stream);
		dir = debugfs_create_dir(name, stream_table(master->smmu));
		debugfs_create_file("ste", 0444, dir, stream, &ste_fops);
		debugfs_create_file("cd", 0444, dir, stream, &cd_fops);
		debugfs_create_symlink(dev_name(master->dev), dir, target);
	}
}

void arm_smmu_debugfs_remove(struct arm_smmu_master *master)
{
	unsigned int i;
	char name[64];

	for (i = 0; i < master->num_streams; i++) {
		stream_name(name, sizeof(name), &master->streams[i]);
		debugfs_lookup_and_remove(name, stream_table(master->smmu));
	}
}
