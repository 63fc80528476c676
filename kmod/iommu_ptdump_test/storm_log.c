// SPDX-License-Identifier: GPL-2.0-only
/* The file storm: waits for the end, then says what was changed and when. */
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>

#include "storm.h"

/* ptt_lock is not held: whoever waits here keeps nobody from a command */
static void *log_start(struct seq_file *s, loff_t *pos)
{
	struct ptt_storm *storm = s->private;
	int ret;

	if (!storm)
		return NULL;
	ret = wait_for_completion_killable(&storm->done);
	if (ret)
		return ERR_PTR(ret);
	if (!*pos)
		return SEQ_START_TOKEN;
	return *pos <= storm->nr_log ? storm->log + (*pos - 1) : NULL;
}

static void *log_next(struct seq_file *s, void *v, loff_t *pos)
{
	struct ptt_storm *storm = s->private;

	++*pos;
	return *pos <= storm->nr_log ? storm->log + (*pos - 1) : NULL;
}

static void log_stop(struct seq_file *s, void *v)
{
}

static void show_head(struct seq_file *s, const struct ptt_storm *storm)
{
	const struct ptt_shape *shape;
	unsigned int i;

	seq_printf(s, "storm %s iova=0x%llx cell=0x%llx gap=0x%llx round=0x%llx cells=%u threads=%u changes=%u error=%d\n",
		   storm->name, storm->iova, storm->cell, storm->gap, storm->round,
		   storm->nr_cells, storm->nr_threads, storm->nr_log, -READ_ONCE(storm->error));
	for (i = 1; i < PTT_STORM_STATES; i++) {
		shape = &storm->shape[i];
		seq_printf(s, "state %u pa=0x%llx size=0x%llx leaf=0x%llx prot=%s\n", i, shape->pa,
			   shape->size, shape->leaf, shape->letters);
	}
}

static int log_show(struct seq_file *s, void *v)
{
	const struct ptt_change *c = v;

	if (v == SEQ_START_TOKEN)
		show_head(s, s->private);
	else
		seq_printf(s, "%u %u %llu %llu\n", c->cell, c->state, c->begin, c->end);
	return 0;
}

static const struct seq_operations log_ops = {
	.start = log_start,
	.next = log_next,
	.stop = log_stop,
	.show = log_show,
};

static int log_open(struct inode *inode, struct file *file)
{
	struct seq_file *s;
	int ret;

	ret = seq_open(file, &log_ops);
	if (ret)
		return ret;
	ret = mutex_lock_killable(&ptt_lock);
	if (ret) {
		seq_release(inode, file);
		return ret;
	}
	s = file->private_data;
	s->private = ptt_storm_get();
	mutex_unlock(&ptt_lock);
	return 0;
}

static int log_release(struct inode *inode, struct file *file)
{
	struct seq_file *s = file->private_data;

	ptt_storm_put(s->private);
	return seq_release(inode, file);
}

const struct file_operations ptt_storm_fops = {
	.owner = THIS_MODULE,
	.open = log_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = log_release,
};
