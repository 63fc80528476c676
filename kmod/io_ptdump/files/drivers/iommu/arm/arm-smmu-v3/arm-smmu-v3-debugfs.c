// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stream table entries and context descriptors in debugfs
 *
 * iommu/arm_smmu_v3/<iommu>/stream_table/<sid>/{ste,cd,<device>}
 *
 * A directory lives as long as its master. Readers take no lock of the driver:
 * an entry is copied until two copies agree, and a CD table stays until the
 * master is released. debugfs_file_get() keeps the master, from ->start() to
 * ->stop() and never while text is copied to user space.
 */
#include <linux/bitfield.h>
#include <linux/dcache.h>
#include <linux/debugfs.h>
#include <linux/iommu-ptdump.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>

#include "arm-smmu-v3.h"

/* CDs to look at between two reschedules */
#define STREAM_BUDGET	512
/* A writer waits for the SMMU between its steps, a copy seldom meets two */
#define STREAM_TRIES	8

static struct dentry *arm_smmu_debugfs_dir;

/**
 * struct stream_iter - What an open file remembers
 * @stream: Only valid from debugfs_file_get() to debugfs_file_put()
 * @advance: Make the next record
 * @data: The current record: copy of an STE or a CD
 * @ssid: Of the CD in @data
 * @next_ssid: The first that was not looked at
 * @pos: Number of the record, -1 for none
 * @held: ->start() has got hold of the master
 * @error: Why the walk ended early; said again by ->start(), as seq_file drops
 *	what ->next() returns while it has text to copy
 */
struct stream_iter {
	struct arm_smmu_stream *stream;
	bool (*advance)(struct seq_file *m);
	u64 data[STRTAB_STE_DWORDS];
	u32 ssid;
	u32 next_ssid;
	loff_t pos;
	bool held;
	int error;
};

static_assert(STRTAB_STE_DWORDS == CTXDESC_CD_DWORDS);

static struct arm_smmu_ste *stream_ste(struct arm_smmu_stream *stream)
{
	return arm_smmu_get_step_for_sid(stream->master->smmu, stream->id);
}

/* What two copies agree on was in memory at one time between them */
static void stream_copy(u64 *dst, const __le64 *src)
{
	int tries, i;

	for (i = 0; i < STRTAB_STE_DWORDS; i++)
		dst[i] = le64_to_cpu(READ_ONCE(src[i]));

	for (tries = 1; tries < STREAM_TRIES; tries++) {
		bool same = true;

		/* All loads of a copy come before those of the next */
		smp_rmb();
		for (i = 0; i < STRTAB_STE_DWORDS; i++) {
			u64 val = le64_to_cpu(READ_ONCE(src[i]));

			same &= dst[i] == val;
			dst[i] = val;
		}
		if (same)
			break;
	}
}

static bool stream_next_ste(struct seq_file *m)
{
	struct stream_iter *it = m->private;

	if (it->pos >= 0)
		return false;
	stream_copy(it->data, stream_ste(it->stream)->data);
	return true;
}

static unsigned int stream_num_cds(struct arm_smmu_stream *stream)
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
static struct arm_smmu_cd *stream_cd(struct arm_smmu_stream *stream, u32 ssid)
{
	struct arm_smmu_ctx_desc_cfg *cfg = &stream->master->cd_table;
	struct arm_smmu_cdtab_l2 *l2;

	if (cfg->s1fmt == STRTAB_STE_0_S1FMT_LINEAR)
		return &cfg->linear.table[ssid];

	l2 = READ_ONCE(cfg->l2.l2ptrs[arm_smmu_cdtab_l1_idx(ssid)]);
	return l2 ? &l2->cds[arm_smmu_cdtab_l2_idx(ssid)] : NULL;
}

