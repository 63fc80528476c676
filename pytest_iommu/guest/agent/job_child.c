// SPDX-License-Identifier: GPL-2.0-only
/* A job's process: cut loose from the agent, set up, told to go, done; and where it is meanwhile. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "job.h"

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

bool job_is_set(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

void job_set(uint32_t *word)
{
	__atomic_store_n(word, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, word, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
}

bool job_await(uint32_t *word, uint64_t timeout_ns)
{
	struct timespec t = { timeout_ns / 1000000000, timeout_ns % 1000000000 };
	uint64_t end = now_ns() + timeout_ns;

	while (!job_is_set(word)) {
		if (timeout_ns && now_ns() >= end)
			return false;
		syscall(SYS_futex, word, FUTEX_WAIT, 0, timeout_ns ? &t : NULL, NULL, 0);
	}
	return true;
}

/*
 * Who inherits the agent's port keeps it open, and its reader would take the
 * host's words. What stays open is moved: 3, or -1 if there is nothing.
 */
static int close_all_but(int kept)
{
	int first = 3, null = open("/dev/null", O_RDWR);

	for (int fd = 0; fd < 2; fd++)
		if (null < 0 || dup2(null, fd) < 0)
			close(fd);
	if (kept >= 0 && dup2(kept, first) == first)
		kept = first++;
	if (syscall(SYS_close_range, first, ~0u, 0) < 0)
		for (int fd = first; fd < 1024; fd++)
			close(fd);
	return kept;
}

static void cut_loose(unsigned int number, struct job_spec *spec, pid_t parent)
{
	char name[16];
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	for (int i = 1; i < NSIG; i++)
		signal(i, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	spec->fd = close_all_but(spec->fd);
	snprintf(name, sizeof(name), "job%u %s", number, spec->kind->name);
	prctl(PR_SET_NAME, name);
}

pid_t job_fork(unsigned int number, struct job_spec *spec, struct job_shared *shared)
{
	pid_t parent = getpid(), pid = fork();

	if (pid)
		return pid;
	cut_loose(number, spec, parent);
	shared->setup_error = spec->kind->setup(spec, shared);
	job_set(&shared->ready);
	if (shared->setup_error)
		_exit(0);
	/* the agent moves us to our cpu meanwhile: it may be one on which we do not get to run at all */
	job_await(&shared->go, 0);
	shared->value = spec->kind->run(spec, shared);
	_exit(0);
}

/* The state's letter, the cpu, and where it sleeps: fields 3 and 39 of stat, wchan, stack */
int32_t job_where(pid_t pid, const struct job_kind *kind, const struct job_shared *shared,
		  struct buffer *out)
{
	struct buffer text = {};
	char path[64], *at;
	int32_t error;
	int field = 3;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	error = read_to_end(path, 4096, 4096, &text);
	buffer_add(&text, "", 1);
	/* the name before the state may have anything in it */
	at = error < 0 ? NULL : strrchr((char *)text.data, ')');
	if (!at || strlen(at) < 3) {
		free(text.data);
		return error < 0 ? error : -EIO;
	}
	at += 2;
	buffer_text(out, "%c %s pid=%d cpu=", *at, kind->name, pid);
	while (*at && field < 39)
		field += *at++ == ' ';
	buffer_text(out, "%.*s held=%u wchan=", (int)strcspn(at, " \n"), at,
		    job_is_set(&shared->held));
	free(text.data);
	snprintf(path, sizeof(path), "/proc/%d/wchan", pid);
	read_to_end(path, 4096, 4096, out);
	buffer_text(out, "\n");
	snprintf(path, sizeof(path), "/proc/%d/stack", pid);
	read_to_end(path, 4096, 16384, out);
	return 0;
}
