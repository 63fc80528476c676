// SPDX-License-Identifier: GPL-2.0-only
/* VFIO as it was before iommufd: a group in a container, which has the domain. */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/vfio.h>

#include "owner.h"

void container_drop(struct object *object)
{
	close(object->group);
	close(object->fd);
}

static int set_up(int container, int group, FILE *out)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };

	if (ioctl(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) <= 0)
		return fail(out, EOPNOTSUPP, "no VFIO_TYPE1v2_IOMMU");
	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status))
		return fail(out, errno, "VFIO_GROUP_GET_STATUS");
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		return fail(out, EBUSY, "a device of the group has another driver");
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container))
		return fail(out, errno, "VFIO_GROUP_SET_CONTAINER");
	/* This is what makes the domain */
	if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		return fail(out, errno, "VFIO_SET_IOMMU");
	return 0;
}

int cmd_container(const struct words *w, FILE *out)
{
	struct object *object = object_new(w->word[1], KIND_CONTAINER, out);
	int ret;

	if (!object)
		return -EEXIST;
	object->fd = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	if (object->fd < 0) {
		ret = fail(out, errno, "/dev/vfio/vfio");
		object_free(object);
		return ret;
	}
	object->group = open(w->word[2], O_RDWR | O_CLOEXEC);
	if (object->group < 0)
		ret = fail(out, errno, "%s", w->word[2]);
	else
		ret = set_up(object->fd, object->group, out);
	if (ret) {
		container_drop(object);
		object_free(object);
	}
	return ret;
}
