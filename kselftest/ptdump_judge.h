/* SPDX-License-Identifier: GPL-2.0-only */
/* What a read of a table that changes may say. */
#ifndef PTDUMP_JUDGE_H
#define PTDUMP_JUDGE_H

#include <stdbool.h>
#include <stdint.h>

#define JUDGE_IOVA 0x40000000u
#define JUDGE_CELL 0x200000u
#define JUDGE_GAP 0x400000u
#define JUDGE_SENTINELS 64
#define JUDGE_SEEN 16

/**
 * struct judge - what is known of a table, and what was found wrong in reads of it
 * @cells: cells of JUDGE_CELL bytes, one every JUDGE_GAP bytes from JUDGE_IOVA on
 * @sentinel: lines that stay
 * @nr_sentinels: how many
 * @seen: what was reported in cells, as if it were in cell 0
 * @nr_seen: how many
 * @wrong: the first fault, in words; empty where there is none
 */
struct judge {
	unsigned int cells;
	char sentinel[JUDGE_SENTINELS][192];
	unsigned int nr_sentinels;
	struct {
		uint64_t oa, leaf, end;
		bool write;
	} seen[JUDGE_SEEN];
	unsigned int nr_seen;
	char wrong[320];
};

void judge_begin(struct judge *judge, const char *text, unsigned int cells);
void judge_text(struct judge *judge, const char *text);
void judge_states(struct judge *judge, const char *log);

#endif
