// SPDX-License-Identifier: GPL-2.0-only
/* The command line of iommu-owner. */
#include <stdio.h>
#include <string.h>

#include "owner.h"

/* Lines of stdin, one answer each; everything is dropped at the end */
static int run_stdin(void)
{
	static char line[4096];
	bool good = true;

	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (!line[0] || line[0] == '#')
			continue;
		good = run_line(line, stdout) && good;
		fflush(stdout);
	}
	drop_all();
	return good ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "run"))
		return run_stdin();
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(argv[2]);
	if (argc > 3 && !strcmp(argv[1], "tell"))
		return tell(argv[2], argv + 3);
	fprintf(stderr,
		"iommu-owner run                      commands from stdin, answers to stdout\n"
		"iommu-owner serve DIRECTORY          go to the background and wait for commands\n"
		"iommu-owner tell DIRECTORY LINE...   give that one commands, print its answers\n");
	return 2;
}
