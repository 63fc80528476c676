// SPDX-License-Identifier: GPL-2.0-only
/* The file lookup of a domain against its entries. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ptdump.h"

#define ANSWER 4096

static bool has_line(const char *text, const char *line)
{
	size_t len = strlen(line);
	const char *at = text;

	while ((at = strstr(at, line))) {
		if ((at == text || at[-1] == '\n') && at[len] == '\n')
			return true;
		at++;
	}
	return false;
}

/* Lines of entries from the top down; the last one may be empty, which entries does not list */
static int path_differs(char *path, const char *entries)
{
	char *line, *rest;

	for (line = strtok_r(path, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		if (!has_line(entries, line) && (*rest || !strstr(line, " empty -  "))) {
			ptd_say("lookup: `%s` is no line of entries", line);
			return -1;
		}
	}
	return 0;
}

static int look_up(int fd, const char *entries, uint64_t iova, const char *want)
{
	char text[ANSWER], first[64], last[64], *path, *output;
	ssize_t len = snprintf(text, sizeof(text), "0x%" PRIx64, iova);

	if (write(fd, text, len) != len) {
		ptd_say("lookup: writing %s fails with %s", text, ptd_errno_name(errno));
		return -1;
	}
	len = read(fd, text, sizeof(text) - 1);
	if (len < 0) {
		ptd_say("lookup: reading fails with %s", ptd_errno_name(errno));
		return -1;
	}
	text[len] = 0;
	snprintf(first, sizeof(first), "iova: 0x%016" PRIx64 "\n", iova);
	snprintf(last, sizeof(last), "output: %s\n", want);
	path = text + strlen(first);
	output = len > (ssize_t)(strlen(first) + strlen(last)) ? text + len - strlen(last) : path;
	if (strncmp(text, first, strlen(first)) || strcmp(output, last)) {
		ptd_say("lookup of 0x%" PRIx64 ", expected output %s: %s", iova, want, text);
		return -1;
	}
	*output = 0;
	return path_differs(path, entries);
}

/**
 * ptd_lookup() - look up an IOVA that is mapped, and one that is not
 * @id: the domain's directory
 * @entries: what that file says
 *
 * Return: 0, also where the dump has no such file; -1 when an answer is wrong, which is told.
 */
int ptd_lookup(const char *id, const char *entries)
{
	unsigned long long iova = 0, address;
	char path[PTD_PATH], size[16], want[32];
	const char *line, *leaf = NULL;
	unsigned int level;
	int fd, ret = 0;

	snprintf(path, sizeof(path), PTD_DOMAINS "/%s/lookup", id);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		if (errno == ENOENT)
			return 0;
		ptd_say("opening %s fails with %s", path, ptd_errno_name(errno));
		return -1;
	}
	for (line = strstr(entries, " leaf "); line; line = strstr(line + 1, " leaf "))
		leaf = line;
	while (leaf && leaf > entries && leaf[-1] != '\n')
		leaf--;
	/* The last leaf: nothing is mapped behind it */
	if (leaf &&
	    sscanf(leaf, "%u 0x%llx leaf %15s 0x%llx", &level, &iova, size, &address) == 4) {
		snprintf(want, sizeof(want), "0x%016llx", address + 0x123);
		ret = look_up(fd, entries, iova + 0x123, want);
		iova += ptd_size(size);
	}
	if (!ret && (iova || !leaf))
		ret = look_up(fd, entries, iova, "-");
	close(fd);
	return ret;
}
