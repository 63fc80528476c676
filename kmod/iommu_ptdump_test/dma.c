// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA by edu. Its 4 KiB buffer can be reached by DMA only, so it is filled and
 * looked at through a domain of our own, made for the moment: the domain under
 * test is not touched and gets no mapping it was not asked for.
 */
#include <linux/crc32.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/string.h>

#include "hw.h"

/* edu's registers, docs/specs/edu.rst of QEMU */
#define EDU_DMA_SRC	0x80
#define EDU_DMA_DST	0x88
#define EDU_DMA_COUNT	0x90
#define EDU_DMA_CMD	0x98
#define EDU_CMD_START	BIT(0)
#define EDU_CMD_TO_RAM	BIT(1)
#define EDU_BUFFER	0x40000
#define EDU_BUFFER_SIZE	4096

#define SCRATCH_IOVA	0x10000000UL	/* any: the domain is ours alone */

/* One transfer: takes 100 ms of the device's time, and never says that it failed */
static int transfer(struct ptt_device *dev, u64 iova, unsigned int len, bool to_ram)
{
	unsigned long end = jiffies + 10 * HZ;

	writeq(to_ram ? EDU_BUFFER : iova, dev->bar + EDU_DMA_SRC);
	writeq(to_ram ? iova : EDU_BUFFER, dev->bar + EDU_DMA_DST);
	writeq(len, dev->bar + EDU_DMA_COUNT);
	writeq(EDU_CMD_START | (to_ram ? EDU_CMD_TO_RAM : 0), dev->bar + EDU_DMA_CMD);

	msleep(100);
	while (readq(dev->bar + EDU_DMA_CMD) & EDU_CMD_START) {
		if (time_after(jiffies, end))
			return -ETIMEDOUT;
		usleep_range(500, 1000);
	}
	return 0;
}

/* What the device moves: differs in every byte for neighbouring seeds */
static void fill_pattern(u8 *data, unsigned int len, u64 seed)
{
	unsigned int i;

	for (i = 0; i < len; i++)
		data[i] = seed * 31 + i * 7 + (i >> 8);
}

/* Move between the device's buffer and @page through a domain made for it */
static int scratch_transfer(struct ptt_device *dev, struct page *page, bool to_ram)
{
	struct iommu_domain *domain;
	int ret;

	domain = iommu_paging_domain_alloc(&dev->pdev->dev);
	if (IS_ERR(domain))
		return PTR_ERR(domain);
	ret = iommu_map(domain, SCRATCH_IOVA, page_to_phys(page), PAGE_SIZE,
			IOMMU_READ | IOMMU_WRITE | IOMMU_CACHE, GFP_KERNEL);
	if (ret)
		goto free;
	ptt_group_pause(dev->group);
	ret = iommu_attach_group(domain, dev->group->group);
	if (!ret) {
		ret = transfer(dev, SCRATCH_IOVA, EDU_BUFFER_SIZE, to_ram);
		iommu_detach_group(domain, dev->group->group);
	}
	ret = ptt_group_resume(dev->group) ?: ret;
free:
	iommu_domain_free(domain);
	return ret;
}

/**
 * ptt_cmd_dma() - dma DEV read|write IOVA LEN [seed=N]
 * @args: words
 * @reply: first bytes and checksum of what the device wrote, or of its buffer
 *	after a read
 *
 * The device's buffer holds the pattern of the seed before either transfer. A
 * fault shows as unchanged memory after a write, as anything but the memory's
 * content after a read (QEMU reads zeros), and as an event in the kernel's log.
 *
 * Return: 0 or -errno.
 */
int ptt_cmd_dma(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_device *dev = ptt_find_device(args->word[1]);
	u64 iova, len, seed = 0;
	struct page *page;
	bool to_ram;
	u8 *data;
	int ret;

	if (!dev)
		return ptt_fail(reply, -ENODEV, "no device %.31s", args->word[1]);
	to_ram = !strcmp(args->word[2], "write");
	if (!to_ram && strcmp(args->word[2], "read"))
		return ptt_fail(reply, -EINVAL, "read or write, not %.31s", args->word[2]);
	ret = ptt_parse_number(args->word[3], &iova);
	if (ret)
		return ptt_fail(reply, ret, "IOVA %.31s is not a number", args->word[3]);
	ret = ptt_parse_number(args->word[4], &len);
	if (ret || !len || len > EDU_BUFFER_SIZE)
		return ptt_fail(reply, ret ?: -ERANGE, "LEN %.31s is not in 1..4096",
				args->word[4]);
	ret = ptt_arg_number(args, PTT_SEED, 0, U64_MAX, &seed, reply);
	if (ret)
		return ret;
	if (!dev->group)
		return ptt_fail(reply, -ENODEV, "%s has no IOMMU", dev->name);

	page = alloc_page(GFP_KERNEL);
	if (!page)
		return -ENOMEM;
	data = page_address(page);
	fill_pattern(data, EDU_BUFFER_SIZE, seed);
	ret = scratch_transfer(dev, page, false);
	if (!ret)
		ret = transfer(dev, iova, len, to_ram);
	if (!ret && !to_ram) {
		memset(data, 0, EDU_BUFFER_SIZE);
		ret = scratch_transfer(dev, page, true);
	}
	if (ret)
		ptt_fail(reply, ret, "the transfer did not end or %s could not be attached again",
			 dev->name);
	else
		ptt_ok(reply, "data=%*phN sum=0x%08x", (int)min_t(u64, len, 16), data,
		       ~crc32_le(~0, data, len));
	__free_page(page);
	return ret;
}
