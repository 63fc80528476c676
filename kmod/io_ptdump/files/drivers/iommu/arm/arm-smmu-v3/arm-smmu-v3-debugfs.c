// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stream table entries and context descriptors in debugfs
 *
 * iommu/arm_smmu_v3/<iommu>/stream_table/<sid>/{ste,cd,<device>}
 *
 * A directory lives as long as its master. Readers take no lock of the driver:
 * an entry is copied until two copies agree, and a CD table stays until the
 * master is released, which waits for readers that are inside.
 */
#include <linux/bitfield.h>
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "../../iommu-ptdump.h"
#include "arm-smmu-v3.h"

/* CDs to look at between two reschedules */
#define STREAM_BUDGET	512
/* A writer waits for the SMMU between its steps, a copy seldom meets two */
#define STREAM_TRIES	64

static struct dentry *arm_smmu_debugfs_dir;

/* iommu/arm_smmu_v3/<iommu> */
struct arm_smmu_debugfs {
	struct iommu_ptd_node node;
	struct dentry *streams;		/* stream_table */
	char name[];			/* <iommu> */
};

/* stream_table/<sid>, which goes before the directory of the SMMU */
struct arm_smmu_stream_debugfs {
	struct iommu_ptd_node node;
	struct arm_smmu_master *master;	/* For readers inside the node */
	struct arm_smmu_debugfs *smmu;
	u32 id;
	char *device;			/* Name of the link to the device */
	char *target;			/* NULL if there was no memory */
};

/* An open file */
struct stream_iter {
	struct iommu_ptd_seq seq;
	u64 data[STRTAB_STE_DWORDS];	/* Copy of an STE or a CD */
	u32 domain;			/* That it refers to, 0 for none */
	u32 ssid;			/* Of the CD */
	u32 next_ssid;			/* The first not looked at */
};

static_assert(STRTAB_STE_DWORDS == CTXDESC_CD_DWORDS);

static struct arm_smmu_stream_debugfs *node_to_stream(struct iommu_ptd_node *node)
{
	return container_of(node, struct arm_smmu_stream_debugfs, node);
}

static struct arm_smmu_stream_debugfs *iter_to_stream(struct stream_iter *it)
{
	return node_to_stream(it->seq.node);
}

static void stream_rewind(struct seq_file *m)
{
	struct stream_iter *it = m->private;

	it->next_ssid = 0;
}

static struct arm_smmu_ste *stream_ste(struct arm_smmu_stream_debugfs *stream)
{
	return arm_smmu_get_step_for_sid(stream->master->smmu, stream->id);
}

/* What two copies agree on was in memory at one time between them */
static bool stream_copy(struct stream_iter *it, const __le64 *src)
{
	int tries, i;

	for (tries = 0; tries < STREAM_TRIES; tries++) {
		bool same = tries > 0;

		/* All loads of a copy come before those of the next */
		smp_rmb();
		for (i = 0; i < STRTAB_STE_DWORDS; i++) {
			u64 val = le64_to_cpu(READ_ONCE(src[i]));

			same &= it->data[i] == val;
			it->data[i] = val;
		}
		if (same)
			return true;
	}
	it->seq.error = -EAGAIN;
	return false;
}

/* The three bits of Config: their name, and what they mean if there is no domain */
static const struct stream_config {
	const char *name;
	const char *without_domain;
	bool s1, s2;
} stream_configs[8] = {
	[STRTAB_STE_0_CFG_ABORT] = { "ABORT", "blocked" },
	[STRTAB_STE_0_CFG_BYPASS] = { "BYPASS", "identity" },
	[STRTAB_STE_0_CFG_S1_TRANS] = { "only S1_TRANS", "cd", .s1 = true },
	[STRTAB_STE_0_CFG_S2_TRANS] = { "only S2_TRANS", .s2 = true },
	[STRTAB_STE_0_CFG_NESTED] = { "S1+S2_TRANS", .s1 = true, .s2 = true },
};

static const struct stream_config *stream_config(const u64 *ste)
{
	return &stream_configs[FIELD_GET(STRTAB_STE_0_CFG, ste[0])];
}

