// SPDX-License-Identifier: GPL-2.0-only
/* A device's registers in an IOAS: what is no memory, iommufd takes as a dma-buf of VFIO alone. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "owner.h"

#if defined(VFIO_DEVICE_FEATURE_DMA_BUF) && defined(IOMMU_IOAS_MAP_FILE)
static int export(int device, uint32_t index, uint64_t size, FILE *out)
{
	size_t bytes = sizeof(struct vfio_device_feature) +
		       sizeof(struct vfio_device_feature_dma_buf) +
		       sizeof(struct vfio_region_dma_range);
	struct vfio_device_feature *feature = calloc(1, bytes);
	struct vfio_device_feature_dma_buf *wanted;
	int fd;

	if (!feature)
		return fail(out, ENOMEM, "calloc");
	feature->argsz = bytes;
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;
	wanted = (void *)feature->data;
	wanted->region_index = index;
	wanted->open_flags = O_RDWR | O_CLOEXEC;
	wanted->nr_ranges = 1;
	wanted->dma_ranges[0].length = size;
	fd = ioctl(device, VFIO_DEVICE_FEATURE, feature);
	if (fd < 0)
		fd = fail(out, errno, "VFIO_DEVICE_FEATURE_DMA_BUF");
	free(feature);
	return fd;
}

/* map-bar IOAS IOVA r|w|rw DEVICE INDEX SIZE: from the beginning of the BAR */
int cmd_map_bar(const struct words *w, FILE *out)
{
	struct object *ioas = object_of(w->word[1], KIND_IOAS, out);
	struct object *device = ioas ? object_of(w->word[4], KIND_DEVICE, out) : NULL;
	struct iommu_ioas_map_file cmd = {
		.size = sizeof(cmd),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA,
	};
	uint64_t iova, index, size;
	int ret;

	if (!device)
		return -ENOENT;
	ret = get_number(w, 2, &iova, out);
	if (!ret)
		ret = get_number(w, 5, &index, out);
	if (!ret)
		ret = get_number(w, 6, &size, out);
	if (ret)
		return ret;
	if (strchr(w->word[3], 'r'))
		cmd.flags |= IOMMU_IOAS_MAP_READABLE;
	if (strchr(w->word[3], 'w'))
		cmd.flags |= IOMMU_IOAS_MAP_WRITEABLE;
	cmd.ioas_id = ioas->id;
	cmd.iova = iova;
	cmd.length = size;
	cmd.fd = export(device->fd, index, size, out);
	if (cmd.fd < 0)
		return cmd.fd;
	if (ioctl(iommufd(out), IOMMU_IOAS_MAP_FILE, &cmd))
		ret = fail(out, errno, "IOMMU_IOAS_MAP_FILE");
	/* the mapping holds it */
	close(cmd.fd);
	return ret;
}
#else
int cmd_map_bar(const struct words *w, FILE *out)
{
	return fail(out, ENOTTY, "%s: built for a kernel without dma-bufs of VFIO", w->word[0]);
}
#endif
