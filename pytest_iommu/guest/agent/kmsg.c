// SPDX-License-Identifier: GPL-2.0-only
/* The kernel's own words: warnings and worse from /dev/kmsg, and the taint flags. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

#define RECORD_MAX 8192
#define WORST_PRIORITY 4 /* KERN_WARNING */

static int kmsg_fd = -1;
static int taint_fd = -1;

/* from_boot: what was said before the agent came is reported too */
void kmsg_open(bool from_boot)
{
	kmsg_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (kmsg_fd >= 0)
		lseek(kmsg_fd, 0, from_boot ? SEEK_SET : SEEK_END);
	taint_fd = open("/proc/sys/kernel/tainted", O_RDONLY | O_CLOEXEC);
}

uint32_t read_taint(void)
{
	char text[32];
	ssize_t n = taint_fd < 0 ? -1 : pread(taint_fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return 0;
	text[n] = 0;
	return strtoul(text, NULL, 10);
}

/*
 * One record is "prio,seq,usec,flags;text\n" and then " KEY=value\n" lines.
 * Returns the text and its length, or NULL when it is of no interest.
 */
static char *record_text(char *record, unsigned long long *usec, size_t *len)
{
	char *text = strchr(record, ';'), *end;
	unsigned int priority;

	if (!text || sscanf(record, "%u,%*u,%llu", &priority, usec) != 2)
		return NULL;
	/* the facility is in the higher bits: what user space wrote is not the kernel's */
	if (priority > WORST_PRIORITY)
		return NULL;
	text++;
	end = strchr(text, '\n');
	*len = end ? (size_t)(end - text) : strlen(text);
	return text;
}

/* The kernel writes control characters and bytes above 0x7e as \xNN; tabs are part of its format */
static size_t unescape_tabs(char *text, size_t len)
{
	size_t from, to = 0;

	for (from = 0; from < len; from++, to++) {
		text[to] = text[from];
		if (len - from >= 4 && !memcmp(text + from, "\\x09", 4)) {
			text[to] = '\t';
			from += 3;
		}
	}
	return to;
}

/* Add the new records, prefix before each, at most max bytes; then "dropped N" */
void kmsg_read(struct buffer *out, size_t max, const char *prefix)
{
	size_t start = out->len, len;
	unsigned int dropped = 0;
	unsigned long long usec;
	char record[RECORD_MAX + 1];
	char *text;
	ssize_t n;

	/* room for the line that says how many are missing */
	max -= 64;
	while (kmsg_fd >= 0) {
		n = read(kmsg_fd, record, RECORD_MAX);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EPIPE) {
			dropped++;
			continue;
		}
		if (n <= 0)
			break;
		record[n] = 0;
		text = record_text(record, &usec, &len);
		if (!text)
			continue;
		len = unescape_tabs(text, len);
		if (out->len - start + len + strlen(prefix) + 32 > max) {
			dropped++;
			continue;
		}
		buffer_text(out, "%s[%5llu.%06llu] %.*s\n", prefix, usec / 1000000, usec % 1000000,
			    (int)len, text);
	}
	if (dropped)
		buffer_text(out, "%sdropped %u\n", prefix, dropped);
}
