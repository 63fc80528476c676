/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The guest's agent: runs batches of operations for the host.
 *
 * Frames, little endian, over a byte stream: u32 magic, u32 type, u32 seq,
 * u32 len, then len bytes. The agent speaks first (HELLO). See channel.py and
 * ops.py for the host's side of the same.
 */
#ifndef AGENT_H
#define AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define AGENT_PROTOCOL 1
#define FRAME_MAGIC 0x54504d49u /* "IMPT" */
#define FRAME_HEAD 16
#define FRAME_MAX (64u << 20)

enum frame_type {
	FRAME_HELLO = 1,
	FRAME_BATCH = 2,
	FRAME_REPLY = 3,
	FRAME_ERROR = 4,
};

/* One byte more of zlib's crc32, whose value is inverted at both ends */
static inline uint32_t crc32_byte(uint32_t crc, uint8_t byte)
{
	crc ^= byte;
	for (int bit = 0; bit < 8; bit++)
		crc = crc & 1 ? 0xedb88320u ^ crc >> 1 : crc >> 1;
	return crc;
}

/* Bytes that grow; all growth ends the agent when memory is out */
struct buffer {
	uint8_t *data;
	size_t len;
	size_t size;
};

void buffer_reserve(struct buffer *b, size_t more);
void buffer_add(struct buffer *b, const void *data, size_t len);
void buffer_u32(struct buffer *b, uint32_t value);
void buffer_set_u32(struct buffer *b, size_t at, uint32_t value);
void buffer_text(struct buffer *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
uint32_t get_u32(const uint8_t *p);
uint64_t get_u64(const uint8_t *p);

/* agent.c: where replies go; what writes to it in between has to be expected by the host */
extern int host_fd;

/* One operation of a batch; path ends in a zero, data does not */
struct op {
	uint32_t code;
	uint32_t a;
	uint32_t b;
	const char *path;
	const uint8_t *data;
	size_t data_len;
};

/* An operation's handler: adds its data to out, returns the value or -errno */
typedef int32_t (*op_fn)(const struct op *op, struct buffer *out);

/* ops.c: run a batch and put the reply's payload into out; false: malformed */
bool run_batch(const uint8_t *payload, size_t len, struct buffer *out);

/* ops_file.c */
int32_t op_read_file(const struct op *op, struct buffer *out);
int32_t op_write_file(const struct op *op, struct buffer *out);
int32_t op_open(const struct op *op, struct buffer *out);
int32_t op_read(const struct op *op, struct buffer *out);
int32_t op_pread(const struct op *op, struct buffer *out);
int32_t op_lseek(const struct op *op, struct buffer *out);
int32_t op_write(const struct op *op, struct buffer *out);
int32_t op_pwrite(const struct op *op, struct buffer *out);
int32_t op_close(const struct op *op, struct buffer *out);
int32_t op_ioctl(const struct op *op, struct buffer *out);
int32_t op_parallel_read(const struct op *op, struct buffer *out);
int fd_of_slot(uint32_t slot);
int32_t read_to_end(const char *path, size_t chunk, size_t max, struct buffer *out);

/* ops_tree.c */
int32_t op_list(const struct op *op, struct buffer *out);
int32_t op_stat(const struct op *op, struct buffer *out);
int32_t op_readlink(const struct op *op, struct buffer *out);
int32_t op_mkdir(const struct op *op, struct buffer *out);
int32_t op_mount(const struct op *op, struct buffer *out);

/* ops_system.c */
int32_t op_insmod(const struct op *op, struct buffer *out);
int32_t op_rmmod(const struct op *op, struct buffer *out);
int32_t op_poweroff(const struct op *op, struct buffer *out);
int32_t op_run(const struct op *op, struct buffer *out);
int32_t op_sleep(const struct op *op, struct buffer *out);
int32_t load_module(const char *path, const char *params);
int64_t now_ms(void);
int32_t value_of(int status);

/* ops_job.c */
int32_t op_start_reader(const struct op *op, struct buffer *out);
int32_t op_start_writer(const struct op *op, struct buffer *out);
int32_t op_start_spinner(const struct op *op, struct buffer *out);
int32_t op_start_ticker(const struct op *op, struct buffer *out);
int32_t op_signal_job(const struct op *op, struct buffer *out);
int32_t op_wait_job(const struct op *op, struct buffer *out);
int32_t op_job_state(const struct op *op, struct buffer *out);
int32_t op_reset_jobs(const struct op *op, struct buffer *out);
int32_t op_close_all(const struct op *op, struct buffer *out);
int32_t op_await_rounds(const struct op *op, struct buffer *out);
void job_ended(pid_t pid, int status);

/* kmsg.c */
void kmsg_open(bool from_boot);
void kmsg_read(struct buffer *out, size_t max, const char *prefix);
uint32_t read_taint(void);

/* init.c: what pid 1 does before it serves */
void init_system(struct buffer *errors);
int open_port(void);
void reap_children(void);

#endif
