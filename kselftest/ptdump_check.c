// SPDX-License-Identifier: GPL-2.0-only
/* The four files of a domain against what they must be. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ptdump.h"

#define LINE 512

static const char *const files[] = { "page_table", "entries", "stats" };

static int differs(const char *file, const char *want, const char *have)
{
	char expected[LINE], got[LINE];
	unsigned int number;

	for (number = 1;; number++) {
		const char *a = ptd_line(want, number, expected, sizeof(expected));
		const char *b = ptd_line(have, number, got, sizeof(got));

		if (!a && !b)
			return 0;
		if (a && b && !strcmp(a, b))
			continue;
		ptd_say("%s, line %u", file, number);
		ptd_say("  expected  %s", a ? a : "(the end)");
		ptd_say("  dumped    %s", b ? b : "(the end)");
		return -1;
	}
}

/* A file of which only a checksum is known: where it differs, its first lines are shown. */
static int sum_differs(const char *file, const struct ptd_want *want, int which,
		       const struct ptd_text *have)
{
	unsigned int count = 0, i;
	char line[LINE];
	size_t at;

	for (at = 0; at < have->len; at++)
		count += have->data[at] == '\n';
	if (count == want->count[which] && ptd_crc32(0, have->data, have->len) == want->crc[which])
		return 0;
	ptd_say("%s has %u lines, expected %u with checksum 0x%08x; the dump begins", file, count,
		want->count[which], want->crc[which]);
	for (i = 1; i <= 8 && ptd_line(have->data, i, line, sizeof(line)); i++)
		ptd_say("  %s", line);
	return -1;
}

/*
 * Where tables lie is the kernel's: the address of a table's line becomes *, and in its raw word
 * the address's bits become 0, as the cases have it. A line that is none of a table stays.
 */
static int without_addresses(struct ptd_text *text, uint64_t mask, uint64_t top)
{
	unsigned long long address, raw, iova;
	char *from, *to, *end, line[LINE];
	unsigned int level;

	for (from = to = text->data; *from; from = end) {
		end = strchrnul(from, '\n');
		snprintf(line, sizeof(line), "%.*s", (int)(end - from), from);
		if (sscanf(line, "%u 0x%16llx table -  0x%16llx raw 0x%16llx", &level, &iova,
			   &address, &raw) == 4) {
			char again[LINE];

			snprintf(again, sizeof(again),
				 "%u 0x%016llx table -  0x%016llx raw 0x%016llx", level, iova,
				 address, raw);
			if (!address || address == top || address & 63 || strcmp(line, again)) {
				ptd_say("entries: `%s` is no table below the top, 0x%016llx", line,
					(unsigned long long)top);
				return -1;
			}
			/* it gets shorter: there is room */
			to += sprintf(to, "%u 0x%016llx table -  * raw 0x%016llx", level, iova,
				      raw & ~(unsigned long long)mask);
		} else {
			memmove(to, from, end - from);
			to += end - from;
		}
		if (*end)
			*to++ = *end++;
	}
	*to = 0;
	text->len = to - text->data;
	return 0;
}

/* Top and levels are also what the module would tell the hardware. */
static int hold_top(const char *name, const char *info, uint64_t *top)
{
	const char *at = strstr(info, "\ntop: "), *levels = strstr(info, "\nlevels: ");
	struct ptd_text domains = {};
	char value[32], start[40];
	const char *line;
	int ret = 0;

	/* later kernels may say more after it */
	if (!at || sscanf(at, "\ntop: 0x%16" SCNx64, top) != 1 || strcspn(at + 1, "\n") != 23) {
		ptd_say("info: no line `top: 0x` with 16 digits");
		return -1;
	}
	if (ptd_read(PTD_MODULE "/domains", &domains))
		return 0;
	snprintf(start, sizeof(start), "%s ", name);
	for (line = domains.data; line && *line;
	     line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
		if (strncmp(line, start, strlen(start)))
			continue;
		if (ptd_word(line, "top=", value, sizeof(value)) && strcmp(value, "-") &&
		    strtoull(value, NULL, 0) != *top) {
			ptd_say("info: top is 0x%016" PRIx64 ", the hardware is given %s", *top,
				value);
			ret = -1;
		}
		if (levels && ptd_word(line, "levels=", value, sizeof(value)) &&
		    strcmp(value, "-") &&
		    strtoull(value, NULL, 0) != strtoull(levels + 9, NULL, 10)) {
			ptd_say("info: levels is %.1s, the hardware is given %s", levels + 9,
				value);
			ret = -1;
		}
	}
	ptd_free(&domains);
	return ret;
}

static int read_file(const char *id, const char *file, struct ptd_text *text)
{
	char path[PTD_PATH];
	int ret;

	snprintf(path, sizeof(path), PTD_DOMAINS "/%s/%s", id, file);
	ret = ptd_read(path, text);
	if (ret)
		ptd_say("reading %s fails with %s", path, ptd_errno_name(-ret));
	return ret;
}

/**
 * ptd_check() - compare the files of a domain
 * @name: of the domain, in the test module
 * @id: its directory
 * @want: what they must be
 *
 * Return: 0, or -1 when one differs; all that differ are told.
 */
int ptd_check(const char *name, const char *id, const struct ptd_want *want)
{
	struct ptd_text have = {};
	uint64_t top = 0;
	int i, ret;

	ret = read_file(id, "info", &have);
	if (ret)
		return -1;
	ret = hold_top(name, have.data, &top);
	if (!ret) {
		*(strstr(have.data, "\ntop: ") + 1) = 0;
		ret = differs("info", want->info.data, have.data);
	}
	for (i = 0; i < 3; i++) {
		int one = read_file(id, files[i], &have);

		if (!one && i == 1 && ptd_lookup(id, have.data))
			ret = -1;
		if (!one && i == 1)
			one = without_addresses(&have, want->mask, top);
		if (!one)
			one = want->summed[i] ? sum_differs(files[i], want, i, &have) :
						differs(files[i], want->lines[i].data, have.data);
		if (one)
			ret = -1;
	}
	ptd_free(&have);
	return ret;
}
