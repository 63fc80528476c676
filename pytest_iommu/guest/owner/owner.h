/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * iommu-owner: makes and holds iommu domains from user space, through VFIO's
 * type1 container and through iommufd, as lines of text say. README.md has the
 * commands.
 *
 * Every command answers one line: "ok key=value ..." or "error ERRNO message".
 */
#ifndef OWNER_H
#define OWNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define MAX_WORDS 16
#define NAME_SIZE 32
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

enum kind {
	KIND_MEMORY,
	KIND_IOAS,
	KIND_HWPT,
	KIND_VIOMMU,
	KIND_DEVICE,
	KIND_CONTAINER,
	KIND_READER,
};

/* Whatever a command made and gave a name; which fields count depends on the kind */
struct object {
	char name[NAME_SIZE];
	enum kind kind;
	/* KIND_MEMORY */
	uint8_t *memory;
	size_t size;
	/* what iommufd calls it: KIND_IOAS, KIND_HWPT, KIND_VIOMMU, KIND_DEVICE */
	uint32_t id;
	/* KIND_DEVICE, KIND_CONTAINER */
	int fd;
	/* KIND_CONTAINER */
	int group;
	/* KIND_READER */
	int pid;
	struct object *next;
};

/* One command's words; the first is the command */
struct words {
	int count;
	char *word[MAX_WORDS + 1];
};

/* Runs a command: 0 with "key=value ..." in out, or -errno with a message in out */
typedef int command_fn(const struct words *w, FILE *out);

/* command.c */
bool run_line(char *line, FILE *out);
int fail(FILE *out, int error, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int get_number(const struct words *w, int at, uint64_t *value, FILE *out);

/* object.c */
struct object *object_new(const char *name, enum kind kind, FILE *out);
void object_free(struct object *object);
struct object *object_find(const char *name);
struct object *object_of(const char *name, enum kind kind, FILE *out);
void drop_all(void);
command_fn cmd_drop;

/* memory.c */
int memory_range(const struct words *w, int at, uint8_t **start, uint64_t *size, FILE *out);
void memory_drop(struct object *object);
command_fn cmd_memory;
command_fn cmd_pages;

/* iommufd.c */
int iommufd(FILE *out);
int iommufd_destroy(uint32_t id, FILE *out);
command_fn cmd_ioas;
command_fn cmd_hwpt;
command_fn cmd_viommu;
command_fn cmd_nested;
command_fn cmd_translate;

/* device.c */
void device_drop(struct object *object);
command_fn cmd_device;
command_fn cmd_attach;
command_fn cmd_detach;
command_fn cmd_hw_info;

/* container.c */
void container_drop(struct object *object);
command_fn cmd_container;

/* mapping.c */
command_fn cmd_map;
command_fn cmd_unmap;

/* inject.c */
int ioctl_that_may_fail(int fd, unsigned long request, void *argument);
command_fn cmd_fail;

/* bar.c */
command_fn cmd_map_bar;

/* reader.c */
void reader_drop(struct object *object);
command_fn cmd_reader;

/* serve.c */
int serve(const char *directory);
int tell(const char *directory, char **lines);

#endif