static bool stream_advance_ste(struct seq_file *m)
{
	struct stream_iter *it = m->private;

	if (it->seq.pos >= 0 || !stream_copy(it, stream_ste(iter_to_stream(it))->data))
		return false;
	/* Now: a moment later the address may be another domain's */
	it->domain = !stream_config(it->data)->s2 ? 0 :
		iommu_ptd_find(it->data[3] & STRTAB_STE_3_S2TTB_MASK);
	return true;
}

static unsigned int stream_num_cds(struct arm_smmu_stream_debugfs *stream)
{
	struct arm_smmu_ctx_desc_cfg *cfg = &stream->master->cd_table;
	u64 ste = le64_to_cpu(READ_ONCE(stream_ste(stream)->data[0]));

	/* The table in use is that of a guest, whatever is left in ours */
	if (FIELD_GET(STRTAB_STE_0_CFG, ste) == STRTAB_STE_0_CFG_NESTED)
		return 0;

	BUILD_BUG_ON(offsetof(typeof(*cfg), linear.table) !=
		     offsetof(typeof(*cfg), l2.l1tab));
	/* arm_smmu_alloc_cd_tables() publishes either kind of table last */
	if (!smp_load_acquire(&cfg->linear.table))
		return 0;
	return 1U << cfg->s1cdmax;
}

/* From the driver's own table, never by S1ContextPtr. NULL for no leaf table */
static struct arm_smmu_cd *stream_cd(struct arm_smmu_stream_debugfs *stream, u32 ssid)
{
	struct arm_smmu_ctx_desc_cfg *cfg = &stream->master->cd_table;
	struct arm_smmu_cdtab_l2 *l2;

	if (cfg->s1fmt == STRTAB_STE_0_S1FMT_LINEAR)
		return &cfg->linear.table[ssid];

	l2 = READ_ONCE(cfg->l2.l2ptrs[arm_smmu_cdtab_l1_idx(ssid)]);
	return l2 ? &l2->cds[arm_smmu_cdtab_l2_idx(ssid)] : NULL;
}

/* Most are not valid: those are not copied to find that out */
static bool stream_copy_cd(struct stream_iter *it, struct arm_smmu_cd *cd)
{
	if (!(le64_to_cpu(READ_ONCE(cd->data[0])) & CTXDESC_CD_0_V) ||
	    !stream_copy(it, cd->data) || !(it->data[0] & CTXDESC_CD_0_V))
		return false;
	it->domain = it->data[0] & CTXDESC_CD_0_TCR_EPD0 ? 0 :
		iommu_ptd_find(it->data[1] & CTXDESC_CD_1_TTB0_MASK);
	return true;
}

static bool stream_advance_cd(struct seq_file *m)
{
	struct stream_iter *it = m->private;
	struct arm_smmu_stream_debugfs *stream = iter_to_stream(it);
	unsigned int num = stream_num_cds(stream), looked_at = 0;

	while (it->next_ssid < num) {
		u32 ssid = it->next_ssid;
		struct arm_smmu_cd *cd = stream_cd(stream, ssid);

		if (cd)
			it->next_ssid++;
		else
			it->next_ssid = round_down(ssid, CTXDESC_L2_ENTRIES) + CTXDESC_L2_ENTRIES;
		if (cd && stream_copy_cd(it, cd)) {
			it->ssid = ssid;
			return true;
		}
		if (iommu_ptd_seq_stopped(&it->seq))
			return false;
		if (!(++looked_at % STREAM_BUDGET))
			cond_resched();
	}
	return false;
}

static void stream_show_domain(struct seq_file *m, u32 domain, const char *without)
{
	if (domain)
		seq_printf(m, "  Domain: %u\n", domain);
	else
		seq_printf(m, "  Domain: - %s\n", without);
}

static void stream_show_raw(struct seq_file *m, const char *name, const u64 *data)
{
	int i;

	seq_puts(m, "  Raw Data:\n");
	for (i = 0; i < STRTAB_STE_DWORDS; i++)
		seq_printf(m, "    %s[%d]: 0x%016llx\n", name, i, data[i]);
}

