// SPDX-License-Identifier: GPL-2.0-only
/* Operations on the system: modules, programs, power. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define MAX_ARGS 64
#define KILL_MS 5000

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

int64_t now_ms(void)
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

/* Whether a process has nothing more to say: it has ended, reaped or not */
static bool is_over(pid_t pid)
{
	struct buffer text = {};
	char path[64], *at;
	bool over;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	over = read_to_end(path, 4096, 4096, &text) <= 0;
	if (!over) {
		buffer_add(&text, "", 1);
		/* the name before the state may have anything in it */
		at = strrchr((char *)text.data, ')');
		over = at && at[1] == ' ' && (at[2] == 'Z' || at[2] == 'X');
	}
	free(text.data);
	return over;
}

/* Kill what is left of a session; what cannot be killed is not waited for for ever */
static void end_session(pid_t leader)
{
	int64_t end = now_ms() + KILL_MS;
	bool left;

	do {
		DIR *proc = opendir("/proc");
		struct dirent *e;

		left = false;
		while (proc && (e = readdir(proc))) {
			pid_t pid = atoi(e->d_name);

			if (pid <= 0 || getsid(pid) != leader || is_over(pid))
				continue;
			kill(pid, SIGKILL);
			left = true;
		}
		if (proc)
			closedir(proc);
		if (left)
			usleep(1000);
	} while (left && now_ms() < end);
}

static void write_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		data += n;
		len -= n;
	}
}

/* The child: argv with its output to fd, in a session of its own */
static void become(char **argv, int fd)
{
	setsid();
	dup2(open("/dev/null", O_RDONLY), 0);
	dup2(fd, 1);
	dup2(fd, 2);
	signal(SIGPIPE, SIG_DFL);
	execv(argv[0], argv);
	_exit(127);
}

/* Wait for a child's end; false when the time is over */
static bool await_child(pid_t pid, int64_t end, int *status)
{
	while (waitpid(pid, status, WNOHANG) == 0) {
		if (now_ms() >= end)
			return false;
		usleep(1000);
	}
	return true;
}

/* As a shell has it */
int32_t value_of(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int32_t kill_child(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	end_session(pid);
	waitpid(pid, &status, 0);
	return -ETIMEDOUT;
}

static int32_t run_collected(char **argv, int64_t end, struct buffer *out)
{
	int fds[2], status = 0;
	bool ended;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0)
		become(argv, fds[1]);
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		return -EAGAIN;
	}
	ended = collect(fds[0], end, out) && await_child(pid, end, &status);
	close(fds[0]);
	return ended ? value_of(status) : kill_child(pid);
}

/*
 * The program writes to the host itself: what it has written is there, whatever
 * becomes of the kernel right afterwards. What is behind the marker is ours again,
 * so nobody who could write may be left then.
 */
static int32_t run_streamed(char **argv, int64_t end, const char *marker)
{
	int32_t value = -EAGAIN;
	int status = 0;
	pid_t pid = fork();

	if (pid == 0)
		become(argv, host_fd);
	if (pid > 0 && await_child(pid, end, &status)) {
		value = value_of(status);
		end_session(pid);
	} else if (pid > 0) {
		value = kill_child(pid);
	}
	write_all(host_fd, marker, strlen(marker));
	return value;
}

/*
 * a: seconds, 0 for 10. b: 1 when its output goes to the host as it comes. data:
 * argv behind argv[0], separated by zeros; before it with b the marker that ends
 * the output
 */
int32_t op_run(const struct op *op, struct buffer *out)
{
	int64_t end = now_ms() + (op->a ? op->a : 10) * 1000LL;
	char *text = data_text(op), *argv[MAX_ARGS + 2] = { (char *)op->path };
	size_t at = op->b ? strlen(text) + 1 : 0;
	int32_t value;
	int n = 1;

	for (; at < op->data_len && n <= MAX_ARGS; at += strlen(text + at) + 1)
		argv[n++] = text + at;
	value = op->b ? run_streamed(argv, end, text) : run_collected(argv, end, out);
	free(text);
	return value;
}
