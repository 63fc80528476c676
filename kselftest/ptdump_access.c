// SPDX-License-Identifier: GPL-2.0-only
/* What a file lets one do with it, and that its pieces make up the whole. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "ptdump.h"

#define THREADS 16

static int try_it(const char *path, const char *action)
{
	char byte[1 << 12];
	ssize_t ret = 0;
	int fd = open(path, (strcmp(action, "write") ? O_RDONLY : O_WRONLY) | O_CLOEXEC);

	if (fd < 0)
		return errno;
	if (!strcmp(action, "write"))
		ret = write(fd, "1\n", 2);
	else if (!strcmp(action, "ioctl"))
		ret = ioctl(fd, TCGETS, byte);
	else if (!strcmp(action, "read"))
		while ((ret = read(fd, byte, sizeof(byte))) > 0)
			;
	ret = ret < 0 ? errno : 0;
	close(fd);
	return ret;
}

/**
 * ptd_access() - try an access
 * @path: of the file
 * @action: exists, mode, open, read, write, ioctl
 * @want: what it gives: true or false, an octal mode, ok or an errno's name
 *
 * Return: 0 where it does, else -1.
 */
int ptd_access(const char *path, const char *action, const char *want)
{
	const char *have;
	struct stat st;
	char mode[8];

	if (!strcmp(action, "exists")) {
		have = stat(path, &st) ? "false" : "true";
	} else if (!strcmp(action, "mode")) {
		have = mode;
		if (stat(path, &st))
			have = ptd_errno_name(errno);
		else
			snprintf(mode, sizeof(mode), "%04o", st.st_mode & 07777);
	} else {
		have = ptd_errno_name(try_it(path, action));
	}
	if (!strcmp(have, want))
		return 0;
	ptd_say("%s of %s gives %s, expected %s", action, path, have, want);
	return -1;
}

static int part_differs(const struct ptd_text *all, size_t at, const char *part, ssize_t got,
			size_t size, const char *what)
{
	size_t have = at < all->len ? all->len - at : 0;

	if (have > size)
		have = size;
	/* A read may end early, but for the end of the file */
	if (got < 0 || (size_t)got > have || (have && !got) ||
	    (got && memcmp(all->data + at, part, got))) {
		ptd_say("%s of %zu bytes at %zu: not a piece of the whole (%zd of %zu bytes)", what,
			size, at, got, have);
		return -1;
	}
	return 0;
}

static int read_chunks(const char *path, const struct ptd_text *all, size_t size)
{
	char *buffer = malloc(size);
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret = -1;
	size_t at = 0;
	ssize_t got;

	if (fd < 0 || !buffer)
		goto out;
	do {
		got = read(fd, buffer, size);
		ret = part_differs(all, at, buffer, got, size, "read");
		at += got > 0 ? got : 0;
	} while (!ret && got);
out:
	if (fd >= 0)
		close(fd);
	free(buffer);
	return ret;
}

struct reader {
	pthread_t thread;
	const char *path;
	const struct ptd_text *all;
	size_t size;
	int ret;
};

static void *reader_main(void *data)
{
	struct reader *reader = data;

	reader->ret = read_chunks(reader->path, reader->all, reader->size);
	return NULL;
}

static int read_parallel(const char *path, const struct ptd_text *all, size_t size,
			 unsigned int count)
{
	struct reader readers[THREADS] = {};
	unsigned int i, started;
	int ret = 0;

	for (started = 0; started < count && started < THREADS; started++) {
		readers[started] = (struct reader){ .path = path, .all = all, .size = size };
		if (pthread_create(&readers[started].thread, NULL, reader_main, &readers[started]))
			break;
	}
	for (i = 0; i < started; i++) {
		pthread_join(readers[i].thread, NULL);
		ret |= readers[i].ret;
	}
	return started ? ret : -1;
}

/**
 * ptd_pieces() - read a file in pieces; they must be those of the one read
 * @path: of the file
 * @kind: chunk, pread, lseek or parallel
 * @numbers: the size of a read(2), then offsets, or how many threads
 */
int ptd_pieces(const char *path, const char *kind, char *numbers)
{
	size_t size = strtoul(numbers, &numbers, 0);
	struct ptd_text all = {};
	char *buffer = NULL;
	int fd = -1, ret = ptd_read(path, &all);

	if (ret) {
		ptd_say("reading %s fails with %s", path, ptd_errno_name(-ret));
	} else if (!strcmp(kind, "chunk")) {
		ret = read_chunks(path, &all, size);
	} else if (!strcmp(kind, "parallel")) {
		ret = read_parallel(path, &all, size, strtoul(numbers, NULL, 0));
	} else {
		bool seeks = !strcmp(kind, "lseek");

		fd = open(path, O_RDONLY | O_CLOEXEC);
		buffer = malloc(size);
		if (fd < 0 || !buffer)
			ret = -1;
		while (!ret && *numbers) {
			size_t at = strtoul(numbers, &numbers, 0);
			ssize_t got;

			if (seeks && lseek(fd, at, SEEK_SET) != (off_t)at) {
				ptd_say("lseek of %s to %zu fails with %s", path, at,
					ptd_errno_name(errno));
				ret = -1;
				break;
			}
			got = seeks ? read(fd, buffer, size) : pread(fd, buffer, size, at);
			ret = part_differs(&all, at, buffer, got, size, kind);
		}
	}
	if (fd >= 0)
		close(fd);
	free(buffer);
	ptd_free(&all);
	return ret;
}
