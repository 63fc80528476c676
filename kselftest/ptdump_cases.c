// SPDX-License-Identifier: GPL-2.0-only
/*
 * Runs case files: commands for the test module, then what the dump must say. The files are made by
 * pytest-iommu of its scenarios; a line begins with a word:
 *
 *   case NAME | rules .. | device DEV | domain NAME CONFIG_.. | domain NAME DEV key=value ..
 *   > COMMAND | ! LINE ERRNO | run
 *   access DOMAIN|- FILE|PATH ACTION WANT | read DOMAIN FILE KIND SIZE N ..
 *   stream DEV present|absent DOMAIN CONFIG
 *   check DOMAIN MASK, then lines: i of info, p of page_table, e of entries, s of stats;
 *                      P and E: how many LINES, and the CRC32 of them
 *
 * Usage: ptdump_cases [-l] [FILE ..]; all of cases/ beside the program without. -l lists the names.
 */
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kselftest.h"
#include "ptdump.h"

#define MAX_DOMAINS 64
#define MAX_REFUSED 64

struct domain {
	char name[32];
	char id[16];
	char device[16]; /* empty for a software table */
	char needs[128]; /* its option, or what the module must say of it */
};

struct refusal {
	unsigned int line;
	char name[16];
};

enum outcome { PASSED, FAILED, SKIPPED };

static struct {
	char name[128];
	char rules[128];
	enum outcome outcome;
	char why[160];
	struct domain domains[MAX_DOMAINS];
	unsigned int nr_domains;
	struct refusal refused[MAX_REFUSED];
	unsigned int nr_refused;
	struct ptd_text script;
	struct ptd_want want;
	char checked[32];
	long taint;
} now;

static const char *missing;

static void append(struct ptd_text *text, const char *line)
{
	size_t len = strlen(line);
	char *more = realloc(text->data, text->len + len + 2);

	if (!more)
		ksft_exit_fail_msg("no memory\n");
	text->data = more;
	memcpy(more + text->len, line, len);
	text->len += len;
	more[text->len++] = '\n';
	more[text->len] = 0;
}

static void skip(const char *what, const char *why)
{
	now.outcome = SKIPPED;
	snprintf(now.why, sizeof(now.why), "%s%s", what, why);
}

static struct domain *find(const char *name)
{
	unsigned int i;

	for (i = 0; i < now.nr_domains; i++)
		if (!strcmp(now.domains[i].name, name))
			return &now.domains[i];
	return NULL;
}

static void add_domain(const char *words)
{
	struct domain *domain = &now.domains[now.nr_domains];
	int at = 0;

	if (now.nr_domains == MAX_DOMAINS || sscanf(words, "%31s %n", domain->name, &at) != 1)
		ksft_exit_fail_msg("bad line of a case: domain %s\n", words);
	words += at;
	domain->device[0] = 0;
	if (strncmp(words, "CONFIG_", 7) && sscanf(words, "%15s %n", domain->device, &at) == 1)
		words += at;
	snprintf(domain->needs, sizeof(domain->needs), "%s", words);
	snprintf(domain->id, sizeof(domain->id), "-");
	now.nr_domains++;
}

/* A domain that another machine's IOMMU cannot have, or has otherwise, is no case of this one. */
static void created(struct domain *domain, const char *status)
{
	char facts[128], *fact, *rest, key[32], value[32];

	ptd_word(status, "id=", domain->id, sizeof(domain->id));
	if (!domain->device[0])
		return;
	snprintf(facts, sizeof(facts), "%s", domain->needs);
	for (fact = strtok_r(facts, " ", &rest); fact; fact = strtok_r(NULL, " ", &rest)) {
		snprintf(key, sizeof(key), "%.*s=", (int)strcspn(fact, "="), fact);
		if (!ptd_word(status, key, value, sizeof(value)) ||
		    strcmp(value, fact + strlen(key))) {
			snprintf(now.why, sizeof(now.why), "the IOMMU of %s has not %s",
				 domain->device, fact);
			now.outcome = SKIPPED;
		}
	}
}

static const char *refusal(unsigned int line)
{
	unsigned int i;

	for (i = 0; i < now.nr_refused; i++)
		if (now.refused[i].line == line)
			return now.refused[i].name;
	return "ok";
}

