// SPDX-License-Identifier: GPL-2.0-only
/* Mappings of this process's memory, in an IOAS or in a container. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "owner.h"

static struct object *space(const char *name, FILE *out)
{
	struct object *object = object_find(name);

	if (!object || (object->kind != KIND_IOAS && object->kind != KIND_CONTAINER)) {
		fail(out, ENOENT, "no IOAS or container %s", name);
		return NULL;
	}
	return object;
}

static int map_ioas(struct object *ioas, uint64_t iova, uint8_t *start, uint64_t size, bool read,
		    bool write, FILE *out)
{
	struct iommu_ioas_map cmd = {
		.size = sizeof(cmd),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | (read ? IOMMU_IOAS_MAP_READABLE : 0) |
			 (write ? IOMMU_IOAS_MAP_WRITEABLE : 0),
		.ioas_id = ioas->id,
		.user_va = (uintptr_t)start,
		.length = size,
		.iova = iova,
	};

	if (ioctl_that_may_fail(iommufd(out), IOMMU_IOAS_MAP, &cmd))
		return fail(out, errno, "IOMMU_IOAS_MAP");
	return 0;
}

static int map_container(struct object *container, uint64_t iova, uint8_t *start, uint64_t size,
			 bool read, bool write, FILE *out)
{
	struct vfio_iommu_type1_dma_map cmd = {
		.argsz = sizeof(cmd),
		.flags = (read ? VFIO_DMA_MAP_FLAG_READ : 0) |
			 (write ? VFIO_DMA_MAP_FLAG_WRITE : 0),
		.vaddr = (uintptr_t)start,
		.iova = iova,
		.size = size,
	};

	if (ioctl_that_may_fail(container->fd, VFIO_IOMMU_MAP_DMA, &cmd))
		return fail(out, errno, "VFIO_IOMMU_MAP_DMA");
	return 0;
}

int cmd_map(const struct words *w, FILE *out)
{
	struct object *object = space(w->word[1], out);
	uint64_t iova, size;
	uint8_t *start;
	bool read, write;
	int ret;

	if (!object)
		return -ENOENT;
	ret = get_number(w, 2, &iova, out);
	if (!ret)
		ret = memory_range(w, 4, &start, &size, out);
	if (ret)
		return ret;
	read = strchr(w->word[3], 'r');
	write = strchr(w->word[3], 'w');
	if (object->kind == KIND_IOAS)
		return map_ioas(object, iova, start, size, read, write, out);
	return map_container(object, iova, start, size, read, write, out);
}

int cmd_unmap(const struct words *w, FILE *out)
{
	struct object *object = space(w->word[1], out);
	struct vfio_iommu_type1_dma_unmap old = { .argsz = sizeof(old) };
	struct iommu_ioas_unmap cmd = { .size = sizeof(cmd) };
	uint64_t iova, size;
	int ret;

	if (!object)
		return -ENOENT;
	ret = get_number(w, 2, &iova, out);
	if (!ret)
		ret = get_number(w, 3, &size, out);
	if (ret)
		return ret;
	if (object->kind == KIND_IOAS) {
		cmd.ioas_id = object->id;
		cmd.iova = iova;
		cmd.length = size;
		if (ioctl(iommufd(out), IOMMU_IOAS_UNMAP, &cmd))
			return fail(out, errno, "IOMMU_IOAS_UNMAP");
		size = cmd.length;
	} else {
		old.iova = iova;
		old.size = size;
		if (ioctl(object->fd, VFIO_IOMMU_UNMAP_DMA, &old))
			return fail(out, errno, "VFIO_IOMMU_UNMAP_DMA");
		size = old.size;
	}
	fprintf(out, "size=0x%llx", (unsigned long long)size);
	return 0;
}
