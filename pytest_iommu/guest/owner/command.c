// SPDX-License-Identifier: GPL-2.0-only
/* From a line of text to a command and its answer. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "owner.h"

static int cmd_die(const struct words *w, FILE *out)
{
	(void)w;
	(void)out;
	/* As a crash would: nothing is closed or destroyed but by the kernel */
	_exit(1);
}

static int cmd_pid(const struct words *w, FILE *out)
{
	(void)w;
	fprintf(out, "pid=%d", getpid());
	return 0;
}

static const struct command {
	const char *name;
	command_fn *run;
	int least;	/* words behind the name */
	const char *usage;
} commands[] = {
	{ "memory", cmd_memory, 2, "NAME SIZE" },
	{ "pages", cmd_pages, 1, "MEMORY" },
	{ "ioas", cmd_ioas, 1, "NAME" },
	{ "device", cmd_device, 2, "NAME PATH" },
	{ "hw-info", cmd_hw_info, 1, "DEVICE" },
	{ "hwpt", cmd_hwpt, 3, "NAME DEVICE IOAS [nest-parent] [dirty] [pasid]" },
	{ "viommu", cmd_viommu, 3, "NAME DEVICE HWPT" },
	{ "nested", cmd_nested, 3, "NAME DEVICE VIOMMU" },
	{ "attach", cmd_attach, 2, "DEVICE IOAS|HWPT [PASID]" },
	{ "detach", cmd_detach, 1, "DEVICE [PASID]" },
	{ "container", cmd_container, 2, "NAME GROUP-PATH" },
	{ "map", cmd_map, 4, "IOAS|CONTAINER IOVA r|w|rw MEMORY [OFFSET SIZE]" },
	{ "map-bar", cmd_map_bar, 6, "IOAS IOVA r|w|rw DEVICE INDEX SIZE" },
	{ "fail", cmd_fail, 1, "NTH" },
	{ "unmap", cmd_unmap, 3, "IOAS|CONTAINER IOVA SIZE" },
	{ "translate", cmd_translate, 2, "IOAS IOVA" },
	{ "reader", cmd_reader, 2, "NAME PATH" },
	{ "drop", cmd_drop, 1, "NAME" },
	{ "pid", cmd_pid, 0, "" },
	{ "die", cmd_die, 0, "" },
};

int fail(FILE *out, int error, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vfprintf(out, fmt, args);
	va_end(args);
	return -error;
}

int get_number(const struct words *w, int at, uint64_t *value, FILE *out)
{
	char *end;

	if (at >= w->count)
		return fail(out, EINVAL, "a number is missing");
	errno = 0;
	*value = strtoull(w->word[at], &end, 0);
	if (errno || *end || end == w->word[at])
		return fail(out, EINVAL, "%s is no number", w->word[at]);
	return 0;
}

static int dispatch(const struct words *w, FILE *out)
{
	const struct command *c;
	size_t i;

	if (!w->count)
		return fail(out, EINVAL, "no command");
	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		c = &commands[i];
		if (strcmp(c->name, w->word[0]))
			continue;
		if (w->count - 1 < c->least)
			return fail(out, EINVAL, "usage: %s %s", c->name, c->usage);
		return c->run(w, out);
	}
	return fail(out, EINVAL, "no command %s", w->word[0]);
}

/* Run one line, which is cut up; whether it went well. One line is written to out. */
bool run_line(char *line, FILE *out)
{
	struct words w = {};
	char *text = NULL, *save, *word;
	size_t size = 0;
	FILE *said;
	int ret;

	for (word = strtok_r(line, " \t", &save); word; word = strtok_r(NULL, " \t", &save)) {
		if (w.count == MAX_WORDS) {
			fprintf(out, "error E2BIG more than %d words\n", MAX_WORDS);
			return false;
		}
		w.word[w.count++] = word;
	}
	said = open_memstream(&text, &size);
	if (!said)
		abort();
	ret = dispatch(&w, said);
	fclose(said);
	if (ret < 0) {
		const char *name = strerrorname_np(-ret);

		fprintf(out, "error %s %s\n", name ? name : "EIO", text);
	} else {
		fprintf(out, "ok%s%s\n", size ? " " : "", text);
	}
	free(text);
	return ret >= 0;
}
