// SPDX-License-Identifier: GPL-2.0-only
/* Operations on files: whole ones, and open ones in numbered slots. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "agent.h"

#define SLOTS 64
#define CHUNK 65536u
#define THREADS 64

static int slots[SLOTS]; /* fd + 1, so that 0 is an empty slot */

/* What a slot has open, or -1 */
int fd_of_slot(uint32_t slot)
{
	return slot < SLOTS ? slots[slot] - 1 : -1;
}

static int slot_fd(const struct op *op)
{
	return fd_of_slot(op->a);
}

static int32_t result(ssize_t n)
{
	if (n < 0)
		return -errno;
	return n > INT32_MAX ? INT32_MAX : n;
}

/* Open and read to the end, chunk bytes a read(2); what came before an error stays in out */
int32_t read_to_end(const char *path, size_t chunk, size_t max, struct buffer *out)
{
	size_t start = out->len;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int32_t err = 0;

	if (fd < 0)
		return -errno;
	while (out->len - start < max) {
		ssize_t n;

		buffer_reserve(out, chunk);
		n = read(fd, out->data + out->len, chunk);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			err = -errno;
		if (n <= 0)
			break;
		out->len += n;
	}
	close(fd);
	return err ? err : (int32_t)(out->len - start);
}

static size_t chunk_of(const struct op *op)
{
	return op->a && op->a <= FRAME_MAX ? op->a : CHUNK;
}

int32_t op_read_file(const struct op *op, struct buffer *out)
{
	return read_to_end(op->path, chunk_of(op), op->b && op->b < FRAME_MAX ? op->b : FRAME_MAX,
			   out);
}

int32_t op_write_file(const struct op *op, struct buffer *out)
{
	int fd = open(op->path, O_WRONLY | O_CLOEXEC);
	int32_t ret;

	(void)out;
	if (fd < 0)
		return -errno;
	ret = result(write(fd, op->data, op->data_len));
	if (close(fd) < 0 && ret >= 0)
		ret = -errno;
	return ret;
}

int32_t op_open(const struct op *op, struct buffer *out)
{
	int fd;

	(void)out;
	if (op->a >= SLOTS)
		return -EBADF;
	if (slots[op->a])
		return -EBUSY;
	/* what it makes may be a program */
	fd = open(op->path, (int)op->b | O_CLOEXEC, 0700);
	if (fd < 0)
		return -errno;
	slots[op->a] = fd + 1;
	return 0;
}

static int32_t read_at(int fd, size_t count, off_t offset, bool positioned, struct buffer *out)
{
	ssize_t n;

	if (count > FRAME_MAX)
		return -EMSGSIZE;
	buffer_reserve(out, count);
	if (positioned)
		n = pread(fd, out->data + out->len, count, offset);
	else
		n = read(fd, out->data + out->len, count);
	if (n > 0)
		out->len += n;
	return result(n);
}

int32_t op_read(const struct op *op, struct buffer *out)
{
	return read_at(slot_fd(op), op->b, 0, false, out);
}

int32_t op_pread(const struct op *op, struct buffer *out)
{
	if (op->data_len != 8)
		return -EINVAL;
	return read_at(slot_fd(op), op->b, get_u64(op->data), true, out);
}

int32_t op_lseek(const struct op *op, struct buffer *out)
{
	off_t at;

	if (op->data_len != 8)
		return -EINVAL;
	at = lseek(slot_fd(op), get_u64(op->data), op->b);
	if (at < 0)
		return -errno;
	buffer_u32(out, at);
	buffer_u32(out, (uint64_t)at >> 32);
	return 0;
}

int32_t op_write(const struct op *op, struct buffer *out)
{
	(void)out;
	return result(write(slot_fd(op), op->data, op->data_len));
}

int32_t op_pwrite(const struct op *op, struct buffer *out)
{
	(void)out;
	if (op->data_len < 8)
		return -EINVAL;
	return result(pwrite(slot_fd(op), op->data + 8, op->data_len - 8, get_u64(op->data)));
}

int32_t op_close(const struct op *op, struct buffer *out)
{
	int fd = slot_fd(op);

	(void)out;
	if (fd < 0)
		return -EBADF;
	slots[op->a] = 0;
	return close(fd) < 0 ? -errno : 0;
}

/* Close all slots; how many were open */
int32_t op_close_all(const struct op *op, struct buffer *out)
{
	int32_t count = 0;

	(void)op;
	(void)out;
	for (int i = 0; i < SLOTS; i++) {
		if (!slots[i])
			continue;
		close(slots[i] - 1);
		slots[i] = 0;
		count++;
	}
	return count;
}

int32_t op_ioctl(const struct op *op, struct buffer *out)
{
	uint8_t arg[4096] = {};
	int ret;

	if (op->data_len > sizeof(arg))
		return -E2BIG;
	if (op->data_len)
		memcpy(arg, op->data, op->data_len);
	ret = ioctl(slot_fd(op), (unsigned long)op->b, arg);
	if (ret < 0)
		return -errno;
	buffer_add(out, arg, op->data_len);
	return ret;
}

/* All readers start at once when open; told to go home when not all could be made */
struct gate {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum { GATE_SHUT, GATE_OPEN, GATE_HOME } state;
};

struct reader {
	pthread_t thread;
	struct gate *gate;
	const struct op *op;
	struct buffer data;
	int32_t value;
};

static void *reader_main(void *arg)
{
	struct reader *r = arg;
	bool go;

	/* touch the memory first: readers shall meet in the file, not in malloc */
	buffer_reserve(&r->data, CHUNK);
	pthread_mutex_lock(&r->gate->lock);
	while (r->gate->state == GATE_SHUT)
		pthread_cond_wait(&r->gate->changed, &r->gate->lock);
	go = r->gate->state == GATE_OPEN;
	pthread_mutex_unlock(&r->gate->lock);
	if (go)
		r->value = read_to_end(r->op->path, chunk_of(r->op), FRAME_MAX / r->op->b,
				       &r->data);
	return NULL;
}

int32_t op_parallel_read(const struct op *op, struct buffer *out)
{
	struct gate gate = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, GATE_SHUT };
	struct reader readers[THREADS] = {};
	uint32_t i, started;
	int32_t value = op->b;

	if (!op->b || op->b > THREADS)
		return -EINVAL;
	for (started = 0; started < op->b; started++) {
		readers[started].gate = &gate;
		readers[started].op = op;
		if (pthread_create(&readers[started].thread, NULL, reader_main, &readers[started]))
			break;
	}
	if (started < op->b)
		value = -EAGAIN;

	pthread_mutex_lock(&gate.lock);
	gate.state = value < 0 ? GATE_HOME : GATE_OPEN;
	pthread_cond_broadcast(&gate.changed);
	pthread_mutex_unlock(&gate.lock);

	for (i = 0; i < started; i++) {
		pthread_join(readers[i].thread, NULL);
		buffer_u32(out, readers[i].data.len);
		buffer_add(out, readers[i].data.data, readers[i].data.len);
		free(readers[i].data.data);
		if (readers[i].value < 0 && value >= 0)
			value = readers[i].value;
	}
	return value;
}
