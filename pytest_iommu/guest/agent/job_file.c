// SPDX-License-Identifier: GPL-2.0-only
/* Jobs that read and write files, every system call with its times. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"
#include "job.h"

#define CHUNK 65536u
/* What a job without end needs at least for the room it has */
#define ROOM_NS 60000000000ull

static uint8_t *memory;
static size_t text_len;
static uint64_t total;
static uint32_t crc_table[256];

static int32_t clamp(uint64_t bytes)
{
	return bytes > INT32_MAX ? INT32_MAX : bytes;
}

/* What belongs to the record is in place before it counts: the agent may look at any time */
bool job_record(struct job_shared *shared, const struct job_record *record)
{
	if (shared->count >= RECORDS_MAX)
		return false;
	shared->records[shared->count] = *record;
	__atomic_store_n(&shared->count, shared->count + 1, __ATOMIC_RELEASE);
	return true;
}

static void make_crc_table(void)
{
	for (unsigned int i = 0; i < 256; i++)
		crc_table[i] = crc32_byte(0, i);
}

/* The digest so far stays what it is for who looks before the next record counts */
static void add_to_digest(struct job_shared *shared, const uint8_t *text, size_t len)
{
	const struct job_digest *old = &shared->digest[shared->count % 2];
	struct job_digest *new = &shared->digest[(shared->count + 1) % 2];
	uint32_t crc = ~old->crc;
	uint64_t lines = 0;

	for (size_t i = 0; i < len; i++) {
		crc = crc_table[(crc ^ text[i]) & 0xff] ^ crc >> 8;
		lines += text[i] == '\n';
	}
	*new = (struct job_digest){ old->bytes + len, old->lines + lines, ~crc };
}

/* The time for which a job without end has used its room */
static uint64_t room_used(const struct job_shared *shared)
{
	uint64_t records = shared->count * ROOM_NS / RECORDS_MAX;
	uint64_t text = text_len * ROOM_NS / TEXT_MAX;

	return records > text ? records : text;
}

/*
 * A job without end must last until what it is to overlap with has begun, which
 * a busy machine may put off. So it slows down when half of its room is used.
 */
static void pace(const struct job_spec *spec, struct job_shared *shared, uint64_t used_before)
{
	uint64_t used = room_used(shared);

	if (!spec->rounds && used > ROOM_NS / 2 && used > used_before)
		(void)job_await(&shared->stop, used - used_before);
}

static int32_t reader_setup(const struct job_spec *spec, struct job_shared *shared)
{
	memory = mmap(NULL, spec->chunk, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return -errno;
	make_crc_table();
	if (spec->held)
		return hold_memory(memory, spec->chunk, shared);
	/* touched: readers meet in the file, not in the memory management */
	memset(memory, 1, spec->chunk);
	return 0;
}

static bool is_directory(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && S_ISDIR(st.st_mode);
}

/* One read(2), or getdents64(2) of a directory; what it returns, or -errno, also without room for its result */
static int32_t read_once(const struct job_spec *spec, struct job_shared *shared, int fd,
			 bool directory, uint32_t round)
{
	struct job_record record = { .round = round };
	ssize_t n;

	record.begin = now_ns();
	do
		n = directory ? syscall(SYS_getdents64, fd, memory, spec->chunk) :
				read(fd, memory, spec->chunk);
	while (n < 0 && errno == EINTR);
	record.value = n < 0 ? -errno : n;
	record.end = now_ns();

	n = n < 0 ? 0 : n;
	if (!spec->keep) {
		add_to_digest(shared, memory, n);
	} else {
		if (text_len + n > TEXT_MAX)
			return -EMSGSIZE;
		memcpy(shared->text + text_len, memory, n);
		text_len += n;
	}
	if (!job_record(shared, &record))
		return -EMSGSIZE;
	total += n;
	return record.value;
}

static int32_t reader_run(const struct job_spec *spec, struct job_shared *shared)
{
	for (uint32_t round = 0; !spec->rounds || round < spec->rounds; round++) {
		uint64_t used = room_used(shared);
		bool directory;
		int32_t n;
		int fd;

		if (job_is_set(&shared->stop))
			break;
		fd = spec->fd >= 0 ? spec->fd : open(spec->path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		directory = is_directory(fd);
		do
			n = read_once(spec, shared, fd, directory, round);
		while (n > 0);
		close(fd);
		if (n < 0)
			return n;
		__atomic_store_n(&shared->rounds, round + 1, __ATOMIC_RELEASE);
		pace(spec, shared, used);
	}
	return clamp(total);
}

static int32_t writer_setup(const struct job_spec *spec, struct job_shared *shared)
{
	(void)spec;
	(void)shared;
	return 0;
}

/* One write(2) of a file that is opened for it; the value of that, or -errno */
static int32_t write_once(const struct job_spec *spec, struct job_shared *shared, uint32_t round)
{
	struct job_record record = { .round = round };
	int fd = open(spec->path, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	record.begin = now_ns();
	n = write(fd, spec->data, spec->data_len);
	record.value = n < 0 ? -errno : clamp(n);
	record.end = now_ns();
	if (close(fd) < 0 && record.value >= 0)
		record.value = -errno;
	if (!job_record(shared, &record))
		return -EMSGSIZE;
	return record.value;
}

static int32_t writer_run(const struct job_spec *spec, struct job_shared *shared)
{
	int32_t value = 0;

	for (uint32_t round = 0; !spec->rounds || round < spec->rounds; round++) {
		uint64_t used = room_used(shared);

		/* one that is told to stop before it began has its first round, as its commands may be awaited */
		if (round && job_is_set(&shared->stop))
			break;
		value = write_once(spec, shared, round);
		if (value < 0)
			return value;
		__atomic_store_n(&shared->rounds, round + 1, __ATOMIC_RELEASE);
		pace(spec, shared, used);
	}
	return value;
}

const struct job_kind job_reader = { "reader", false, false, reader_setup, reader_run };
const struct job_kind job_writer = { "writer", false, false, writer_setup, writer_run };
