// SPDX-License-Identifier: GPL-2.0-only
/* A VFIO device as a character device of its own, bound to this process's iommufd. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "owner.h"

/* Closing detaches and unbinds */
void device_drop(struct object *object)
{
	close(object->fd);
}

int cmd_device(const struct words *w, FILE *out)
{
	struct vfio_device_bind_iommufd bind = { .argsz = offsetof(typeof(bind), out_devid) + 4 };
	struct object *object;
	int ret = iommufd(out), fd;

	if (ret < 0)
		return ret;
	bind.iommufd = ret;
	fd = open(w->word[2], O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return fail(out, errno, "%s", w->word[2]);
	if (ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, &bind)) {
		ret = fail(out, errno, "VFIO_DEVICE_BIND_IOMMUFD");
		close(fd);
		return ret;
	}
	object = object_new(w->word[1], KIND_DEVICE, out);
	if (!object) {
		close(fd);
		return -EEXIST;
	}
	object->fd = fd;
	object->id = bind.out_devid;
	fprintf(out, "id=%u", object->id);
	return 0;
}

/* The PASID that may follow at word at; ENOTTY where the headers have none */
static int pasid(const struct words *w, int at, uint64_t *value, FILE *out)
{
	if (at >= w->count)
		return 0;
#ifndef VFIO_DEVICE_ATTACH_PASID
	return fail(out, ENOTTY, "built for a kernel without PASIDs");
#endif
	return get_number(w, at, value, out);
}

/* The kernel makes a page table when an IOAS is attached that has none for this IOMMU */
int cmd_attach(const struct words *w, FILE *out)
{
	struct object *device = object_of(w->word[1], KIND_DEVICE, out);
	struct object *table = object_find(w->word[2]);
	struct vfio_device_attach_iommufd_pt cmd = {};
	uint64_t number = 0;
	int ret = pasid(w, 3, &number, out);

	if (ret)
		return ret;
	if (!device)
		return -ENOENT;
	if (!table || (table->kind != KIND_IOAS && table->kind != KIND_HWPT))
		return fail(out, ENOENT, "no IOAS or HWPT %s", w->word[2]);
	cmd.argsz = sizeof(cmd);
	cmd.pt_id = table->id;
#ifdef VFIO_DEVICE_ATTACH_PASID
	if (w->count > 3)
		cmd.flags = VFIO_DEVICE_ATTACH_PASID;
	cmd.pasid = number;
#endif
	if (ioctl(device->fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &cmd))
		return fail(out, errno, "VFIO_DEVICE_ATTACH_IOMMUFD_PT");
	fprintf(out, "id=%u", cmd.pt_id);
	return 0;
}

int cmd_detach(const struct words *w, FILE *out)
{
	struct object *device = object_of(w->word[1], KIND_DEVICE, out);
	struct vfio_device_detach_iommufd_pt cmd = {};
	uint64_t number = 0;
	int ret = pasid(w, 2, &number, out);

	if (ret)
		return ret;
	if (!device)
		return -ENOENT;
	cmd.argsz = sizeof(cmd);
#ifdef VFIO_DEVICE_DETACH_PASID
	if (w->count > 2)
		cmd.flags = VFIO_DEVICE_DETACH_PASID;
	cmd.pasid = number;
#endif
	if (ioctl(device->fd, VFIO_DEVICE_DETACH_IOMMUFD_PT, &cmd))
		return fail(out, errno, "VFIO_DEVICE_DETACH_IOMMUFD_PT");
	return 0;
}

/* What the device's IOMMU can do, as far as every driver says it */
int cmd_hw_info(const struct words *w, FILE *out)
{
	struct object *device = object_of(w->word[1], KIND_DEVICE, out);
	struct iommu_hw_info cmd = { .size = sizeof(cmd) };
	uint32_t data[64] = {};
	size_t i;

	if (!device)
		return -ENOENT;
	cmd.dev_id = device->id;
	cmd.data_len = sizeof(data);
	cmd.data_uptr = (uintptr_t)data;
	if (ioctl(iommufd(out), IOMMU_GET_HW_INFO, &cmd))
		return fail(out, errno, "IOMMU_GET_HW_INFO");
	fprintf(out, "type=%u capabilities=0x%llx", cmd.out_data_type,
		(unsigned long long)cmd.out_capabilities);
#ifdef VFIO_DEVICE_ATTACH_PASID
	fprintf(out, " pasid-bits=%u", cmd.out_max_pasid_log2);
#endif
	if (cmd.data_len)
		fprintf(out, " data=");
	for (i = 0; i < cmd.data_len / 4 && i < 64; i++)
		fprintf(out, "%s%08x", i ? "," : "", data[i]);
	return 0;
}
