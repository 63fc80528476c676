// SPDX-License-Identifier: GPL-2.0-only
/* The command table: which words each command takes, and who carries it out. */
#include <linux/bits.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/string.h>

#include "ptdump_test.h"

#define SPAN_KEYS (BIT(PTT_LEAF) | BIT(PTT_COUNT) | BIT(PTT_ISTEP))
#define TABLE_KEYS                                                              \
	(BIT(PTT_FORMAT) | BIT(PTT_GRANULE) | BIT(PTT_IAS) | BIT(PTT_OAS) |     \
	 BIT(PTT_QUIRKS) | BIT(PTT_PAGES) | BIT(PTT_FEATURES) | BIT(PTT_LEVELS) | BIT(PTT_VASZ) | \
	 BIT(PTT_OASZ))

/**
 * struct ptt_command - one command
 * @name: first word
 * @usage: shown when the words do not fit
 * @nr_words: words that are not key=value, the name included
 * @keys: the keys it knows
 * @run: carries it out; 0 or -errno, with a text in the reply
 * @more_words: how many may follow those
 */
struct ptt_command {
	const char *name;
	const char *usage;
	unsigned int nr_words;
	unsigned long keys;
	int (*run)(struct ptt_args *args, struct ptt_reply *reply);
	unsigned int more_words;
};

static const struct ptt_command commands[] = {
	{ "domain", "NAME dev=.. [stage=1|2] | NAME format=.. ..", 2,
	  BIT(PTT_DEV) | BIT(PTT_STAGE) | TABLE_KEYS, ptt_cmd_domain },
	{ "map", "NAME IOVA PA SIZE PROT [leaf= count= istep= pstep=]", 6,
	  SPAN_KEYS | BIT(PTT_PSTEP), ptt_cmd_map },
	{ "unmap", "NAME IOVA SIZE [leaf= count= istep=]", 4, SPAN_KEYS, ptt_cmd_unmap },
	{ "split", "NAME IOVA SIZE", 4, 0, ptt_cmd_split },
	{ "clean", "NAME IOVA SIZE", 4, 0, ptt_cmd_clean },
	{ "translate", "NAME IOVA [IOVA..]", 3, 0, ptt_cmd_translate, 5 },
	{ "attach", "NAME DEV", 3, 0, ptt_cmd_attach },
	{ "replace", "NAME DEV", 3, 0, ptt_cmd_replace },
	{ "detach", "DEV", 2, 0, ptt_cmd_detach },
	{ "destroy", "NAME", 2, 0, ptt_cmd_destroy },
	{ "dma", "DEV read|write IOVA LEN [seed=]", 5, BIT(PTT_SEED), ptt_cmd_dma },
	{ "load", "DEV seed=", 2, BIT(PTT_SEED), ptt_cmd_load },
	{ "probe", "DEV read|write IOVA [len= domain= seed= to=]", 4,
	  BIT(PTT_LEN) | BIT(PTT_DOMAIN) | BIT(PTT_SEED) | BIT(PTT_TO), ptt_cmd_probe },
	{ "share", "NAME DEV SIZE r|w|rw|coherent [at= pages=apart to=DEV]", 5,
	  BIT(PTT_AT) | BIT(PTT_PAGES) | BIT(PTT_TO), ptt_cmd_share },
	{ "unshare", "NAME", 2, 0, ptt_cmd_unshare },
	{ "plant", "NAME IOVA LEVEL raw=..|outside|hole|self|size", 4, BIT(PTT_RAW),
	  ptt_cmd_plant, 1 },
	{ "restore", "NAME", 2, 0, ptt_cmd_restore },
	{ "buffer", "NAME SIZE", 3, 0, ptt_cmd_buffer },
	{ "unbuffer", "NAME", 2, 0, ptt_cmd_unbuffer },
	{ "peek", "NAME OFFSET LEN", 4, 0, ptt_cmd_peek },
	{ "fill", "NAME BYTE", 3, 0, ptt_cmd_fill },
	{ "storm", "NAME IOVA CELL cells= [gap= threads= ops= more= pause= seed= round= late=]", 4,
	  BIT(PTT_CELLS) | BIT(PTT_GAP) | BIT(PTT_THREADS) | BIT(PTT_OPS) | BIT(PTT_MORE) |
	  BIT(PTT_PAUSE) | BIT(PTT_SEED) | BIT(PTT_ROUND) | BIT(PTT_LATE), ptt_cmd_storm },
	{ "enough", "NAME", 2, 0, ptt_cmd_enough },
	{ "calm", "NAME", 2, 0, ptt_cmd_calm },
	{ "cost", "NAME map IOVA PA SIZE PROT [leaf= rounds=] | NAME attach DEV [rounds=]", 4,
	  BIT(PTT_LEAF) | BIT(PTT_ROUNDS), ptt_cmd_cost, 3 },
	{ "reset", "", 1, 0, ptt_cmd_reset },
};

/**
 * ptt_run_line() - run one command line
 * @line: the line, cut up in place
 * @reply: what to say in the status file
 *
 * Return: 0 or -errno; a line that fails has changed nothing.
 */
int ptt_run_line(char *line, struct ptt_reply *reply)
{
	const struct ptt_command *command;
	struct ptt_args args;
	unsigned int i;
	int ret;

	ret = ptt_split(line, &args, reply);
	if (ret)
		return ret;
	if (!args.nr_words)
		return ptt_fail(reply, -EINVAL, "no command");

	for (command = commands; command < commands + ARRAY_SIZE(commands); command++)
		if (!strcmp(command->name, args.word[0]))
			break;
	if (command == commands + ARRAY_SIZE(commands))
		return ptt_fail(reply, -EINVAL, "unknown command %.31s", args.word[0]);

	if (args.nr_words < command->nr_words ||
	    args.nr_words > command->nr_words + command->more_words)
		return ptt_fail(reply, -EINVAL, "usage: %s %s", command->name, command->usage);
	for (i = 0; i < PTT_NR_KEYS; i++)
		if (args.value[i] && !(command->keys & BIT(i)))
			return ptt_fail(reply, -EINVAL, "%s does not take %s=", command->name,
					ptt_key_name(i));

	return command->run(&args, reply);
}
