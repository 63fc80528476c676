// SPDX-License-Identifier: GPL-2.0-only
/* Judges page_table, entries and stats of a table that changes in cells and stays elsewhere. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ptdump.h"
#include "ptdump_judge.h"

struct row {
	uint64_t first, last, oa, leaf;
	unsigned int level;
	bool is_leaf, write;
};

static void wrong(struct judge *judge, const char *fmt, ...) __printf(2, 3);
static void wrong(struct judge *judge, const char *fmt, ...)
{
	va_list args;

	if (judge->wrong[0])
		return;
	va_start(args, fmt);
	vsnprintf(judge->wrong, sizeof(judge->wrong), fmt, args);
	va_end(args);
}

/* A line of page_table, or one of entries */
static bool parse(const char *line, struct row *row)
{
	char size[16], leaf[16], prot[16], kind[16];

	if (sscanf(line, "0x%16" SCNx64 "-0x%16" SCNx64 " 0x%16" SCNx64 " %15s %u %15s %15s",
		   &row->first, &row->last, &row->oa, size, &row->level, leaf, prot) == 7) {
		row->is_leaf = true;
		row->leaf = ptd_size(leaf);
		row->write = prot[1] == 'w';
		return row->last >= row->first && ptd_size(size) == row->last - row->first + 1;
	}
	if (sscanf(line, "%u 0x%16" SCNx64 " %15s %15s 0x%16" SCNx64 " raw 0x%*x %15s", &row->level,
		   &row->first, kind, leaf, &row->oa, prot) >= 5) {
		row->is_leaf = !strcmp(kind, "leaf");
		row->leaf = ptd_size(leaf);
		/* a block that begins before the reader's cursor is cut there */
		row->last = row->is_leaf ? row->first | (row->leaf - 1) : row->first;
		row->write = row->is_leaf && prot[1] == 'w';
		/* a group that is being cleared is no fault, and later kinds are not known here */
		return strcmp(kind, "bad");
	}
	return false;
}

static bool in_cells(const struct judge *judge, const struct row *row)
{
	return row->first >= JUDGE_IOVA && (row->first - JUDGE_IOVA) / JUDGE_GAP < judge->cells &&
	       (row->first - JUDGE_IOVA) % JUDGE_GAP < JUDGE_CELL;
}

/* Lines of a cell are remembered as if it were cell 0; the storm's file says what was right. */
static void see(struct judge *judge, const struct row *row, const char *line)
{
	uint64_t cell = (row->first - JUDGE_IOVA) / JUDGE_GAP,
		 at = (row->first - JUDGE_IOVA) % JUDGE_GAP;
	uint64_t oa = row->oa - at - cell * JUDGE_CELL, end = at + (row->last - row->first) + 1;
	unsigned int i;

	if (end > JUDGE_CELL) {
		wrong(judge, "CON-3: beyond its cell nothing was ever mapped: %s", line);
		return;
	}
	for (i = 0; i < judge->nr_seen; i++)
		if (judge->seen[i].oa == oa && judge->seen[i].leaf == row->leaf &&
		    judge->seen[i].write == row->write)
			break;
	if (i == JUDGE_SEEN) {
		wrong(judge, "CON-4: more in a cell than it can be: %s", line);
		return;
	}
	if (i == judge->nr_seen) {
		judge->seen[i].oa = oa;
		judge->seen[i].leaf = row->leaf;
		judge->seen[i].write = row->write;
		judge->nr_seen++;
	}
	if (end > judge->seen[i].end)
		judge->seen[i].end = end;
}

/**
 * judge_begin() - what is mapped besides the cells
 * @judge: is set anew
 * @text: page_table or entries while the cells are empty
 * @cells: how many there are
 */
void judge_begin(struct judge *judge, const char *text, unsigned int cells)
{
	char line[192];
	struct row row;

	memset(judge, 0, sizeof(*judge));
	judge->cells = cells;
	for (; text && *text; text = strchr(text, '\n'), text = text ? text + 1 : NULL) {
		if (!ptd_line(text, 1, line, sizeof(line)) || !parse(line, &row) || !row.is_leaf)
			continue;
		if (judge->nr_sentinels == JUDGE_SENTINELS || in_cells(judge, &row)) {
			wrong(judge, "before the storm: %s", line);
			return;
		}
		memcpy(judge->sentinel[judge->nr_sentinels++], line, sizeof(line));
	}
}

