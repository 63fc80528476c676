/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Jobs: processes of the agent that do something while it serves on.
 *
 * A job is a child that the agent forked. All that it finds out goes to memory
 * that both share: the agent never waits for a child that hangs in the kernel.
 */
#ifndef JOB_H
#define JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct buffer;

#define NO_CPU 0xffffffffu

/* Together they fit a frame, with room for other results of the batch */
#define RECORDS_MAX (512u << 10)
#define TEXT_MAX (40u << 20)

/* One system call of a job, as the host gets it; times are CLOCK_MONOTONIC's, in ns */
struct job_record {
	uint32_t round;
	int32_t value;
	uint64_t begin;
	uint64_t end;
};

struct job_digest {
	uint64_t bytes;
	uint64_t lines;
	uint32_t crc;
};

/* How late a ticker was, and when it was at its worst; ns */
struct job_lateness {
	uint64_t worst;
	uint64_t median;
	uint64_t worst_at;
};

/* Shared with the child; the words of the first group are waited for as futexes */
struct job_shared {
	uint32_t ready;
	uint32_t go;
	uint32_t release;

	uint32_t stop;
	uint32_t held;
	int32_t setup_error;
	int32_t value;

	/* whole files read, or writes made */
	uint32_t rounds;
	/* records that are complete, with their text; the digest of them is digest[count % 2] */
	uint32_t count;
	struct job_digest digest[2];
	struct job_lateness lateness;
	struct job_record records[RECORDS_MAX];
	uint8_t text[TEXT_MAX];
};

/* Interrupts a spinner's read(2): it looks whether it is told to stop */
#define SPINNER_KICK SIGUSR1

enum job_signal {
	JOB_GO = 1,
	JOB_STOP = 2,
	JOB_RELEASE = 3,
	JOB_KILL = 4,
};

struct job_spec;

/* setup: 0 or -errno, done when the start is answered; run: the job's value */
struct job_kind {
	const char *name;
	bool waits_for_go;
	bool realtime;
	int32_t (*setup)(const struct job_spec *spec, struct job_shared *shared);
	int32_t (*run)(const struct job_spec *spec, struct job_shared *shared);
};

struct job_spec {
	const struct job_kind *kind;
	const char *path;
	const uint8_t *data;
	size_t data_len;
	int fd; /* shared with whoever else has it; -1: none */
	uint32_t chunk;
	uint32_t cpu;
	uint32_t rounds;
	bool held;
	bool keep;
	uint32_t interval_us;
	uint32_t milliseconds;
};

extern const struct job_kind job_reader, job_writer, job_spinner, job_ticker;

/* job_child.c: the child's life; false of job_await(): not within timeout_ns, which is 0 for ever */
pid_t job_fork(unsigned int number, struct job_spec *spec, struct job_shared *shared);
int32_t job_where(pid_t pid, const struct job_kind *kind, const struct job_shared *shared,
		  struct buffer *out);
bool job_await(uint32_t *word, uint64_t timeout_ns);
void job_set(uint32_t *word);
bool job_is_set(const uint32_t *word);
uint64_t now_ns(void);

/* job_file.c: false: there is no room for more */
bool job_record(struct job_shared *shared, const struct job_record *record);

/* job_hold.c: let the first that touches this memory wait for release; 0 or -errno */
int32_t hold_memory(void *memory, size_t size, struct job_shared *shared);

/* job_cpu.c: what the kernel must not do any more for a real-time process to keep its cpu */
void stop_throttling(uint32_t cpu);

#endif
