// SPDX-License-Identifier: GPL-2.0-only
/*
 * The files grace_period, grace_period_expedited and rcu_barrier: how long RCU
 * readers hold others up, and when all that waits for them is done. A worker
 * does the waiting, so that a process that reads can be killed.
 */
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "ptdump_test.h"

static struct workqueue_struct *workers;

/**
 * struct grace - one wait
 * @work: the worker's
 * @done: it has waited
 * @ref: the reader's and the worker's
 * @wait: synchronize_rcu() or its like
 * @ns: what that took
 */
struct grace {
	struct work_struct work;
	struct completion done;
	struct kref ref;
	void (*wait)(void);
	u64 ns;
};

static void grace_release(struct kref *ref)
{
	kfree(container_of(ref, struct grace, ref));
}

static void grace_work(struct work_struct *work)
{
	struct grace *g = container_of(work, struct grace, work);
	u64 begin = ktime_get_ns();

	g->wait();
	g->ns = ktime_get_ns() - begin;
	complete(&g->done);
	kref_put(&g->ref, grace_release);
}

static ssize_t grace_read(char __user *buf, size_t len, loff_t *ppos, void (*wait)(void))
{
	struct grace *g;
	char text[24];
	ssize_t ret;

	if (*ppos)
		return 0;
	g = kzalloc_obj(*g);
	if (!g)
		return -ENOMEM;
	INIT_WORK(&g->work, grace_work);
	init_completion(&g->done);
	kref_init(&g->ref);
	g->wait = wait;
	kref_get(&g->ref);
	queue_work(workers, &g->work);

	ret = wait_for_completion_killable(&g->done);
	if (!ret)
		ret = simple_read_from_buffer(buf, len, ppos, text,
					      scnprintf(text, sizeof(text), "%llu\n", g->ns));
	kref_put(&g->ref, grace_release);
	return ret;
}

static ssize_t normal_read(struct file *file, char __user *buf, size_t len, loff_t *ppos)
{
	return grace_read(buf, len, ppos, synchronize_rcu);
}

const struct file_operations ptt_grace_fops = {
	.owner = THIS_MODULE,
	.read = normal_read,
	.llseek = default_llseek,
};

static ssize_t expedited_read(struct file *file, char __user *buf, size_t len, loff_t *ppos)
{
	return grace_read(buf, len, ppos, synchronize_rcu_expedited);
}

const struct file_operations ptt_grace_expedited_fops = {
	.owner = THIS_MODULE,
	.read = expedited_read,
	.llseek = default_llseek,
};

static ssize_t barrier_read(struct file *file, char __user *buf, size_t len, loff_t *ppos)
{
	return grace_read(buf, len, ppos, rcu_barrier);
}

const struct file_operations ptt_rcu_barrier_fops = {
	.owner = THIS_MODULE,
	.read = barrier_read,
	.llseek = default_llseek,
};

/* ptt_grace_init() - before the files; 0 or -ENOMEM */
int ptt_grace_init(void)
{
	workers = alloc_workqueue("iommu_ptdump_test", WQ_UNBOUND, 0);
	return workers ? 0 : -ENOMEM;
}

/* ptt_grace_exit() - after the files; waits for workers whose readers were killed */
void ptt_grace_exit(void)
{
	destroy_workqueue(workers);
}