static void judge_stats(struct judge *judge, const char *text)
{
	unsigned long long sum[3] = {}, row[3];
	char line[128], name[16];
	unsigned int number, i;

	for (number = 2; ptd_line(text, number, line, sizeof(line)); number++) {
		if (sscanf(line, "%15s %llu %llu %llu", name, &row[0], &row[1], &row[2]) != 4) {
			wrong(judge, "ENT-2: no line of stats: %s", line);
			return;
		}
		for (i = 0; i < 3; i++) {
			if (strcmp(name, "total"))
				sum[i] += row[i];
			else if (sum[i] != row[i])
				wrong(judge, "ENT-2: the lines before do not add up to: %s", line);
		}
	}
	if (number < 3 || strcmp(name, "total"))
		wrong(judge, "ENT-2: stats has no total at its end");
}

static const char *next_line(const char *text)
{
	text = strchr(text, '\n');
	return text && text[1] ? text + 1 : NULL;
}

/* CON-5, and that every line is one */
static void judge_order(struct judge *judge, const char *text)
{
	struct row row, before = {};
	bool any = false;
	char line[192];

	for (; text; text = next_line(text)) {
		if (!ptd_line(text, 1, line, sizeof(line)) || !parse(line, &row)) {
			wrong(judge, "CON-4: no line of a table: %s", line);
			return;
		}
		if (any &&
		    (row.first < before.first || (before.is_leaf && row.first <= before.last) ||
		     (row.first == before.first && row.level >= before.level))) {
			wrong(judge, "CON-5: not behind the line before: %s", line);
			return;
		}
		before = row;
		any = true;
	}
}

/* is_sentinel() - whether the line is the next of those that stay; those before it are missing */
static bool is_sentinel(struct judge *judge, const char *line, unsigned int *next)
{
	unsigned int i;

	for (i = *next; i < judge->nr_sentinels; i++) {
		if (strcmp(line, judge->sentinel[i]))
			continue;
		if (i > *next)
			wrong(judge, "CON-2: this stayed and is missing: %s",
			      judge->sentinel[*next]);
		*next = i + 1;
		return true;
	}
	return false;
}

/**
 * judge_text() - hold a read against what is known
 * @judge: takes the first fault
 * @text: all of the file
 */
void judge_text(struct judge *judge, const char *text)
{
	unsigned int sentinel = 0;
	struct row row;
	char line[192];

	if (!strncmp(text, "level ", 6)) {
		judge_stats(judge, text);
		return;
	}
	text = *text ? text : NULL;
	judge_order(judge, text);
	for (; text && !judge->wrong[0]; text = next_line(text)) {
		if (!ptd_line(text, 1, line, sizeof(line)) || !parse(line, &row) || !row.is_leaf)
			continue;
		if (is_sentinel(judge, line, &sentinel))
			continue;
		if (in_cells(judge, &row))
			see(judge, &row, line);
		else
			wrong(judge, "CON-3: this was never mapped: %s", line);
	}
	if (sentinel < judge->nr_sentinels)
		wrong(judge, "CON-2: this stayed and is missing: %s", judge->sentinel[sentinel]);
}

/**
 * judge_states() - hold what was seen in cells against what the storm did
 * @judge: takes the first fault
 * @log: the module's file `storm`
 */
void judge_states(struct judge *judge, const char *log)
{
	uint64_t oa, size, leaf;
	char line[192], prot[16];
	unsigned int i, number, state;
	bool known[JUDGE_SEEN] = {};

	for (number = 1; number < 8 && ptd_line(log, number, line, sizeof(line)); number++) {
		if (sscanf(line,
			   "state %u pa=0x%" SCNx64 " size=0x%" SCNx64 " leaf=0x%" SCNx64
			   " prot=%15s",
			   &state, &oa, &size, &leaf, prot) != 5)
			continue;
		for (i = 0; i < judge->nr_seen; i++)
			known[i] |= judge->seen[i].oa == oa && judge->seen[i].leaf == leaf &&
				    judge->seen[i].end <= size &&
				    judge->seen[i].write == !!strchr(prot, 'w');
	}
	for (i = 0; i < judge->nr_seen; i++)
		if (!known[i])
			wrong(judge,
			      "CON-4: a cell was never 0x%" PRIx64 " in leaves of 0x%" PRIx64 "%s",
			      judge->seen[i].oa, judge->seen[i].leaf,
			      judge->seen[i].write ? ", written to" : "");
	judge->nr_seen = 0;
}
