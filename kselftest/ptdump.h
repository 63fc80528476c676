/* SPDX-License-Identifier: GPL-2.0-only */
/* What the tests of the io_ptdump debugfs interface share. */
#ifndef PTDUMP_H
#define PTDUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PTD_DOMAINS "/sys/kernel/debug/iommu/domains"
#define PTD_SMMU "/sys/kernel/debug/iommu/arm_smmu_v3"
#define PTD_MODULE "/sys/kernel/debug/iommu_ptdump_test"
#define PTD_PATH 512

#ifndef __printf
#define __printf(a, b) __attribute__((format(printf, a, b)))
#endif

/**
 * struct ptd_text - a file's content, with a zero behind it
 * @data: allocated; may be NULL before the first read
 * @len: bytes without the zero
 */
struct ptd_text {
	char *data;
	size_t len;
};

/* ptdump.c */
const char *ptd_missing(void);
void ptd_leave(void);
bool ptd_slow(void);
void ptd_say(const char *fmt, ...) __printf(1, 2);
const char *ptd_errno_name(int error);
int ptd_read(const char *path, struct ptd_text *text);
int ptd_control(const char *script, struct ptd_text *status);
void ptd_free(struct ptd_text *text);
bool ptd_word(const char *line, const char *key, char *value, size_t size);
uint64_t ptd_size(const char *text);
const char *ptd_line(const char *text, unsigned int number, char *line, size_t size);
bool ptd_has_device(const char *name);
long ptd_tainted(void);
uint32_t ptd_crc32(uint32_t crc, const char *data, size_t len);

/* ptdump_access.c: 0, or what is wrong has been said */
int ptd_access(const char *path, const char *action, const char *want);
int ptd_pieces(const char *path, const char *kind, char *numbers);

/**
 * struct ptd_want - what the files of a domain must be
 * @mask: bits of an address in a table item
 * @info: lines without that of top
 * @lines: of page_table [0], entries [1], stats [2]
 * @count: how many lines, where @crc stands for them
 * @crc: of the text, where @summed
 * @summed: there are too many lines for all of them to be known
 */
struct ptd_want {
	uint64_t mask;
	struct ptd_text info;
	struct ptd_text lines[3];
	unsigned int count[3];
	uint32_t crc[3];
	bool summed[3];
};

/* ptdump_check.c: 0, or what is wrong has been said */
int ptd_check(const char *name, const char *id, const struct ptd_want *want);

/* ptdump_lookup.c: 0, or what is wrong has been said */
int ptd_lookup(const char *id, const char *entries);

/* ptdump_stream.c: 0, or what is wrong has been said; 1 where there is no such file system */
int ptd_stream(const char *device, bool present, const char *domain, const char *config);

#endif
