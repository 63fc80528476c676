// SPDX-License-Identifier: GPL-2.0-only
/*
 * With --line: on a console, and no network. A line of shell is run whose stdin
 * and stdout are at the other end of the console's line, over a link (link.h).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "link.h"

#define TICK_MS 20
#define SILENCE_MS 60000	/* nobody is at the other end any more */
#define LEAVE_MS 3000		/* for the shell to tidy up, and for the other end to know */

/* The shell; fds that are closed are -1 */
struct shell {
	pid_t pid;
	int in, out;
	bool gone;	/* it was waited for */
	int status;
	int64_t leave;	/* when it is killed, or we give up; 0: not yet */
};

/* What of the terminal would change our bytes; false when it is none */
static bool make_raw(struct termios *before)
{
	struct termios raw;

	if (tcgetattr(0, before) < 0)
		return false;
	raw = *before;
	cfmakeraw(&raw);
	raw.c_cflag |= CLOCAL;
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	tcsetattr(0, TCSANOW, &raw);
	return true;
}

/* A descriptor of our own of the same terminal: those who share fd 0 do want to block */
static int open_line(void)
{
	int fd = open("/proc/self/fd/0", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	fd = fcntl(0, F_DUPFD_CLOEXEC, 3);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	return fd;
}

static bool start_shell(struct shell *sh, const char *command)
{
	int in[2], out[2];

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		return false;
	sh->pid = fork();
	if (!sh->pid) {
		setsid();
		dup2(in[0], 0);
		dup2(out[1], 1);
		signal(SIGPIPE, SIG_DFL);
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	fcntl(in[1], F_SETFL, O_NONBLOCK);
	sh->in = in[1];
	sh->out = out[0];
	return sh->pid > 0;
}

static void close_end(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* Write what can be; false when nobody takes it any more */
static bool drain(int fd, struct buffer *b)
{
	ssize_t n = write(fd, b->data, b->len);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	b->len -= n;
	memmove(b->data, b->data + n, b->len);
	return true;
}

/* The next piece of what the shell says, or its end */
static void from_shell(struct shell *sh, struct link *l, int64_t now)
{
	uint8_t data[LINK_PIECE];
	ssize_t n = read(sh->out, data, sizeof(data));

	if (n > 0)
		link_send(l, LINK_DATA, data, n, now);
	else if (n == 0 || errno != EINTR)
		close_end(&sh->out);
}

static void reap(struct shell *sh)
{
	if (!sh->gone && waitpid(sh->pid, &sh->status, WNOHANG) == sh->pid)
		sh->gone = true;
}

/* One wait and what it brings; false when the line is gone */
static bool pump(int line, struct shell *sh, struct link *l)
{
	struct pollfd fds[] = {
		{ .fd = line, .events = POLLIN | (l->out.len ? POLLOUT : 0) },
		{ .fd = link_room(l) ? sh->out : -1, .events = POLLIN },
		{ .fd = l->in.len ? sh->in : -1, .events = POLLOUT },
	};
	uint8_t data[4096];
	ssize_t n = -1;
	int64_t now;

	poll(fds, 3, TICK_MS);
	now = now_ms();
	if (fds[0].revents) {
		n = read(line, data, sizeof(data));
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return false;
	}
	if (n > 0)
		link_input(l, data, n, now);
	if (fds[1].revents)
		from_shell(sh, l, now);
	else if (sh->gone && link_room(l))
		/* what it has left behind may hold the pipe open */
		close_end(&sh->out);
	if (fds[2].revents && !drain(sh->in, &l->in))
		close_end(&sh->in);
	if (l->out.len && !drain(line, &l->out))
		return false;
	link_tick(l, now);
	return true;
}

/* Until the shell has ended and the other end knows, or there is none */
static void serve(int line, struct shell *sh, struct link *l)
{
	bool alive = true, told = false;
	char text[16];

	while (alive && !(told && !l->waiting)) {
		alive = pump(line, sh, l);
		reap(sh);
		if (sh->in < 0)
			l->in.len = 0;
		if (l->ended && !l->in.len)
			close_end(&sh->in);
		if (l->quit || now_ms() - l->heard >= SILENCE_MS)
			break;
		if (!told && sh->gone && sh->out < 0 && link_room(l)) {
			snprintf(text, sizeof(text), "%d", value_of(sh->status));
			link_send(l, LINK_END, text, strlen(text), now_ms());
			told = true;
			sh->leave = now_ms() + LEAVE_MS;
		}
		if (told && now_ms() >= sh->leave)
			break;
	}
}

/* Its end of file ends the agent, and the shell then tidies up */
static void end_shell(struct shell *sh)
{
	close_end(&sh->in);
	close_end(&sh->out);
	sh->leave = now_ms() + LEAVE_MS;
	while (!sh->gone && now_ms() < sh->leave + LEAVE_MS) {
		reap(sh);
		if (now_ms() >= sh->leave)
			kill(-sh->pid, SIGHUP);
		usleep(TICK_MS * 1000);
	}
	if (!sh->gone)
		kill(-sh->pid, SIGKILL);
}

int line_main(const char *session, const char *patience, const char *command)
{
	struct link l = { .patience = strtol(patience, NULL, 10) };
	struct shell sh = {};
	struct termios before;
	bool terminal = make_raw(&before);
	int line = open_line();

	snprintf(l.session, sizeof(l.session), "%s", session);
	l.heard = now_ms();
	if (line < 0 || !start_shell(&sh, command)) {
		perror("agent");
		return 1;
	}
	serve(line, &sh, &l);
	end_shell(&sh);
	/* what still comes is no input of the shell that called us */
	if (terminal)
		tcsetattr(0, TCSAFLUSH, &before);
	return 0;
}
