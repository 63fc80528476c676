// SPDX-License-Identifier: GPL-2.0-only
/* What has a name: a list, the newest first, which is the order to drop things in. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "owner.h"

static struct object *objects;

static const char *const kind_names[] = {
	[KIND_MEMORY] = "memory",
	[KIND_IOAS] = "IOAS",
	[KIND_HWPT] = "HWPT",
	[KIND_VIOMMU] = "vIOMMU",
	[KIND_DEVICE] = "device",
	[KIND_CONTAINER] = "container",
	[KIND_READER] = "reader",
};

struct object *object_find(const char *name)
{
	struct object *object = objects;

	while (object && strcmp(object->name, name))
		object = object->next;
	return object;
}

/* NULL when there is none, or it is something else; out says so */
struct object *object_of(const char *name, enum kind kind, FILE *out)
{
	struct object *object = object_find(name);

	if (!object || object->kind != kind) {
		fail(out, ENOENT, "no %s %s", kind_names[kind], name);
		return NULL;
	}
	return object;
}

/* NULL when the name is taken or cannot be one; out says so */
struct object *object_new(const char *name, enum kind kind, FILE *out)
{
	struct object *object;

	if (strlen(name) >= NAME_SIZE || object_find(name)) {
		fail(out, EEXIST, "%s is too long or taken", name);
		return NULL;
	}
	object = calloc(1, sizeof(*object));
	if (!object)
		abort();
	memcpy(object->name, name, strlen(name) + 1);
	object->kind = kind;
	object->fd = -1;
	object->group = -1;
	object->next = objects;
	objects = object;
	return object;
}

void object_free(struct object *object)
{
	struct object **at = &objects;

	while (*at != object)
		at = &(*at)->next;
	*at = object->next;
	free(object);
}

static int drop(struct object *object, FILE *out)
{
	int ret = 0;

	switch (object->kind) {
	case KIND_MEMORY:
		memory_drop(object);
		break;
	case KIND_IOAS:
	case KIND_HWPT:
	case KIND_VIOMMU:
		ret = iommufd_destroy(object->id, out);
		break;
	case KIND_DEVICE:
		device_drop(object);
		break;
	case KIND_CONTAINER:
		container_drop(object);
		break;
	case KIND_READER:
		reader_drop(object);
		break;
	}
	if (!ret)
		object_free(object);
	return ret;
}

int cmd_drop(const struct words *w, FILE *out)
{
	struct object *object = object_find(w->word[1]);

	if (!object)
		return fail(out, ENOENT, "nothing is named %s", w->word[1]);
	return drop(object, out);
}

void drop_all(void)
{
	struct object *object;
	bool again = true;

	/*
	 * An IOAS made before the device that is attached to it is refused
	 * while that is there: dropped in the next round.
	 */
	while (objects && again) {
		again = false;
		for (object = objects; object;) {
			struct object *next = object->next;

			again = !drop(object, stderr) || again;
			object = next;
		}
	}
}
