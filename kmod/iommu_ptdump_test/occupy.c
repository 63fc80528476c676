// SPDX-License-Identifier: GPL-2.0-only
/*
 * The file occupy: who reads it keeps the processor until a signal comes, and
 * lets it wait for interrupts meanwhile. To the scheduler it is a process that
 * runs, to RCU a processor that can be preempted; to whoever emulates it, it
 * costs nothing.
 */
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/processor.h>
#include <linux/sched/signal.h>
#include <asm/barrier.h>

#include "ptdump_test.h"

static void await_interrupt(void)
{
#ifdef CONFIG_ARM64
	wfi();
#else
	cpu_relax();
#endif
}

static ssize_t occupy_read(struct file *file, char __user *buf, size_t len, loff_t *ppos)
{
	while (!signal_pending(current)) {
		await_interrupt();
		cond_resched();
	}
	return -EINTR;
}

const struct file_operations ptt_occupy_fops = {
	.owner = THIS_MODULE,
	.read = occupy_read,
	.llseek = default_llseek,
};
