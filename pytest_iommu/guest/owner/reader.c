// SPDX-License-Identifier: GPL-2.0-only
/* A process that reads a file without end: a device's file keeps the device busy. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "owner.h"

void reader_drop(struct object *object)
{
	kill(object->pid, SIGKILL);
	waitpid(object->pid, NULL, 0);
}

static void read_on(int fd, int owner)
{
	static char bytes[4096];

	/* It must keep no domain alive, nor a teller waiting, nor outlive the owner */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != owner)
		_exit(1);
	dup2(fd, 0);
	close_range(3, UINT_MAX, 0);
	while (read(0, bytes, sizeof(bytes)) > 0)
		;
	_exit(1);
}

int cmd_reader(const struct words *w, FILE *out)
{
	int fd = open(w->word[2], O_RDONLY | O_CLOEXEC), owner = getpid(), ret = 0, pid;
	struct object *object;

	if (fd < 0)
		return fail(out, errno, "%s", w->word[2]);
	object = object_new(w->word[1], KIND_READER, out);
	if (!object) {
		close(fd);
		return -EEXIST;
	}
	pid = fork();
	if (!pid)
		read_on(fd, owner);
	if (pid < 0) {
		ret = fail(out, errno, "fork");
		object_free(object);
	} else {
		object->pid = pid;
	}
	close(fd);
	return ret;
}
