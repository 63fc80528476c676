// SPDX-License-Identifier: GPL-2.0-only
/* Operations on jobs: the table of them, starting, signals, results. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"
#include "job.h"

#define JOBS 16
#define CHUNK 65536u
#define SETUP_NS 5000000000ull
#define KILL_NS 30000000000ull
#define STEP_NS 1000000ull
#define SPINNER_PRIORITY 50
#define TICKER_PRIORITY 60

struct job {
	const struct job_kind *kind; /* NULL: there is none */
	pid_t pid;
	int pidfd;
	bool keep;
	bool killed; /* by us: may be replaced once it is gone */
	bool ended;
	int status;
	struct job_shared *shared;
};

static struct job jobs[JOBS];

static struct job *job_of(uint32_t number)
{
	return number < JOBS && jobs[number].kind ? &jobs[number] : NULL;
}

static struct job *find_job(const struct op *op, int32_t *error)
{
	*error = op->a < JOBS ? -ESRCH : -EBADF;
	return job_of(op->a);
}

/* Whoever reaps children that may be jobs' tells here */
void job_ended(pid_t pid, int status)
{
	for (int i = 0; i < JOBS; i++) {
		if (!jobs[i].kind || jobs[i].ended || jobs[i].pid != pid)
			continue;
		jobs[i].ended = true;
		jobs[i].status = status;
	}
}

/* Wait for the child's end, but not longer; it may hang in the kernel */
static bool await_end(struct job *job, uint64_t timeout_ns)
{
	struct pollfd p = { .fd = job->pidfd, .events = POLLIN };
	uint64_t end = now_ns() + timeout_ns;
	int status;

	while (!job->ended) {
		uint64_t now = now_ns(), left = now < end ? end - now : 0;
		uint64_t ms = (left + 999999) / 1000000;

		poll(&p, 1, ms < INT32_MAX ? ms : INT32_MAX);
		if (waitpid(job->pid, &status, WNOHANG) == job->pid)
			job_ended(job->pid, status);
		else if (!left)
			return false;
	}
	return true;
}

static void forget(struct job *job)
{
	close(job->pidfd);
	munmap(job->shared, sizeof(*job->shared));
	*job = (struct job){};
}

static int32_t place(struct job *job, const struct job_spec *spec)
{
	struct sched_param param = { SPINNER_PRIORITY };
	cpu_set_t set;

	/* sees what a spinner does to others */
	if (job->kind == &job_ticker)
		param.sched_priority = TICKER_PRIORITY;
	if (spec->cpu != NO_CPU) {
		if (spec->cpu >= CPU_SETSIZE)
			return -EINVAL;
		CPU_ZERO(&set);
		CPU_SET(spec->cpu, &set);
		if (sched_setaffinity(job->pid, sizeof(set), &set) < 0)
			return -errno;
	}
	if (job->kind->realtime) {
		if (sched_setscheduler(job->pid, SCHED_FIFO, &param) < 0)
			return -errno;
		stop_throttling(spec->cpu);
	}
	return 0;
}

static int32_t await_setup(struct job *job, const struct job_spec *spec)
{
	if (!job_await(&job->shared->ready, SETUP_NS))
		return -ETIMEDOUT;
	return job->shared->setup_error ? job->shared->setup_error : place(job, spec);
}