static bool stream_copy_cd(struct stream_iter *it, struct arm_smmu_cd *cd)
{
	/* Most are not valid: do not copy them to find that out */
	if (!(le64_to_cpu(READ_ONCE(cd->data[0])) & CTXDESC_CD_0_V))
		return false;
	stream_copy(it->data, cd->data);
	return it->data[0] & CTXDESC_CD_0_V;
}

static bool stream_interrupted(struct seq_file *m)
{
	struct stream_iter *it = m->private;

	/* Removal waits for us */
	if (d_unlinked(m->file->f_path.dentry))
		it->error = -EIO;
	else if (fatal_signal_pending(current))
		it->error = -EINTR;
	return it->error;
}

static bool stream_next_cd(struct seq_file *m)
{
	struct stream_iter *it = m->private;
	unsigned int num = stream_num_cds(it->stream);
	unsigned int looked_at = 0;

	while (it->next_ssid < num) {
		u32 ssid = it->next_ssid;
		struct arm_smmu_cd *cd = stream_cd(it->stream, ssid);

		if (cd)
			it->next_ssid++;
		else
			it->next_ssid = round_down(ssid, CTXDESC_L2_ENTRIES) +
					CTXDESC_L2_ENTRIES;
		if (cd && stream_copy_cd(it, cd)) {
			it->ssid = ssid;
			return true;
		}
		if (++looked_at % STREAM_BUDGET)
			continue;
		if (stream_interrupted(m))
			return false;
		cond_resched();
	}
	return false;
}

static const char *stream_yes(bool yes)
{
	return yes ? "Yes" : "No";
}

static void stream_show_domain(struct seq_file *m, bool translates, u64 top)
{
	u32 id = translates ? iommu_ptd_find(top) : 0;

	if (id)
		seq_printf(m, "  Domain: %u\n", id);
	else
		seq_puts(m, "  Domain: -\n");
}

static void stream_show_raw(struct seq_file *m, const char *name,
			    const u64 *data)
{
	int i;

	seq_puts(m, "  Raw Data:\n");
	for (i = 0; i < STRTAB_STE_DWORDS; i++)
		seq_printf(m, "    %s[%d]: 0x%016llx\n", name, i, data[i]);
}

static const char *stream_config(unsigned int cfg)
{
	switch (cfg) {
	case STRTAB_STE_0_CFG_ABORT:
		return "ABORT";
	case STRTAB_STE_0_CFG_BYPASS:
		return "BYPASS";
	case STRTAB_STE_0_CFG_S1_TRANS:
		return "only S1_TRANS";
	case STRTAB_STE_0_CFG_S2_TRANS:
		return "only S2_TRANS";
	case STRTAB_STE_0_CFG_NESTED:
		return "S1+S2_TRANS";
	default:
		return "UNKNOWN";
	}
}

static int stream_ste_show(struct seq_file *m, void *v)
{
	struct stream_iter *it = m->private;
	const u64 *data = it->data;
	unsigned int cfg = FIELD_GET(STRTAB_STE_0_CFG, data[0]);
	bool s1 = cfg == STRTAB_STE_0_CFG_S1_TRANS ||
		  cfg == STRTAB_STE_0_CFG_NESTED;
	bool s2 = cfg == STRTAB_STE_0_CFG_S2_TRANS ||
		  cfg == STRTAB_STE_0_CFG_NESTED;
	u64 s1ctxptr = s1 ? data[0] & STRTAB_STE_0_S1CTXPTR_MASK : 0;
	u64 s2ttb = s2 ? data[3] & STRTAB_STE_3_S2TTB_MASK : 0;

	seq_printf(m, "STE for Stream ID %u\n", it->stream->id);
	seq_printf(m, "  Valid: %s\n", stream_yes(data[0] & STRTAB_STE_0_V));
	seq_printf(m, "  Config: %s\n", stream_config(cfg));
	seq_printf(m, "  S1ContextPtr: 0x%016llx\n", s1ctxptr);
	seq_printf(m, "  S2TTB: 0x%016llx\n", s2ttb);
	stream_show_domain(m, s2, s2ttb);
	stream_show_raw(m, "STE", data);
	return 0;
}

