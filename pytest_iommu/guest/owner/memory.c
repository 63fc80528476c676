// SPDX-License-Identifier: GPL-2.0-only
/* Memory to map, and where it is. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "owner.h"

#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_PFN ((1ULL << 55) - 1)

void memory_drop(struct object *object)
{
	munmap(object->memory, object->size);
}

/* Locked, so that its pages are there and stay where they are */
int cmd_memory(const struct words *w, FILE *out)
{
	uint64_t size;
	struct object *object;
	int ret = get_number(w, 2, &size, out);
	void *memory;

	if (ret)
		return ret;
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return fail(out, errno, "mmap of %s bytes", w->word[2]);
	memset(memory, 0x5a, size);
	if (mlock(memory, size)) {
		ret = fail(out, errno, "mlock of %s bytes", w->word[2]);
		munmap(memory, size);
		return ret;
	}
	object = object_new(w->word[1], KIND_MEMORY, out);
	if (!object) {
		munmap(memory, size);
		return -EEXIST;
	}
	object->memory = memory;
	object->size = size;
	return 0;
}

/* "MEMORY [OFFSET SIZE]" at word at: the part of it, all of it without numbers */
int memory_range(const struct words *w, int at, uint8_t **start, uint64_t *size, FILE *out)
{
	struct object *object = object_of(w->word[at], KIND_MEMORY, out);
	uint64_t offset = 0;
	int ret = 0;

	if (!object)
		return -ENOENT;
	*size = object->size;
	if (w->count > at + 1) {
		ret = get_number(w, at + 1, &offset, out);
		if (!ret)
			ret = get_number(w, at + 2, size, out);
	}
	if (ret)
		return ret;
	if (offset > object->size || *size > object->size - offset)
		return fail(out, ERANGE, "%s has 0x%zx bytes", object->name, object->size);
	*start = object->memory + offset;
	return 0;
}

/* The physical address of each page, in order (CAP_SYS_ADMIN, CONFIG_PROC_PAGE_MONITOR) */
int cmd_pages(const struct words *w, FILE *out)
{
	struct object *object = object_of(w->word[1], KIND_MEMORY, out);
	size_t page = sysconf(_SC_PAGESIZE), at;
	int fd;

	if (!object)
		return -ENOENT;
	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fail(out, errno, "/proc/self/pagemap");
	fprintf(out, "page=%zu pages=", page);
	for (at = 0; at < object->size; at += page) {
		off_t where = ((uintptr_t)object->memory + at) / page * sizeof(uint64_t);
		uint64_t item = 0;

		if (pread(fd, &item, sizeof(item), where) != sizeof(item) ||
		    !(item & PAGEMAP_PRESENT) || !(item & PAGEMAP_PFN)) {
			close(fd);
			return fail(out, EPERM, " not told of page 0x%zx", at);
		}
		fprintf(out, "%s0x%llx", at ? "," : "",
			(unsigned long long)((item & PAGEMAP_PFN) * page));
	}
	close(fd);
	return 0;
}