/* One line of the status: `N ok ..` or `N error NAME ..` */
static void judge(unsigned int number, const char *command, const char *status)
{
	char have[16] = "nothing", first[16] = "", name[32] = "";
	const char *want = refusal(number);
	struct domain *domain = NULL;

	if (status && sscanf(status, "%*u error %15s", have) != 1)
		snprintf(have, sizeof(have), "ok");
	if (sscanf(command, "%15s %31s", first, name) == 2 && !strcmp(first, "domain"))
		domain = find(name);
	if (domain && strcmp(want, have) &&
	    (!strcmp(have, "EOPNOTSUPP") || !strcmp(have, "ENODEV"))) {
		const char *why = strstr(status, have) + strlen(have);

		snprintf(now.why, sizeof(now.why), "%.100s (%.40s)", *why ? why + 1 : have,
			 domain->device[0] ? domain->device : domain->needs);
		now.outcome = SKIPPED;
	} else if (strcmp(want, have)) {
		ptd_say("`%s` gives %s, expected %s", command, status ? status : "nothing", want);
		now.outcome = FAILED;
	} else if (domain && !strcmp(have, "ok")) {
		created(domain, status);
	}
}

static void run_script(void)
{
	char command[512], status[512];
	struct ptd_text said = {};
	unsigned int number;
	int ret = ptd_control(now.script.data, &said);

	if (ret) {
		ptd_say("the module refuses the batch: %s", ptd_errno_name(-ret));
		now.outcome = FAILED;
	}
	for (number = 1; now.outcome == PASSED; number++) {
		const char *line = ptd_line(now.script.data, number, command, sizeof(command));

		if (!line)
			break;
		judge(number, strncmp(line, "? ", 2) ? line : line + 2,
		      ptd_line(said.data, number, status, sizeof(status)));
	}
	ptd_free(&said);
	ptd_free(&now.script);
	now.nr_refused = 0;
}

static void fail_if(int ret)
{
	now.outcome = ret ? FAILED : now.outcome;
}

static void path_of(const char *name, const char *file, char *path)
{
	struct domain *domain = find(name);
	/* ids are from 1 up: what has none does not exist */
	const char *id = domain && strcmp(domain->id, "-") ? domain->id : "0";

	if (!strcmp(name, "-"))
		snprintf(path, PTD_PATH, "%s", file);
	else if (!strcmp(file, "."))
		snprintf(path, PTD_PATH, PTD_DOMAINS "/%s", id);
	else
		snprintf(path, PTD_PATH, PTD_DOMAINS "/%s/%s", id, file);
}

static void check_now(void)
{
	struct domain *domain = find(now.checked);
	int i;

	if (now.checked[0] && now.outcome == PASSED)
		fail_if(ptd_check(now.checked, domain ? domain->id : "0", &now.want));
	now.checked[0] = 0;
	ptd_free(&now.want.info);
	for (i = 0; i < 3; i++)
		ptd_free(&now.want.lines[i]);
	memset(&now.want, 0, sizeof(now.want));
}

static void sum_line(int which, const char *words)
{
	now.want.summed[which] =
		sscanf(words, "%u 0x%x", &now.want.count[which], &now.want.crc[which]) == 2;
}

static void look(const char *word, char *rest)
{
	char a[64] = "", b[PTD_PATH] = "", c[16] = "", d[32] = "", path[PTD_PATH];
	int at = 0;

	if (!strcmp(word, "run")) {
		run_script();
	} else if (!strcmp(word, "check") &&
		   sscanf(rest, "%31s 0x%" SCNx64, now.checked, &now.want.mask) == 2) {
		return;
	} else if (!strcmp(word, "access") &&
		   sscanf(rest, "%63s %511s %15s %31s", a, b, c, d) == 4) {
		path_of(a, b, path);
		fail_if(ptd_access(path, c, d));
	} else if (!strcmp(word, "read") && sscanf(rest, "%63s %511s %15s %n", a, b, c, &at) == 3) {
		path_of(a, b, path);
		fail_if(ptd_pieces(path, c, rest + at));
	} else if (!strcmp(word, "stream") &&
		   sscanf(rest, "%63s %15s %31s %n", a, c, d, &at) == 3) {
		struct domain *domain = find(d);
		int ret = ptd_stream(a, !strcmp(c, "present"), domain ? domain->id : d, rest + at);

		if (ret > 0)
			skip("no arm_smmu_v3 in debugfs/iommu (CONFIG_ARM_SMMU_V3)", "");
		else
			fail_if(ret);
	} else {
		ksft_exit_fail_msg("bad line of a case: %s %s\n", word, rest);
	}
}