static int stream_cd_show(struct seq_file *m, void *v)
{
	static const char *const granules[] = { "4K", "64K", "16K", "reserved" };
	static const u8 sizes[] = { 32, 36, 40, 42, 44, 48, 52, 56 };
	struct stream_iter *it = m->private;
	const u64 *data = it->data;
	bool epd0 = data[0] & CTXDESC_CD_0_TCR_EPD0;
	u64 ttb0 = data[1] & CTXDESC_CD_1_TTB0_MASK;

	seq_printf(m, "CD for Stream ID %u SSID %u\n", it->stream->id,
		   it->ssid);
	seq_printf(m, "  Valid: %s\n", stream_yes(data[0] & CTXDESC_CD_0_V));
	seq_printf(m, "  ASID: %llu\n", FIELD_GET(CTXDESC_CD_0_ASID, data[0]));
	seq_printf(m, "  T0SZ: %llu\n",
		   FIELD_GET(CTXDESC_CD_0_TCR_T0SZ, data[0]));
	seq_printf(m, "  TG0: %s\n",
		   granules[FIELD_GET(CTXDESC_CD_0_TCR_TG0, data[0])]);
	seq_printf(m, "  IPS: %u\n",
		   sizes[FIELD_GET(CTXDESC_CD_0_TCR_IPS, data[0])]);
	seq_printf(m, "  EPD0: %s\n", stream_yes(epd0));
	seq_printf(m, "  TTB0: 0x%016llx\n", ttb0);
	seq_printf(m, "  MAIR: 0x%016llx\n", data[3]);
	stream_show_domain(m, !epd0, ttb0);
	stream_show_raw(m, "CD", data);
	return 0;
}

static void *stream_record(struct stream_iter *it, loff_t pos)
{
	if (it->error)
		return ERR_PTR(it->error);
	return it->pos == pos ? it : NULL;
}

/* seq_file begins at record 0, or goes on with the one that did not fit */
static void *stream_start(struct seq_file *m, loff_t *pos)
{
	struct stream_iter *it = m->private;
	int ret;

	ret = debugfs_file_get(m->file->f_path.dentry);
	it->held = !ret;
	if (ret)
		return ERR_PTR(ret);

	if (*pos == 0) {
		it->error = 0;
		it->next_ssid = 0;
		it->pos = -1;
		if (it->advance(m))
			it->pos = 0;
	}
	return stream_record(it, *pos);
}

static void *stream_next(struct seq_file *m, void *v, loff_t *pos)
{
	struct stream_iter *it = m->private;

	++*pos;
	it->pos = !stream_interrupted(m) && it->advance(m) ? *pos : -1;
	return stream_record(it, *pos);
}

static void stream_stop(struct seq_file *m, void *v)
{
	struct stream_iter *it = m->private;

	if (it->held)
		debugfs_file_put(m->file->f_path.dentry);
	it->held = false;
}

static int stream_iter_open(struct inode *inode, struct file *file,
			    const struct seq_operations *seq,
			    bool (*advance)(struct seq_file *m))
{
	struct stream_iter *it = __seq_open_private(file, seq, sizeof(*it));

	if (!it)
		return -ENOMEM;
	it->stream = inode->i_private;
	it->advance = advance;
	it->pos = -1;
	return 0;
}

#define STREAM_FILE(name)						\
static const struct seq_operations stream_##name##_seq_ops = {		\
	.start = stream_start,						\
	.next = stream_next,						\
	.stop = stream_stop,						\
	.show = stream_##name##_show,					\
};									\
									\
static int stream_##name##_open(struct inode *inode, struct file *file)	\
{									\
	return stream_iter_open(inode, file, &stream_##name##_seq_ops,	\
				stream_next_##name);			\
}									\
									\
static const struct file_operations stream_##name##_fops = {		\
	.owner = THIS_MODULE,						\
	.open = stream_##name##_open,					\
	.read_iter = iommu_ptd_read_iter,				\
	.llseek = iommu_ptd_llseek,					\
	.release = seq_release_private,					\
}

