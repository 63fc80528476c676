// SPDX-License-Identifier: GPL-2.0-only
/* Objects of iommufd: address spaces and page tables. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "owner.h"

/* The one /dev/iommu of this process, opened when first needed; it stays open */
int iommufd(FILE *out)
{
	static int fd = -1;

	if (fd < 0)
		fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return fail(out, errno, "/dev/iommu");
	return fd;
}

int iommufd_destroy(uint32_t id, FILE *out)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = id };

	if (ioctl(iommufd(out), IOMMU_DESTROY, &cmd))
		return fail(out, errno, "IOMMU_DESTROY of %u", id);
	return 0;
}

/* Give what the kernel made a name; it goes again when the name is refused */
static int keep(const char *name, enum kind kind, uint32_t id, FILE *out)
{
	struct object *object = object_new(name, kind, out);

	if (!object) {
		iommufd_destroy(id, out);
		return -EEXIST;
	}
	object->id = id;
	fprintf(out, "id=%u", id);
	return 0;
}

int cmd_ioas(const struct words *w, FILE *out)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };
	int fd = iommufd(out);

	if (fd < 0)
		return fd;
	if (ioctl(fd, IOMMU_IOAS_ALLOC, &cmd))
		return fail(out, errno, "IOMMU_IOAS_ALLOC");
	return keep(w->word[1], KIND_IOAS, cmd.out_ioas_id, out);
}

static int hwpt_alloc(const char *name, struct iommu_hwpt_alloc *cmd, FILE *out)
{
	int fd = iommufd(out);

	if (fd < 0)
		return fd;
	if (ioctl(fd, IOMMU_HWPT_ALLOC, cmd))
		return fail(out, errno, "IOMMU_HWPT_ALLOC");
	return keep(name, KIND_HWPT, cmd->out_hwpt_id, out);
}

int cmd_hwpt(const struct words *w, FILE *out)
{
	struct object *device = object_of(w->word[2], KIND_DEVICE, out);
	struct object *ioas = device ? object_of(w->word[3], KIND_IOAS, out) : NULL;
	struct iommu_hwpt_alloc cmd = { .size = sizeof(cmd) };
	int i;

	if (!ioas)
		return -ENOENT;
	cmd.dev_id = device->id;
	cmd.pt_id = ioas->id;
	for (i = 4; i < w->count; i++) {
		if (!strcmp(w->word[i], "nest-parent"))
			cmd.flags |= IOMMU_HWPT_ALLOC_NEST_PARENT;
		else if (!strcmp(w->word[i], "dirty"))
			cmd.flags |= IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
#ifdef VFIO_DEVICE_ATTACH_PASID	/* younger than the flag, which is no macro */
		else if (!strcmp(w->word[i], "pasid"))
			cmd.flags |= IOMMU_HWPT_ALLOC_PASID;
#endif
		else
			return fail(out, EINVAL, "no flag %s", w->word[i]);
	}
	return hwpt_alloc(w->word[1], &cmd, out);
}

#ifdef IOMMU_VIOMMU_ALLOC
int cmd_viommu(const struct words *w, FILE *out)
{
	struct object *device = object_of(w->word[2], KIND_DEVICE, out);
	struct object *parent = device ? object_of(w->word[3], KIND_HWPT, out) : NULL;
	struct iommu_viommu_alloc cmd = {
		.size = sizeof(cmd),
		.type = IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
	};

	if (!parent)
		return -ENOENT;
	cmd.dev_id = device->id;
	cmd.hwpt_id = parent->id;
	if (ioctl(iommufd(out), IOMMU_VIOMMU_ALLOC, &cmd))
		return fail(out, errno, "IOMMU_VIOMMU_ALLOC");
	return keep(w->word[1], KIND_VIOMMU, cmd.out_viommu_id, out);
}

/* A nested table of SMMUv3 whose stage 1 is a bypass: all its translation is the parent's */
int cmd_nested(const struct words *w, FILE *out)
{
	struct object *device = object_of(w->word[2], KIND_DEVICE, out);
	struct object *parent = device ? object_of(w->word[3], KIND_VIOMMU, out) : NULL;
	struct iommu_hwpt_arm_smmuv3 ste = { .ste = { 1 | 4 << 1 } };
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.data_type = IOMMU_HWPT_DATA_ARM_SMMUV3,
		.data_len = sizeof(ste),
		.data_uptr = (uintptr_t)&ste,
	};

	if (!parent)
		return -ENOENT;
	cmd.dev_id = device->id;
	cmd.pt_id = parent->id;
	return hwpt_alloc(w->word[1], &cmd, out);
}
#else
int cmd_viommu(const struct words *w, FILE *out)
{
	return fail(out, ENOTTY, "%s: built for a kernel without vIOMMUs", w->word[0]);
}

int cmd_nested(const struct words *w, FILE *out)
{
	return fail(out, ENOTTY, "%s: built for a kernel without vIOMMUs", w->word[0]);
}
#endif

#ifdef IOMMU_IOAS_NOIOMMU_GET_PA
/* What the kernel says an IOVA of a device without an IOMMU is */
int cmd_translate(const struct words *w, FILE *out)
{
	struct object *ioas = object_of(w->word[1], KIND_IOAS, out);
	struct iommu_ioas_noiommu_get_pa cmd = { .size = sizeof(cmd), .length = UINT64_MAX };
	uint64_t iova;
	int ret;

	if (!ioas)
		return -ENOENT;
	ret = get_number(w, 2, &iova, out);
	if (ret)
		return ret;
	cmd.ioas_id = ioas->id;
	cmd.iova = iova;
	if (ioctl(iommufd(out), IOMMU_IOAS_NOIOMMU_GET_PA, &cmd))
		return fail(out, errno, "IOMMU_IOAS_NOIOMMU_GET_PA");
	fprintf(out, "pa=0x%llx length=0x%llx", (unsigned long long)cmd.out_phys,
		(unsigned long long)cmd.length);
	return 0;
}
#else
int cmd_translate(const struct words *w, FILE *out)
{
	return fail(out, ENOTTY, "%s: built for a kernel that does not tell", w->word[0]);
}
#endif
