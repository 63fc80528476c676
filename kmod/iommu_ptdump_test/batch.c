// SPDX-License-Identifier: GPL-2.0-only
/* A batch: its lines in order, and the status text that says what became of each. */
#include <linux/cleanup.h>
#include <linux/kref.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "ptdump_test.h"

static struct ptt_status *last_status;

static void status_release(struct kref *ref)
{
	struct ptt_status *status = container_of(ref, struct ptt_status, ref);

	kvfree(status->text);
	kfree(status);
}

/* ptt_status_get() - the last batch's status, or NULL before the first; ptt_lock held */
struct ptt_status *ptt_status_get(void)
{
	if (last_status)
		kref_get(&last_status->ref);
	return last_status;
}

void ptt_status_put(struct ptt_status *status)
{
	if (status)
		kref_put(&status->ref, status_release);
}

/* ptt_status_drop() - forget the last batch; ptt_lock held */
void ptt_status_drop(void)
{
	ptt_status_put(last_status);
	last_status = NULL;
}

static void status_add(struct ptt_status *status, unsigned int line, int err,
		       const struct ptt_reply *reply)
{
	char head[48];
	size_t need;
	char *text;

	if (status->cut)
		return;
	if (err)
		scnprintf(head, sizeof(head), "%u error %s", line, ptt_errno_name(err));
	else
		scnprintf(head, sizeof(head), "%u ok", line);

	need = status->len + strlen(head) + strlen(reply->text) + 3;
	if (need > status->size) {
		size_t size = max_t(size_t, 2 * status->size, PAGE_SIZE);

		/* commands go on without a line each: the batch's result matters more */
		if (size > PTT_MAX_STATUS) {
			status->cut = true;
			return;
		}
		text = kvmalloc(size, GFP_KERNEL);
		if (!text) {
			status->cut = true;
			return;
		}
		memcpy(text, status->text, status->len);
		kvfree(status->text);
		status->text = text;
		status->size = size;
	}
	status->len += scnprintf(status->text + status->len, status->size - status->len,
				 "%s%s%s\n", head, reply->text[0] ? " " : "", reply->text);
}

/**
 * ptt_run_batch() - run the lines of one write to the control file
 * @text: the lines, changed in place
 * @len: bytes, without the zero at the end
 *
 * Return: @len when every line passed (or was marked with ?), else the errno
 * of the first that failed; later lines are not run.
 */
ssize_t ptt_run_batch(char *text, size_t len)
{
	struct ptt_reply *reply __free(kfree) = kmalloc_obj(*reply);
	struct ptt_status *status = kzalloc_obj(*status);
	unsigned int number = 0;
	char *rest = text;
	ssize_t ret = len;
	bool may_fail;
	char *line;
	size_t i;
	int err;

	if (!reply || !status) {
		kfree(status);
		return -ENOMEM;
	}
	kref_init(&status->ref);
	ptt_status_drop();
	last_status = status;

	/* a zero byte would hide the rest of its line; this one is refused there */
	for (i = 0; i < len; i++)
		if (!text[i])
			text[i] = '\1';

	while ((line = strsep(&rest, "\n")) != NULL) {
		number++;
		line = skip_spaces(line);
		if (!*line || *line == '#')
			continue;
		may_fail = *line == '?';
		reply->text[0] = 0;
		err = ptt_run_line(line + may_fail, reply);
		status_add(status, number, err, reply);
		if (err && (!may_fail || err == -EINTR)) {
			ret = err;
			break;
		}
		if (fatal_signal_pending(current)) {
			ret = -EINTR;
			break;
		}
		cond_resched();
	}
	return ret;
}