static const char *stream_ste_without_domain(const u64 *ste)
{
	const struct stream_config *config = stream_config(ste);

	if (!(ste[0] & STRTAB_STE_0_V))
		return "none";
	/* With several CDs, S1DSS says what becomes of DMA without a PASID */
	if (config->s1 && !config->s2 && ste[0] & STRTAB_STE_0_S1CDMAX) {
		u64 s1dss = FIELD_GET(STRTAB_STE_1_S1DSS, ste[1]);

		if (s1dss == STRTAB_STE_1_S1DSS_TERMINATE)
			return "blocked";
		if (s1dss == STRTAB_STE_1_S1DSS_BYPASS)
			return "identity";
	}
	return config->without_domain ?: "unknown";
}

static int stream_ste_show(struct seq_file *m, void *v)
{
	struct stream_iter *it = m->private;
	const u64 *data = it->data;
	const struct stream_config *config = stream_config(data);

	seq_printf(m, "STE for Stream ID %u\n", iter_to_stream(it)->id);
	seq_printf(m, "  Valid: %s\n", data[0] & STRTAB_STE_0_V ? "Yes" : "No");
	seq_printf(m, "  Config: %s\n", config->name ?: "UNKNOWN");
	seq_printf(m, "  S1ContextPtr: 0x%016llx\n",
		   config->s1 ? data[0] & STRTAB_STE_0_S1CTXPTR_MASK : 0);
	seq_printf(m, "  S2TTB: 0x%016llx\n",
		   config->s2 ? data[3] & STRTAB_STE_3_S2TTB_MASK : 0);
	stream_show_domain(m, it->domain, stream_ste_without_domain(data));
	stream_show_raw(m, "STE", data);
	return 0;
}

static int stream_cd_show(struct seq_file *m, void *v)
{
	static const char *const granules[] = { "4K", "64K", "16K", "reserved" };
	static const u8 sizes[] = { 32, 36, 40, 42, 44, 48, 52, 56 };
	struct stream_iter *it = m->private;
	const u64 *data = it->data;

	seq_printf(m, "CD for Stream ID %u SSID %u\n", iter_to_stream(it)->id, it->ssid);
	seq_printf(m, "  Valid: %s\n", data[0] & CTXDESC_CD_0_V ? "Yes" : "No");
	seq_printf(m, "  ASID: %llu\n", FIELD_GET(CTXDESC_CD_0_ASID, data[0]));
	seq_printf(m, "  T0SZ: %llu\n", FIELD_GET(CTXDESC_CD_0_TCR_T0SZ, data[0]));
	seq_printf(m, "  TG0: %s\n", granules[FIELD_GET(CTXDESC_CD_0_TCR_TG0, data[0])]);
	seq_printf(m, "  IPS: %u\n", sizes[FIELD_GET(CTXDESC_CD_0_TCR_IPS, data[0])]);
	seq_printf(m, "  EPD0: %s\n", data[0] & CTXDESC_CD_0_TCR_EPD0 ? "Yes" : "No");
	seq_printf(m, "  TTB0: 0x%016llx\n", data[1] & CTXDESC_CD_1_TTB0_MASK);
	seq_printf(m, "  MAIR: 0x%016llx\n", data[3]);
	stream_show_domain(m, it->domain,
			   data[0] & CTXDESC_CD_0_TCR_EPD0 ? "blocked" : "unknown");
	stream_show_raw(m, "CD", data);
	return 0;
}

IOMMU_PTD_FILE(stream_ste, sizeof(struct stream_iter), stream_advance_ste,
	       stream_rewind, NULL);
IOMMU_PTD_FILE(stream_cd, sizeof(struct stream_iter), stream_advance_cd,
	       stream_rewind, NULL);

static struct dentry *stream_create(struct iommu_ptd_node *node)
{
	struct arm_smmu_stream_debugfs *stream = node_to_stream(node);
	struct dentry *dir;
	char name[12];

