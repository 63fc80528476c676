// SPDX-License-Identifier: GPL-2.0-only
/* Operations on the system: modules, programs, power. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define MAX_ARGS 64

int32_t load_module(const char *path, const char *params)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int32_t ret = 0;

	if (fd < 0)
		return -errno;
	if (syscall(SYS_finit_module, fd, params, 0) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

/* data as a string of its own */
static char *data_text(const struct op *op)
{
	char *text = malloc(op->data_len + 1);

	if (!text)
		abort();
	memcpy(text, op->data, op->data_len);
	text[op->data_len] = 0;
	return text;
}

int32_t op_insmod(const struct op *op, struct buffer *out)
{
	char *params = data_text(op);
	int32_t ret = load_module(op->path, params);

	(void)out;
	free(params);
	return ret;
}

int32_t op_rmmod(const struct op *op, struct buffer *out)
{
	(void)out;
	return syscall(SYS_delete_module, op->path, O_NONBLOCK) < 0 ? -errno : 0;
}

/* Only the guest's init may: --stdio could be somebody's real machine */
int32_t op_poweroff(const struct op *op, struct buffer *out)
{
	(void)op;
	(void)out;
	if (getpid() != 1)
		return -EPERM;
	sync();
	return reboot(RB_POWER_OFF) < 0 ? -errno : 0;
}

int32_t op_sleep(const struct op *op, struct buffer *out)
{
	struct timespec t = { op->a / 1000, op->a % 1000 * 1000000L };

	(void)out;
	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
	return 0;
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* Read a child's output until it closes it; false when the time is over */
static bool collect(int fd, int64_t end, struct buffer *out)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	for (;;) {
		int64_t left = end - now_ms();
		ssize_t n;

		if (left <= 0)
			return false;
		if (poll(&p, 1, left) <= 0)
			continue;
		buffer_reserve(out, 65536);
		n = read(fd, out->data + out->len, 65536);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return true;
		/* a child that writes for ever must not take all memory */
		if (out->len + n < FRAME_MAX / 2)
			out->len += n;
	}
}

/* a: seconds, 0 for 10. data: argv behind argv[0], separated by zeros */
int32_t op_run(const struct op *op, struct buffer *out)
{
	int64_t end = now_ms() + (op->a ? op->a : 10) * 1000LL;
	char *text = data_text(op), *argv[MAX_ARGS + 2] = { (char *)op->path };
	int fds[2], status, n = 1;
	bool ended;
	size_t at;
	pid_t pid;

	for (at = 0; at < op->data_len && n <= MAX_ARGS; at += strlen(text + at) + 1)
		argv[n++] = text + at;
	if (pipe2(fds, O_CLOEXEC) < 0) {
		free(text);
		return -errno;
	}
	pid = fork();
	if (pid == 0) {
		setpgid(0, 0);
		dup2(open("/dev/null", O_RDONLY), 0);
		dup2(fds[1], 1);
		dup2(fds[1], 2);
		signal(SIGPIPE, SIG_DFL);
		execv(op->path, argv);
		_exit(127);
	}
	close(fds[1]);
	free(text);
	if (pid < 0) {
		close(fds[0]);
		return -EAGAIN;
	}
	setpgid(pid, pid);
	ended = collect(fds[0], end, out);
	while (ended && waitpid(pid, &status, WNOHANG) == 0) {
		ended = now_ms() < end;
		usleep(1000);
	}
	close(fds[0]);
	if (!ended) {
		kill(-pid, SIGKILL);
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		return -ETIMEDOUT;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
