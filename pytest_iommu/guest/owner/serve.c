// SPDX-License-Identifier: GPL-2.0-only
/*
 * An owner in the background, and how it is spoken to: two FIFOs in a
 * directory. Who tells writes its lines in one write and an empty one at the
 * end, then reads answers until the owner closes its side.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "owner.h"

#define COMMANDS "commands"
#define ANSWERS "answers"

static int open_in(const char *directory, const char *name, int flags)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return open(path, flags | O_CLOEXEC);
}

static int make_in(const char *directory, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	if (mkfifo(path, 0600) && errno != EEXIST) {
		perror(path);
		return -1;
	}
	return 0;
}

/* Run a line and those behind it up to an empty one; whether to go on */
static bool conversation(char *line, size_t room, FILE *commands, FILE *answers)
{
	do {
		line[strcspn(line, "\n")] = 0;
		if (!line[0])
			return true;
		if (!strcmp(line, "quit")) {
			drop_all();
			fprintf(answers, "ok\n");
			return false;
		}
		run_line(line, answers);
		fflush(answers);
	} while (fgets(line, room, commands));
	return false;
}

static void attend(const char *directory, FILE *commands)
{
	static char line[4096];
	bool more = true;

	/*
	 * The answers are opened only when a line has come: the FIFO's reader
	 * is then the one who sent it, and not the last one on its way out.
	 */
	while (more && fgets(line, sizeof(line), commands)) {
		int fd = open_in(directory, ANSWERS, O_WRONLY);
		FILE *answers = fd < 0 ? NULL : fdopen(fd, "w");

		if (!answers)
			break;
		more = conversation(line, sizeof(line), commands, answers);
		fclose(answers);
	}
}

/* Returns in the parent once the owner can be told something */
int serve(const char *directory)
{
	FILE *commands;
	int fd;

	if ((mkdir(directory, 0700) && errno != EEXIST) || make_in(directory, COMMANDS) ||
	    make_in(directory, ANSWERS)) {
		perror(directory);
		return 1;
	}
	/* For writing too: there is no end of file when a teller goes */
	fd = open_in(directory, COMMANDS, O_RDWR);
	commands = fd < 0 ? NULL : fdopen(fd, "r");
	if (!commands) {
		perror(directory);
		return 1;
	}
	switch (fork()) {
	case -1:
		perror("fork");
		return 1;
	case 0:
		break;
	default:
		return 0;
	}
	setsid();
	signal(SIGPIPE, SIG_IGN);
	/* Whoever started us waits for the end of our output */
	fd = open("/dev/null", O_RDWR);
	dup2(fd, 0);
	dup2(fd, 1);
	dup2(fd, 2);
	close(fd);
	attend(directory, commands);
	_exit(0);
}

/* Print the answers; 0 when every line got one and all are "ok" */
int tell(const char *directory, char **lines)
{
	/* No reader: no owner is there */
	int fd = open_in(directory, COMMANDS, O_WRONLY | O_NONBLOCK);
	char *text = NULL, *answer = NULL;
	size_t size = 0, room = 0;
	int good = 0, sent = 0;
	FILE *stream;

	if (fd < 0) {
		fprintf(stderr, "%s: no owner there: %s\n", directory, strerror(errno));
		return 2;
	}
	stream = open_memstream(&text, &size);
	if (!stream)
		abort();
	for (; lines[sent]; sent++)
		fprintf(stream, "%s\n", lines[sent]);
	fprintf(stream, "\n");
	fclose(stream);
	if (write(fd, text, size) != (ssize_t)size) {
		perror("tell");
		return 2;
	}
	close(fd);
	free(text);
	fd = open_in(directory, ANSWERS, O_RDONLY);
	stream = fd < 0 ? NULL : fdopen(fd, "r");
	if (!stream) {
		perror(directory);
		return 2;
	}
	while (getline(&answer, &room, stream) > 0) {
		fputs(answer, stdout);
		good += !strncmp(answer, "ok", 2);
	}
	free(answer);
	fclose(stream);
	return good == sent ? 0 : 1;
}
