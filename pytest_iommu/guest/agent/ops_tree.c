// SPDX-License-Identifier: GPL-2.0-only
/* Operations on the directory tree. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names in order, one a line, directories with / and symlinks with @ at the end */
int32_t op_list(const struct op *op, struct buffer *out)
{
	DIR *dir = opendir(op->path);
	size_t count = 0, size = 0, i;
	char **names = NULL;
	struct dirent *e;
	struct stat st;

	if (!dir)
		return -errno;
	while ((e = readdir(dir))) {
		const char *mark = "";

		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (!fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW))
			mark = S_ISDIR(st.st_mode) ? "/" : S_ISLNK(st.st_mode) ? "@" : "";
		if (count == size) {
			size = size ? 2 * size : 64;
			names = realloc(names, size * sizeof(*names));
			if (!names)
				abort();
		}
		names[count] = malloc(strlen(e->d_name) + 2);
		if (!names[count])
			abort();
		strcpy(names[count], e->d_name);
		strcat(names[count++], mark);
	}
	closedir(dir);
	if (count)
		qsort(names, count, sizeof(*names), by_name);
	for (i = 0; i < count; i++) {
		buffer_text(out, "%s%s", i ? "\n" : "", names[i]);
		free(names[i]);
	}
	free(names);
	return count;
}

int32_t op_stat(const struct op *op, struct buffer *out)
{
	struct stat st;

	if (lstat(op->path, &st) < 0)
		return -errno;
	buffer_text(out, "%u %u %lld %lu", st.st_uid, st.st_gid, (long long)st.st_size,
		    (unsigned long)st.st_nlink);
	return st.st_mode;
}

int32_t op_readlink(const struct op *op, struct buffer *out)
{
	char target[PATH_MAX];
	ssize_t n = readlink(op->path, target, sizeof(target));

	if (n < 0)
		return -errno;
	buffer_add(out, target, n);
	return n;
}

int32_t op_mkdir(const struct op *op, struct buffer *out)
{
	(void)out;
	return mkdir(op->path, op->a) < 0 ? -errno : 0;
}

/* data: source, file system type and options, each but the last ended by a zero */
int32_t op_mount(const struct op *op, struct buffer *out)
{
	char text[1024] = {};
	const char *source = text, *type, *options;

	(void)out;
	if (op->data_len >= sizeof(text))
		return -E2BIG;
	memcpy(text, op->data, op->data_len);
	type = source + strlen(source) + 1;
	if (type >= text + sizeof(text))
		return -EINVAL;
	options = type + strlen(type) + 1;
	if (options >= text + sizeof(text))
		options = "";
	return mount(source, op->path, type, op->b, options) < 0 ? -errno : 0;
}
