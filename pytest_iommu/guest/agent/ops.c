// SPDX-License-Identifier: GPL-2.0-only
/* A batch: parse it, run its operations in order, put the reply together. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"

#define KMSG_MAX 65536
#define OP_HEAD 20

static int32_t op_none(const struct op *op, struct buffer *out)
{
	(void)op;
	(void)out;
	return -ENOSYS;
}

/* By code; the numbers are the protocol, ops.py has the same */
static const op_fn handlers[] = {
	op_none,	 op_read_file, op_write_file, op_list,	op_stat,   op_readlink,
	op_open,	 op_read,      op_pread,      op_lseek, op_write,  op_close,
	op_ioctl,	 op_parallel_read, op_insmod, op_rmmod, op_poweroff, op_pwrite,
	op_run,		 op_sleep,     op_mkdir,      op_mount,
	op_start_reader, op_start_writer, op_start_spinner, op_start_ticker,
	op_signal_job,	 op_wait_job,	  op_job_state,	    op_reset_jobs,
	op_await_rounds, op_close_all,
};

static void run_op(const struct op *op, struct buffer *out)
{
	bool known = op->code < sizeof(handlers) / sizeof(*handlers);
	op_fn handler = known ? handlers[op->code] : op_none;
	size_t at = out->len;
	int32_t value;

	buffer_u32(out, 0);
	buffer_u32(out, 0);
	value = handler(op, out);
	/* a reply that would not fit a frame says so, and the rest still comes */
	if (out->len > FRAME_MAX - KMSG_MAX) {
		out->len = at + 8;
		value = -EMSGSIZE;
	}
	buffer_set_u32(out, at, value);
	buffer_set_u32(out, at + 4, out->len - at - 8);
}

/* Take the op at *p; path is copied, since the frame has no zero behind it */
static bool parse_op(const uint8_t **p, size_t *left, struct op *op, struct buffer *path)
{
	uint32_t path_len;

	if (*left < OP_HEAD)
		return false;
	op->code = get_u32(*p);
	op->a = get_u32(*p + 4);
	op->b = get_u32(*p + 8);
	path_len = get_u32(*p + 12);
	op->data_len = get_u32(*p + 16);
	*p += OP_HEAD;
	*left -= OP_HEAD;
	if (path_len > *left || op->data_len > *left - path_len)
		return false;
	path->len = 0;
	buffer_add(path, *p, path_len);
	buffer_add(path, "", 1);
	op->path = (const char *)path->data;
	op->data = *p + path_len;
	*p += path_len + op->data_len;
	*left -= path_len + op->data_len;
	return true;
}

/* The whole batch is checked before its first op runs */
static bool well_formed(const uint8_t *p, size_t left, uint32_t count, struct buffer *path)
{
	struct op op;

	while (count--)
		if (!parse_op(&p, &left, &op, path))
			return false;
	return left == 0;
}

bool run_batch(const uint8_t *payload, size_t len, struct buffer *out)
{
	static struct buffer path, results;
	size_t left = len - 4, at;
	const uint8_t *p = payload + 4;
	uint32_t count, i;
	struct op op;

	if (len < 4)
		return false;
	count = get_u32(payload);
	if (!well_formed(p, left, count, &path))
		return false;

	results.len = 0;
	for (i = 0; i < count; i++) {
		parse_op(&p, &left, &op, &path);
		run_op(&op, &results);
	}

	/* the kernel's words come last in time but first in the frame */
	buffer_u32(out, read_taint());
	at = out->len;
	buffer_u32(out, 0);
	kmsg_read(out, KMSG_MAX, "");
	buffer_set_u32(out, at, out->len - at - 4);
	buffer_u32(out, count);
	buffer_add(out, results.data, results.len);

	/* do not keep the memory of the one huge dump for ever */
	if (results.size > (4u << 20)) {
		free(results.data);
		results = (struct buffer){};
	}
	return true;
}