	snprintf(name, sizeof(name), "%u", stream->id);
	dir = debugfs_create_dir(name, stream->smmu->streams);
	debugfs_create_file_unsafe("ste", 0400, dir, node, &stream_ste_fops);
	debugfs_create_file_unsafe("cd", 0400, dir, node, &stream_cd_fops);
	if (stream->device && stream->target)
		debugfs_create_symlink(stream->device, dir, stream->target);
	return dir;
}

static void stream_release(struct iommu_ptd_node *node)
{
	struct arm_smmu_stream_debugfs *stream = node_to_stream(node);

	kfree(stream->device);
	kfree(stream->target);
	kfree(stream);
}

static struct arm_smmu_stream_debugfs *stream_add(struct arm_smmu_master *master, u32 id)
{
	struct arm_smmu_stream_debugfs *stream = kzalloc_obj(*stream);
	char *path;

	if (!stream)
		return NULL;
	stream->master = master;
	stream->smmu = master->smmu->debugfs;
	stream->id = id;
	stream->device = kstrdup(dev_name(master->dev), GFP_KERNEL);
	path = kobject_get_path(&master->dev->kobj, GFP_KERNEL);
	/* From iommu/arm_smmu_v3/<iommu>/stream_table/<sid> up to /sys */
	if (path)
		stream->target = kasprintf(GFP_KERNEL, "../../../../../../..%s", path);
	kfree(path);
	stream->node.create = stream_create;
	stream->node.release = stream_release;
	iommu_ptd_node_add(&stream->node);
	return stream;
}

/* Once the master cannot fail to be probed any more */
void arm_smmu_debugfs_add_master(struct arm_smmu_master *master)
{
	unsigned int i;

	if (!master->smmu->debugfs)
		return;
	for (i = 0; i < master->num_streams; i++) {
		struct arm_smmu_stream *stream = &master->streams[i];

		/* Sorted. Bridged PCI devices may have duplicated IDs */
		if (i && stream->id == stream[-1].id)
			continue;
		stream->debugfs = stream_add(master, stream->id);
	}
}

/*
 * Before anything goes that the master has. On return no reader is in its STEs
 * or CDs, and none will be.
 */
void arm_smmu_debugfs_remove_master(struct arm_smmu_master *master)
{
	unsigned int i;

	for (i = 0; i < master->num_streams; i++)
		if (master->streams[i].debugfs)
			iommu_ptd_node_del(&master->streams[i].debugfs->node);
}

static struct dentry *smmu_create(struct iommu_ptd_node *node)
{
	struct arm_smmu_debugfs *smmu = container_of(node, struct arm_smmu_debugfs, node);
	struct dentry *dir = debugfs_create_dir(smmu->name, arm_smmu_debugfs_dir);

	smmu->streams = debugfs_create_dir("stream_table", dir);
	return dir;
}

static void smmu_release(struct iommu_ptd_node *node)
{
	kfree(container_of(node, struct arm_smmu_debugfs, node));
}

/* Once the SMMU has its name in sysfs, and before its first master */
void arm_smmu_debugfs_add_smmu(struct arm_smmu_device *smmu)
{
	const char *name = dev_name(smmu->iommu.dev);

	smmu->debugfs = kzalloc_flex(*smmu->debugfs, name, strlen(name) + 1);
	if (!smmu->debugfs)
		return;
	strscpy(smmu->debugfs->name, name, strlen(name) + 1);
	smmu->debugfs->node.create = smmu_create;
	smmu->debugfs->node.release = smmu_release;
	iommu_ptd_node_add(&smmu->debugfs->node);
}

/* After all masters of the SMMU */
void arm_smmu_debugfs_remove_smmu(struct arm_smmu_device *smmu)
{
	if (smmu->debugfs)
		iommu_ptd_node_del(&smmu->debugfs->node);
}

void arm_smmu_debugfs_init(void)
{
	arm_smmu_debugfs_dir = debugfs_create_dir("arm_smmu_v3", iommu_debugfs_dir);
}

void arm_smmu_debugfs_exit(void)
{
	iommu_ptd_flush();
	debugfs_remove(arm_smmu_debugfs_dir);
}