static int32_t start(const struct op *op, struct job_spec *spec)
{
	struct job new = { .kind = spec->kind, .keep = spec->keep };
	struct job *job;
	int32_t error;

	if (op->a >= JOBS)
		return -EBADF;
	job = &jobs[op->a];
	if (job->kind && !(job->killed && job->ended))
		return -EBUSY;
	/* pages of it come as they are written, and count as they do */
	new.shared = mmap(NULL, sizeof(*new.shared), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (new.shared == MAP_FAILED)
		return -errno;
	new.pid = job_fork(op->a, spec, new.shared);
	if (new.pid < 0) {
		error = -errno;
		munmap(new.shared, sizeof(*new.shared));
		return error;
	}
	new.pidfd = syscall(SYS_pidfd_open, new.pid, 0);
	error = new.pidfd < 0 ? -errno : 0;
	if (job->kind)
		forget(job);
	*job = new;
	if (!error)
		error = await_setup(job, spec);
	if (error) {
		job->killed = true;
		kill(job->pid, SIGKILL);
		if (await_end(job, KILL_NS))
			forget(job);
		return error;
	}
	if (!job->kind->waits_for_go)
		job_set(&job->shared->go);
	return 0;
}

/* data: u32 cpu, rounds, flags (1 held, 2 keep, 4: what a slot has open, and rounds is the slot) */
int32_t op_start_reader(const struct op *op, struct buffer *out)
{
	struct job_spec spec = { .kind = &job_reader, .path = op->path, .fd = -1 };

	(void)out;
	if (op->data_len != 12 || op->b > FRAME_MAX)
		return -EINVAL;
	spec.chunk = op->b ? op->b : CHUNK;
	spec.cpu = get_u32(op->data);
	spec.rounds = get_u32(op->data + 4);
	spec.held = get_u32(op->data + 8) & 1;
	spec.keep = get_u32(op->data + 8) & 2;
	if (get_u32(op->data + 8) & 4) {
		spec.fd = fd_of_slot(spec.rounds);
		spec.rounds = 1;
		if (spec.fd < 0)
			return -EBADF;
	}
	return start(op, &spec);
}

/* data: u32 cpu, rounds, then what is written */
int32_t op_start_writer(const struct op *op, struct buffer *out)
{
	struct job_spec spec = { .kind = &job_writer, .path = op->path, .fd = -1, .keep = true };

	(void)out;
	if (op->data_len < 8)
		return -EINVAL;
	spec.cpu = get_u32(op->data);
	spec.rounds = get_u32(op->data + 4);
	spec.data = op->data + 8;
	spec.data_len = op->data_len - 8;
	return start(op, &spec);
}

int32_t op_start_spinner(const struct op *op, struct buffer *out)
{
	struct job_spec spec = {
		.kind = &job_spinner, .path = op->path, .fd = -1, .cpu = op->b, .keep = true
	};

	(void)out;
	return start(op, &spec);
}

/* data: u32 interval in us, u32 milliseconds */
int32_t op_start_ticker(const struct op *op, struct buffer *out)
{
	struct job_spec spec = { .kind = &job_ticker, .fd = -1, .cpu = op->b };

	(void)out;
	if (op->data_len != 8)
		return -EINVAL;
	spec.interval_us = get_u32(op->data);
	spec.milliseconds = get_u32(op->data + 4);
	return start(op, &spec);
}

/* How long it takes until it is reaped: the kernel's way out of what it was doing */
static int32_t kill_job(struct job *job, struct buffer *out)
{
	uint64_t begin = now_ns(), took;

	if (!job->ended) {
		job->killed = true;
		kill(job->pid, SIGKILL);
		if (!await_end(job, KILL_NS))
			return -ETIMEDOUT;
	}
	took = now_ns() - begin;
	buffer_add(out, &took, sizeof(took));
	return 0;
}

int32_t op_signal_job(const struct op *op, struct buffer *out)
{
	int32_t error;
	struct job *job = find_job(op, &error);

	if (!job)
		return error;
	switch (op->b) {
	case JOB_STOP:
		job_set(&job->shared->stop);
		/* also the one that was never told to go ends */
		/* fall through */
	case JOB_GO:
		job_set(&job->shared->go);
		if (op->b == JOB_STOP && job->kind == &job_spinner && !job->ended)
			kill(job->pid, SPINNER_KICK);
		return 0;
	case JOB_RELEASE:
		job_set(&job->shared->release);
		return 0;
	case JOB_KILL:
		return kill_job(job, out);
	}
	return -EINVAL;
}

static void add_results(const struct job *job, struct buffer *out)
{
	const struct job_shared *shared = job->shared;
	uint32_t count = __atomic_load_n(&shared->count, __ATOMIC_ACQUIRE);
	const struct job_digest *digest = &shared->digest[count % 2];
	size_t text_len = 0;

	if (job->kind == &job_ticker) {
		buffer_add(out, &shared->lateness, sizeof(shared->lateness));
		return;
	}
	buffer_u32(out, count);
	buffer_add(out, shared->records, count * sizeof(*shared->records));
	if (!job->keep) {
		buffer_add(out, &digest->bytes, 8);
		buffer_add(out, &digest->lines, 8);
		buffer_u32(out, digest->crc);
	} else if (job->kind == &job_reader) {
		for (uint32_t i = 0; i < count; i++)
			if (shared->records[i].value > 0)
				text_len += shared->records[i].value;
		buffer_add(out, shared->text, text_len);
	}
}

int32_t op_wait_job(const struct op *op, struct buffer *out)
{
	int32_t value;
	struct job *job = find_job(op, &value);

	if (!job)
		return value;
	if (!await_end(job, op->b * 1000000ull))
		return -ETIMEDOUT;
	value = WIFEXITED(job->status) ? job->shared->value : -EINTR;
	add_results(job, out);
	forget(job);
	return value;
}

static uint32_t rounds_of(const struct job *job)
{
	return __atomic_load_n(&job->shared->rounds, __ATOMIC_ACQUIRE);
}

/*
 * Wait until every one of these jobs has done so many whole rounds that began
 * after now. One that ends meanwhile does none any more.
 * data: u32 milliseconds, then u8 jobs
 */
int32_t op_await_rounds(const struct op *op, struct buffer *out)
{
	uint64_t end, wanted[JOBS];
	uint32_t least = INT32_MAX;
	struct job *job;

	(void)out;
	if (op->data_len < 5 || op->data_len > 4 + JOBS)
		return -EINVAL;
	end = now_ns() + get_u32(op->data) * 1000000ull;
	for (uint32_t i = 4; i < op->data_len; i++) {
		job = job_of(op->data[i]);
		if (!job)
			return op->data[i] < JOBS ? -ESRCH : -EBADF;
		/* the one that is under way does not count */
		wanted[i - 4] = rounds_of(job) + 1ull + op->b;
	}
	for (uint32_t i = 4; i < op->data_len; i++) {
		job = job_of(op->data[i]);
		while (rounds_of(job) < wanted[i - 4] && !await_end(job, STEP_NS))
			if (now_ns() >= end)
				return -ETIMEDOUT;
		if (rounds_of(job) < least)
			least = rounds_of(job);
	}
	return least;
}

int32_t op_job_state(const struct op *op, struct buffer *out)
{
	int32_t error;
	struct job *job = find_job(op, &error);

	if (!job)
		return error;
	if (!await_end(job, 0))
		return job_where(job->pid, job->kind, job->shared, out);
	buffer_text(out, "X %s ended, status 0x%x, value %d\n", job->kind->name, job->status,
		    job->shared->value);
	return 0;
}

int32_t op_reset_jobs(const struct op *op, struct buffer *out)
{
	int32_t value = 0;
	int i;

	(void)op;
	(void)out;
	for (i = 0; i < JOBS; i++) {
		if (!jobs[i].kind || jobs[i].ended)
			continue;
		jobs[i].killed = true;
		kill(jobs[i].pid, SIGKILL);
	}
	for (i = 0; i < JOBS; i++) {
		if (!jobs[i].kind)
			continue;
		if (await_end(&jobs[i], KILL_NS)) {
			forget(&jobs[i]);
			value += value >= 0;
		} else {
			value = -ETIMEDOUT;
		}
	}
	return value;
}
