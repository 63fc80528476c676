// SPDX-License-Identifier: GPL-2.0-only
/*
 * As pid 1: set the guest up, then serve the virtio-serial port iommu.agent.
 * With --stdio: serve file descriptors 0 and 1. With --line: see line.c.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent.h"
#include "link.h"

#ifndef AGENT_BUILD
#define AGENT_BUILD "unknown"
#endif

#define WRITE_CHUNK 65536

int host_fd = -1;

void buffer_reserve(struct buffer *b, size_t more)
{
	size_t size = b->size ? b->size : 65536;

	if (b->size - b->len >= more)
		return;
	while (size - b->len < more)
		size *= 2;
	b->data = realloc(b->data, size);
	if (!b->data) {
		fprintf(stderr, "agent: out of memory (%zu bytes)\n", size);
		abort();
	}
	b->size = size;
}

void buffer_add(struct buffer *b, const void *data, size_t len)
{
	buffer_reserve(b, len);
	if (len)
		memcpy(b->data + b->len, data, len);
	b->len += len;
}

void buffer_set_u32(struct buffer *b, size_t at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		b->data[at + i] = value >> (8 * i);
}

void buffer_u32(struct buffer *b, uint32_t value)
{
	buffer_reserve(b, 4);
	b->len += 4;
	buffer_set_u32(b, b->len - 4, value);
}

void buffer_text(struct buffer *b, const char *fmt, ...)
{
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	buffer_reserve(b, len + 1);
	va_start(ap, fmt);
	vsnprintf((char *)b->data + b->len, len + 1, fmt, ap);
	va_end(ap);
	b->len += len;
}

uint32_t get_u32(const uint8_t *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

uint64_t get_u64(const uint8_t *p)
{
	return get_u32(p) | (uint64_t)get_u32(p + 4) << 32;
}

/* A reply is built behind room for its head, so that one write takes both */
static void frame_begin(struct buffer *b)
{
	b->len = 0;
	buffer_reserve(b, FRAME_HEAD);
	b->len = FRAME_HEAD;
}

static bool frame_send(int fd, struct buffer *b, enum frame_type type, uint32_t seq)
{
	size_t done = 0;

	buffer_set_u32(b, 0, FRAME_MAGIC);
	buffer_set_u32(b, 4, type);
	buffer_set_u32(b, 8, seq);
	buffer_set_u32(b, 12, b->len - FRAME_HEAD);
	while (done < b->len) {
		size_t chunk = b->len - done;
		ssize_t n = write(fd, b->data + done, chunk < WRITE_CHUNK ? chunk : WRITE_CHUNK);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		done += n;
	}
	return true;
}

static bool send_error(int fd, struct buffer *out, uint32_t seq, const char *text)
{
	frame_begin(out);
	buffer_text(out, "%s", text);
	return frame_send(fd, out, FRAME_ERROR, seq);
}

/* Fill in until it holds want bytes; reads what is there, so that a frame is one read */
static bool fill(int fd, struct buffer *in, size_t want)
{
	buffer_reserve(in, want > in->len ? want - in->len : 0);
	while (in->len < want) {
		ssize_t n = read(fd, in->data + in->len, in->size - in->len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		in->len += n;
	}
	return true;
}

/* Serve until the stream ends or is out of step */
static void serve(int in_fd, int out_fd, const struct buffer *errors)
{
	struct buffer in = {}, out = {};
	struct utsname uts;
	uint32_t seq, len;

	host_fd = out_fd;
	uname(&uts);
	frame_begin(&out);
	buffer_text(&out, "protocol=%d\nbuild=%s\ntaint=%u\nkernel=%s\nmachine=%s\npage_size=%ld\n",
		    AGENT_PROTOCOL, AGENT_BUILD, read_taint(), uts.release, uts.machine,
		    sysconf(_SC_PAGESIZE));
	buffer_add(&out, errors->data, errors->len);
	kmsg_read(&out, 16384, "kmsg=");
	if (!frame_send(out_fd, &out, FRAME_HELLO, 0))
		goto end;

	while (fill(in_fd, &in, FRAME_HEAD)) {
		seq = get_u32(in.data + 8);
		len = get_u32(in.data + 12);
		if (get_u32(in.data) != FRAME_MAGIC || len > FRAME_MAX) {
			send_error(out_fd, &out, seq, "not a frame: bad magic or length");
			break;
		}
		if (!fill(in_fd, &in, FRAME_HEAD + len))
			break;
		frame_begin(&out);
		if (get_u32(in.data + 4) != FRAME_BATCH) {
			if (!send_error(out_fd, &out, seq, "the host sends nothing but batches"))
				break;
		} else if (!run_batch(in.data + FRAME_HEAD, len, &out)) {
			if (!send_error(out_fd, &out, seq, "malformed batch"))
				break;
		} else if (!frame_send(out_fd, &out, FRAME_REPLY, seq)) {
			break;
		}
		in.len -= FRAME_HEAD + len;
		memmove(in.data, in.data + FRAME_HEAD + len, in.len);
		reap_children();
	}
end:
	free(in.data);
	free(out.data);
}

int main(int argc, char **argv)
{
	bool stdio = argc > 1 && !strcmp(argv[1], "--stdio");
	struct buffer errors = {};
	int fd;

	signal(SIGPIPE, SIG_IGN);
	if (stdio) {
		kmsg_open(false);
		serve(0, 1, &errors);
		free(errors.data);
		return 0;
	}
	if (argc == 5 && !strcmp(argv[1], "--line"))
		return line_main(argv[2], argv[3], argv[4]);
	if (getpid() != 1) {
		fprintf(stderr, "usage: agent --stdio (or as init of a guest)\n");
		return 2;
	}
	init_system(&errors);
	kmsg_open(true);
	for (;;) {
		fd = open_port();
		serve(fd, fd, &errors);
		close(fd);
		/* nobody at the other end: do not spin until somebody is */
		usleep(20000);
	}
}
