// SPDX-License-Identifier: GPL-2.0-only
/* Jobs that take a cpu, or see when they get it: real-time processes. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "job.h"

#define TICKS_MAX (1u << 20)
#define FAIR_SERVER "/sys/kernel/debug/sched/fair_server/cpu%u/runtime"

static int occupy_fd = -1;
static uint64_t *late;
static size_t ticks_max;

static bool write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	if (write(fd, text, strlen(text)) < 0)
		fprintf(stderr, "agent: %s: %s\n", path, strerror(errno));
	close(fd);
	return true;
}

/*
 * Real-time processes leave 5 % of a cpu to others: since 6.12 by a deadline
 * server, before by the old throttling (whose sysctl makes lockdep complain of
 * 7.3's partition_sched_domains(), with isolcpus=). Only the guest's init takes
 * that away: --stdio could be on somebody's real machine.
 */
void stop_throttling(uint32_t cpu)
{
	char path[sizeof(FAIR_SERVER) + 16];

	if (getpid() != 1)
		return;
	snprintf(path, sizeof(path), FAIR_SERVER, cpu);
	if (!write_text(path, "0"))
		write_text("/proc/sys/kernel/sched_rt_runtime_us", "-1");
}

static void nothing(int signal)
{
	(void)signal;
}

static int32_t spinner_setup(const struct job_spec *spec, struct job_shared *shared)
{
	struct sigaction kick = { .sa_handler = nothing }; /* without SA_RESTART */

	sigaction(SPINNER_KICK, &kick, NULL);
	occupy_fd = spec->path[0] ? open(spec->path, O_RDONLY | O_CLOEXEC) : -1;
	/* No mlockall(): it would bring in all of the shared results, 40 MiB. Nothing here is ever swapped. */
	(void)job_is_set(&shared->stop);
	return 0;
}

/*
 * Keep the cpu: in user mode and without a system call, or in a read(2) that
 * waits for interrupts. An emulated cpu that waits costs the host nothing, and
 * the host's processors are what everybody else waits for.
 */
static int32_t spinner_run(const struct job_spec *spec, struct job_shared *shared)
{
	struct job_record record = { .begin = now_ns() };
	char byte;

	while (!job_is_set(&shared->stop))
		if (occupy_fd >= 0 && read(occupy_fd, &byte, 1) < 0 && errno != EINTR)
			occupy_fd = -1;
	record.end = now_ns();
	job_record(shared, &record);
	(void)spec;
	return 0;
}

static int32_t ticker_setup(const struct job_spec *spec, struct job_shared *shared)
{
	(void)shared;
	if (!spec->interval_us)
		return -EINVAL;
	ticks_max = spec->milliseconds * 1000ull / spec->interval_us;
	if (!ticks_max || ticks_max > TICKS_MAX)
		return -EINVAL;
	late = malloc(ticks_max * sizeof(*late));
	if (!late)
		return -ENOMEM;
	/* our own page faults are not what is measured */
	memset(late, 1, ticks_max * sizeof(*late));
	return 0;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void sleep_until(uint64_t ns)
{
	struct timespec t = { ns / 1000000000, ns % 1000000000 };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

/* A tick that comes late takes those with it that were due meanwhile: they are one lateness */
static int32_t ticker_run(const struct job_spec *spec, struct job_shared *shared)
{
	uint64_t interval = spec->interval_us * 1000ull, begin = now_ns(), due = begin, now;
	uint64_t end = begin + spec->milliseconds * 1000000ull;
	struct job_lateness found = {};
	size_t ticks = 0;

	while (ticks < ticks_max && due + interval <= end && !job_is_set(&shared->stop)) {
		due += interval;
		sleep_until(due);
		now = now_ns();
		late[ticks] = now - due;
		if (!ticks || late[ticks] > found.worst) {
			found.worst = late[ticks];
			found.worst_at = now;
		}
		due += late[ticks++] / interval * interval;
	}
	if (ticks) {
		qsort(late, ticks, sizeof(*late), by_value);
		found.median = late[ticks / 2];
	}
	shared->lateness = found;
	return ticks;
}

const struct job_kind job_spinner = { "spinner", true, true, spinner_setup, spinner_run };
const struct job_kind job_ticker = { "ticker", false, true, ticker_setup, ticker_run };
