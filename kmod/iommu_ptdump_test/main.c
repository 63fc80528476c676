// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test module for page-table dumps: makes IOMMU domains and software page
 * tables with known mappings, by commands written to debugfs.
 *
 *   /sys/kernel/debug/iommu_ptdump_test/control   write a batch of commands
 *                                       status    what became of each line
 *                                       domains   the page tables it owns
 *                                       devices   the devices it drives
 *                                       hardware  what decides how tables are set up
 *                                       storm     what a storm changed
 *                                       grace_period[_expedited],
 *                                       rcu_barrier
 *                                       occupy    keeps a processor
 *
 * The commands are described in the README beside this file.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "ptdump_test.h"

/* One lock around everything: a batch, a debugfs read, a device's coming and going */
DEFINE_MUTEX(ptt_lock);

static struct dentry *ptt_dir;

static ssize_t control_write(struct file *file, const char __user *buf, size_t len,
			     loff_t *ppos)
{
	ssize_t ret;
	char *text;

	if (len > PTT_MAX_BATCH)
		return -E2BIG;

	text = kvmalloc(len + 1, GFP_KERNEL);
	if (!text)
		return -ENOMEM;
	if (copy_from_user(text, buf, len)) {
		kvfree(text);
		return -EFAULT;
	}
	text[len] = 0;

	ret = mutex_lock_killable(&ptt_lock);
	if (!ret) {
		ret = ptt_run_batch(text, len);
		mutex_unlock(&ptt_lock);
	}
	kvfree(text);
	return ret;
}

static const struct file_operations control_fops = {
	.owner = THIS_MODULE,
	.write = control_write,
};

/* An open status file shows the batch that was last when it was opened. */
static int status_open(struct inode *inode, struct file *file)
{
	int ret;

	ptt_dump_settle();
	ret = mutex_lock_killable(&ptt_lock);
	if (ret)
		return ret;
	file->private_data = ptt_status_get();
	mutex_unlock(&ptt_lock);
	return 0;
}

static ssize_t status_read(struct file *file, char __user *buf, size_t len, loff_t *ppos)
{
	struct ptt_status *status = file->private_data;

	if (!status)
		return 0;
	return simple_read_from_buffer(buf, len, ppos, status->text, status->len);
}

static int status_release(struct inode *inode, struct file *file)
{
	ptt_status_put(file->private_data);
	return 0;
}

static const struct file_operations status_fops = {
	.owner = THIS_MODULE,
	.open = status_open,
	.read = status_read,
	.llseek = default_llseek,
	.release = status_release,
};

static int domains_show(struct seq_file *s, void *unused)
{
	int ret = mutex_lock_killable(&ptt_lock);

	if (ret)
		return ret;
	ptt_show_domains(s);
	mutex_unlock(&ptt_lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(domains);

static int devices_show(struct seq_file *s, void *unused)
{
	int ret = mutex_lock_killable(&ptt_lock);

	if (ret)
		return ret;
	ptt_show_devices(s);
	mutex_unlock(&ptt_lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(devices);

static int hardware_show(struct seq_file *s, void *unused)
{
	int ret = mutex_lock_killable(&ptt_lock);

	if (ret)
		return ret;
	ret = ptt_show_hardware(s);
	mutex_unlock(&ptt_lock);
	return ret;
}
DEFINE_SHOW_ATTRIBUTE(hardware);

/* A domain's storm ends before anything else is taken from its table */
static struct ptt_holder *const holders[] __initconst = {
	&ptt_storm_holder,
	&ptt_plant_holder,
	&ptt_maps_holder,
	&ptt_hw_holder,
	&ptt_shared_holder,
	&ptt_buffer_holder,
};

static int __init ptdump_test_init(void)
{
	int ret = ptt_sw_init();
	int i;

	if (ret)
		return ret;
	ret = ptt_grace_init();
	if (ret)
		goto exit_sw;
	ret = ptt_hw_register();
	if (ret)
		goto exit_grace;

	for (i = 0; i < ARRAY_SIZE(holders); i++)
		ptt_holder_register(holders[i]);

	ptt_dir = debugfs_create_dir("iommu_ptdump_test", NULL);
	debugfs_create_file("control", 0200, ptt_dir, NULL, &control_fops);
	debugfs_create_file("status", 0400, ptt_dir, NULL, &status_fops);
	debugfs_create_file("domains", 0400, ptt_dir, NULL, &domains_fops);
	debugfs_create_file("devices", 0400, ptt_dir, NULL, &devices_fops);
	debugfs_create_file("hardware", 0400, ptt_dir, NULL, &hardware_fops);
	debugfs_create_file("storm", 0400, ptt_dir, NULL, &ptt_storm_fops);
	debugfs_create_file("grace_period", 0400, ptt_dir, NULL, &ptt_grace_fops);
	debugfs_create_file("grace_period_expedited", 0400, ptt_dir, NULL,
			    &ptt_grace_expedited_fops);
	debugfs_create_file("rcu_barrier", 0400, ptt_dir, NULL, &ptt_rcu_barrier_fops);
	debugfs_create_file("occupy", 0400, ptt_dir, NULL, &ptt_occupy_fops);
	return 0;

exit_grace:
	ptt_grace_exit();
exit_sw:
	ptt_sw_exit();
	return ret;
}
module_init(ptdump_test_init);

static void __exit ptdump_test_exit(void)
{
	/* waits for those who are in a file, afterwards nobody comes in */
	debugfs_remove(ptt_dir);

	mutex_lock(&ptt_lock);
	ptt_reset();
	ptt_status_drop();
	mutex_unlock(&ptt_lock);

	ptt_dump_settle();
	ptt_hw_unregister();
	ptt_grace_exit();
	ptt_sw_exit();
}
module_exit(ptdump_test_exit);

MODULE_DESCRIPTION("IOMMU domains with known mappings, for testing page-table dumps");
MODULE_LICENSE("GPL");
/* MODULE_IMPORT_NS() takes a string now, and took a word before */
MODULE_INFO(import_ns, "GENERIC_PT_IOMMU");
MODULE_INFO(import_ns, "IOMMUFD_INTERNAL");