STREAM_FILE(ste);
STREAM_FILE(cd);

static void stream_add_link(struct dentry *dir, struct device *dev)
{
	char *path = kobject_get_path(&dev->kobj, GFP_KERNEL);
	char *target;

	if (!path)
		return;
	/* From iommu/arm_smmu_v3/<iommu>/stream_table/<sid> up to /sys */
	target = kasprintf(GFP_KERNEL, "../../../../../../..%s", path);
	if (target)
		debugfs_create_symlink(dev_name(dev), dir, target);
	kfree(target);
	kfree(path);
}

static void stream_add(struct arm_smmu_stream *stream)
{
	struct arm_smmu_master *master = stream->master;
	struct dentry *dir;
	char name[12];

	snprintf(name, sizeof(name), "%u", stream->id);
	dir = debugfs_create_dir(name, master->smmu->debugfs_streams);
	/* As the files of page tables are: see iommu_ptd_read_iter() */
	debugfs_create_file_unsafe("ste", 0400, dir, stream, &stream_ste_fops);
	debugfs_create_file_unsafe("cd", 0400, dir, stream, &stream_cd_fops);
	stream_add_link(dir, master->dev);
	stream->debugfs_dir = dir;
}

/**
 * arm_smmu_debugfs_add_master() - Make a directory for every stream of a master
 * @master: The master, which cannot fail to be probed any more
 */
void arm_smmu_debugfs_add_master(struct arm_smmu_master *master)
{
	unsigned int i;

	for (i = 0; i < master->num_streams; i++) {
		struct arm_smmu_stream *stream = &master->streams[i];

		/* Sorted. Bridged PCI devices may have duplicated IDs */
		if (i && stream->id == stream[-1].id)
			continue;
		stream_add(stream);
	}
}

/**
 * arm_smmu_debugfs_remove_master() - Remove the directories of a master
 * @master: The master, with all that it has still there
 *
 * On return no reader is in the STEs or CDs of the master, and none will be.
 */
void arm_smmu_debugfs_remove_master(struct arm_smmu_master *master)
{
	unsigned int i;

	for (i = 0; i < master->num_streams; i++)
		debugfs_remove(master->streams[i].debugfs_dir);
}

/**
 * arm_smmu_debugfs_add_smmu() - Make the directory of an SMMU
 * @smmu: The SMMU, which has its name in sysfs but no masters yet
 *
 * Whatever goes wrong stays in the dentry: debugfs makes nothing below an error.
 */
void arm_smmu_debugfs_add_smmu(struct arm_smmu_device *smmu)
{
	struct dentry *dir = debugfs_create_dir(dev_name(smmu->iommu.dev),
						arm_smmu_debugfs_dir);

	smmu->debugfs_streams = debugfs_create_dir("stream_table", dir);
}

/**
 * arm_smmu_debugfs_remove_smmu() - Remove the directory of an SMMU
 * @smmu: The SMMU, its masters gone
 */
void arm_smmu_debugfs_remove_smmu(struct arm_smmu_device *smmu)
{
	debugfs_lookup_and_remove(dev_name(smmu->iommu.dev),
				  arm_smmu_debugfs_dir);
}

/**
 * arm_smmu_debugfs_init() - Make the directory of all SMMUs
 */
void arm_smmu_debugfs_init(void)
{
	arm_smmu_debugfs_dir = debugfs_create_dir("arm_smmu_v3",
						  iommu_debugfs_dir);
}

/**
 * arm_smmu_debugfs_exit() - Remove the directory of all SMMUs
 */
void arm_smmu_debugfs_exit(void)
{
	debugfs_remove(arm_smmu_debugfs_dir);
}
