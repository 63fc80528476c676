// SPDX-License-Identifier: GPL-2.0-only
/* judge BEFORE READ [LOG]: what ptdump_judge.c says of these files; two cells. Nothing where all is well. */
#include <stdio.h>

#include "ptdump.h"
#include "ptdump_judge.h"

int main(int argc, char **argv)
{
	struct ptd_text before = {}, text = {}, log = {};
	static struct judge judge;

	if (argc < 3 || ptd_read(argv[1], &before) || ptd_read(argv[2], &text))
		return 2;
	judge_begin(&judge, before.data, 2);
	judge_text(&judge, text.data);
	if (argc > 3 && !ptd_read(argv[3], &log))
		judge_states(&judge, log.data);
	puts(judge.wrong);
	ptd_free(&before);
	ptd_free(&text);
	ptd_free(&log);
	return 0;
}