static void step(const char *word, char *rest)
{
	struct refusal *refused = &now.refused[now.nr_refused];

	if (!strcmp(word, "device")) {
		if (!ptd_has_device(rest))
			skip("no device of QEMU's edu behind an IOMMU as ", rest);
	} else if (!strcmp(word, "domain")) {
		add_domain(rest);
	} else if (!strcmp(word, ">")) {
		append(&now.script, rest);
	} else if (strcmp(word, "!")) {
		look(word, rest);
	} else if (now.nr_refused == MAX_REFUSED ||
		   sscanf(rest, "%u %15s", &refused->line, refused->name) != 2) {
		ksft_exit_fail_msg("bad line of a case: ! %s\n", rest);
	} else {
		now.nr_refused++;
	}
}

static void one_line(char *line)
{
	char *rest = line + strcspn(line, " ");
	size_t len = rest - line;
	static const char keys[] = "ipes";
	const char *key;

	if (*rest)
		*rest++ = 0;
	key = len == 1 ? strchr(keys, *line) : NULL;
	if (key) {
		append(key == keys ? &now.want.info : &now.want.lines[key - keys - 1], rest);
		return;
	}
	if (!strcmp(line, "P") || !strcmp(line, "E")) {
		sum_line(*line == 'E', rest);
		return;
	}
	check_now();
	if (!strcmp(line, "rules"))
		snprintf(now.rules, sizeof(now.rules), "%s", rest);
	else if (now.outcome == PASSED)
		step(line, rest);
}

static void begin(const char *name)
{
	memset(&now, 0, sizeof(now));
	snprintf(now.name, sizeof(now.name), "%s", name);
	now.taint = ptd_tainted();
	if (missing)
		skip(missing, "");
}

static void end(void)
{
	if (!now.name[0])
		return;
	check_now();
	ptd_free(&now.script);
	if (ptd_tainted() & ~now.taint) {
		ptd_say("the kernel is tainted: it printed a warning");
		now.outcome = FAILED;
	}
	if (now.outcome == FAILED)
		ptd_say("%s: %s", now.name, now.rules);
	ksft_test_result_code(now.outcome == PASSED  ? KSFT_PASS :
			      now.outcome == SKIPPED ? KSFT_SKIP :
						       KSFT_FAIL,
			      now.name, now.outcome == SKIPPED ? "%s" : NULL, now.why);
	now.name[0] = 0;
}

/* Every case of a file: run, or only counted; listed where @list is true. */
static unsigned int each_case(const char *path, bool run, bool list)
{
	struct ptd_text text = {};
	unsigned int count = 0;
	char *line, *rest;
	int ret = ptd_read(path, &text);

	if (ret)
		ksft_exit_fail_msg("%s: %s\n", path, ptd_errno_name(-ret));
	for (line = strtok_r(text.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		if (*line == '#')
			continue;
		if (!strncmp(line, "case ", 5)) {
			count++;
			if (list)
				puts(line + 5);
			if (run) {
				end();
				begin(line + 5);
			}
		} else if (run) {
			one_line(line);
		}
	}
	if (run)
		end();
	ptd_free(&text);
	return count;
}

int main(int argc, char **argv)
{
	bool list = argc > 1 && !strcmp(argv[1], "-l");
	struct ptd_text status = {};
	unsigned int count = 0;
	glob_t found = {};
	char **file;

	argv += 1 + list;
	if (!*argv) {
		char path[PTD_PATH];
		ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 32);

		path[len > 0 ? len : 0] = 0;
		*(strrchr(path, '/') + 1) = 0;
		strcat(path, "cases/*.txt");
		if (glob(path, 0, NULL, &found))
			ksft_exit_fail_msg("no case files, %s\n", path);
		argv = found.gl_pathv;
	}
	if (!list)
		ksft_print_header();
	for (file = argv; *file; file++)
		count += each_case(*file, false, list);
	if (list)
		return 0;
	ksft_set_plan(count);
	missing = ptd_missing();
	for (file = argv; *file; file++)
		each_case(*file, true, false);
	if (!missing)
		ptd_control("reset\n", &status);
	ptd_leave();
	if (count && ksft_get_xskip_cnt() == (int)count) {
		ksft_print_cnts();
		return KSFT_SKIP;
	}
	ksft_finished();
}
