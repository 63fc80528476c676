// SPDX-License-Identifier: GPL-2.0-only
/*
 * Page table dump in debugfs: directories and files whose subject may go
 *
 * A reader enters the subject in ->start() and leaves it in ->stop(), and never
 * stays inside while text is copied to user space. Whoever ends the subject
 * waits for readers that are inside, and for nothing else.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>

#include "iommu-ptdump.h"

static struct workqueue_struct *node_wq;

static void node_release(struct kref *ref)
{
	struct iommu_ptd_node *node = container_of(ref, struct iommu_ptd_node, ref);

	node->release(node);
}

static void node_add_work(struct work_struct *work)
{
	struct iommu_ptd_node *node = container_of(work, struct iommu_ptd_node, add);

	if (!READ_ONCE(node->dying))
		node->dir = node->create(node);
}

static void node_del_work(struct work_struct *work)
{
	struct iommu_ptd_node *node = container_of(work, struct iommu_ptd_node, del);

	debugfs_remove(node->dir);
	kref_put(&node->ref, node_release);
}

/* Has the directory made; @node is zero but for create and release */
void iommu_ptd_node_add(struct iommu_ptd_node *node)
{
	kref_init(&node->ref);
	refcount_set(&node->users, 1);
	init_completion(&node->idle);
	INIT_WORK(&node->add, node_add_work);
	INIT_WORK(&node->del, node_del_work);
	queue_work(node_wq, &node->add);
}

static void node_leave(struct iommu_ptd_node *node)
{
	if (refcount_dec_and_test(&node->users))
		complete(&node->idle);
}

static int node_enter(struct iommu_ptd_node *node)
{
	if (READ_ONCE(node->dying) || !refcount_inc_not_zero(&node->users))
		return -EIO;
	return 0;
}

/*
 * Ends the subject: on return no reader is inside it, and none will be. @node
 * belongs to the core from now on.
 */
void iommu_ptd_node_del(struct iommu_ptd_node *node)
{
	WRITE_ONCE(node->dying, true);
	node_leave(node);
	wait_for_completion(&node->idle);
	queue_work(node_wq, &node->del);
}

/*
 * Waits until the directories are those of live subjects. For a module whose
 * functions make directories, before it goes. Call it without locks: this may
 * wait for readers of directories.
 */
void iommu_ptd_flush(void)
{
	flush_workqueue(node_wq);
}

/*
 * @inode is one of debugfs_create_file_unsafe(): with the other variety the
 * removal of the directory waits for whoever copies to user space. @size is that
 * of the private data, which begins with struct iommu_ptd_seq.
 */
int iommu_ptd_seq_open(struct inode *inode, struct file *file,
		       const struct seq_operations *ops, size_t size,
		       bool (*advance)(struct seq_file *m),
		       void (*rewind)(struct seq_file *m))
{
	/* debugfs keeps the directory during open, and the directory the node */
	struct iommu_ptd_node *node = inode->i_private;
	struct iommu_ptd_seq *s;

	if (READ_ONCE(node->dying))
		return -ENOENT;
	s = __seq_open_private(file, ops, size);
	if (!s)
		return -ENOMEM;
	kref_get(&node->ref);
	s->node = node;
	s->advance = advance;
	s->rewind = rewind;
	return 0;
}

int iommu_ptd_seq_release(struct inode *inode, struct file *file)
{
	struct iommu_ptd_seq *s = ((struct seq_file *)file->private_data)->private;

	kref_put(&s->node->ref, node_release);
	return seq_release_private(inode, file);
}

/* Has the subject or the reader come to its end? */
bool iommu_ptd_seq_stopped(struct iommu_ptd_seq *s)
{
	if (READ_ONCE(s->node->dying))
		s->error = -EIO;
	else if (fatal_signal_pending(current))
		s->error = -EINTR;
	return s->error;
}

static bool seq_advance(struct seq_file *m)
{
	struct iommu_ptd_seq *s = m->private;

	/* Between any two records, not only batches: they may go to user space */
	return !iommu_ptd_seq_stopped(s) && s->advance(m);
}

/* seq_file drops what ->next() returns while it has text: ->start() says it again */
static void *seq_record(struct iommu_ptd_seq *s, loff_t pos)
{
	if (s->error)
		return ERR_PTR(s->error);
	return s->pos == pos ? s : NULL;
}

/* seq_file begins at record 0, or goes on with the one that did not fit */
void *iommu_ptd_seq_start(struct seq_file *m, loff_t *pos)
{
	struct iommu_ptd_seq *s = m->private;
	int ret = node_enter(s->node);

	s->inside = !ret;
	if (ret)
		return ERR_PTR(ret);

	/* A file may be shared: what stopped one reader need not stop the next */
	if (*pos == 0 || s->error) {
		s->error = 0;
		s->rewind(m);
		for (s->pos = -1; s->pos < *pos; s->pos++)
			if (!seq_advance(m)) {
				s->pos = -1;
				break;
			}
	}
	return seq_record(s, *pos);
}

void *iommu_ptd_seq_next(struct seq_file *m, void *v, loff_t *pos)
{
	struct iommu_ptd_seq *s = m->private;

	++*pos;
	s->pos = seq_advance(m) ? *pos : -1;
	return seq_record(s, *pos);
}

void iommu_ptd_seq_stop(struct seq_file *m, void *v)
{
	struct iommu_ptd_seq *s = m->private;

	if (s->inside)
		node_leave(s->node);
	s->inside = false;
}

/*
 * seq_file hands out the rest of its buffer without ->start(), and may seek
 * without it. Neither may succeed once the subject is gone.
 */
static bool seq_dying(struct file *file)
{
	struct iommu_ptd_seq *s = ((struct seq_file *)file->private_data)->private;

	return READ_ONCE(s->node->dying);
}

ssize_t iommu_ptd_seq_read_iter(struct kiocb *iocb, struct iov_iter *iter)
{
	return seq_dying(iocb->ki_filp) ? -EIO : seq_read_iter(iocb, iter);
}

loff_t iommu_ptd_seq_llseek(struct file *file, loff_t offset, int whence)
{
	return seq_dying(file) ? -EIO : seq_lseek(file, offset, whence);
}

static int __init iommu_ptd_node_init(void)
{
	/* Ordered: a directory is made before it is removed, a child before its parent */
	node_wq = alloc_ordered_workqueue("iommu_ptd", 0);
	return node_wq ? 0 : -ENOMEM;
}

/* After the first workqueues, before any IOMMU is probed */
postcore_initcall(iommu_ptd_node_init);
