// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory mapped for a device as drivers have it done, with the DMA API: in the default
 * domain of its group, which is given back to the kernel meanwhile.
 */
#include <linux/dma-mapping.h>
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "hw.h"

#define MAX_PAGES	8U	/* so that the addresses of all of them are in a reply */

/**
 * struct ptt_shared - one mapping
 * @node: in the list of them
 * @name: as the user calls it
 * @dev: the device that it is for
 * @nr: number of pages
 * @dir: of the transfers
 * @coherent: came from dma_alloc_coherent()
 * @data: the memory
 * @iova: what the device is to be told
 */
struct ptt_shared {
	struct list_head node;
	char name[PTT_NAME_LEN];
	struct ptt_device *dev;
	unsigned int nr;
	enum dma_data_direction dir;
	bool coherent;
	void *data;
	dma_addr_t iova;
};

static LIST_HEAD(shares);

static struct ptt_shared *find_shared(const char *name)
{
	struct ptt_shared *s;

	list_for_each_entry(s, &shares, node)
		if (!strcmp(s->name, name))
			return s;
	return NULL;
}

static int parse_direction(struct ptt_shared *s, const char *text, struct ptt_reply *reply)
{
	s->coherent = !strcmp(text, "coherent");
	if (s->coherent || !strcmp(text, "rw"))
		s->dir = DMA_BIDIRECTIONAL;
	else if (!strcmp(text, "r"))
		s->dir = DMA_TO_DEVICE;
	else if (!strcmp(text, "w"))
		s->dir = DMA_FROM_DEVICE;
	else
		return ptt_fail(reply, -EINVAL, "r, w, rw or coherent, not %.31s", text);
	return 0;
}

static int share(struct ptt_shared *s)
{
	struct device *dev = &s->dev->pdev->dev;
	size_t size = s->nr * PAGE_SIZE;
	int ret = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64));

	if (ret)
		return ret;
	if (s->coherent) {
		s->data = dma_alloc_coherent(dev, size, &s->iova, GFP_KERNEL | __GFP_NOWARN);
		return s->data ? 0 : -ENOMEM;
	}
	s->data = alloc_pages_exact(size, GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN);
	if (!s->data)
		return -ENOMEM;
	s->iova = dma_map_single(dev, s->data, size, s->dir);
	ret = dma_mapping_error(dev, s->iova);
	if (ret)
		free_pages_exact(s->data, size);
	return ret;
}

static int unshare(struct ptt_shared *s)
{
	struct device *dev = &s->dev->pdev->dev;
	size_t size = s->nr * PAGE_SIZE;
	struct ptt_group *group = s->dev->group;

	if (s->coherent) {
		dma_free_coherent(dev, size, s->data, s->iova);
	} else {
		dma_unmap_single(dev, s->iova, size, s->dir);
		free_pages_exact(s->data, size);
	}
	list_del(&s->node);
	kfree(s);
	return ptt_group_take(group);
}

static phys_addr_t address_of(const struct ptt_shared *s, unsigned int nr)
{
	void *at = s->data + nr * PAGE_SIZE;

	return page_to_phys(is_vmalloc_addr(at) ? vmalloc_to_page(at) : virt_to_page(at));
}

static int tell(const struct ptt_shared *s, struct ptt_reply *reply)
{
	char pages[MAX_PAGES * 20];
	unsigned int i, at = 0;

	for (i = 0; i < s->nr; i++)
		at += scnprintf(pages + at, sizeof(pages) - at, "%s0x%llx", i ? "," : "",
				(u64)address_of(s, i));
	return ptt_ok(reply, "iova=0x%llx pages=%s", (u64)s->iova, pages);
}

/**
 * ptt_cmd_share() - share NAME DEV SIZE r|w|rw|coherent
 * @args: words
 * @reply: the IOVA, and the physical address of each page
 *
 * Return: 0 or -errno.
 */
int ptt_cmd_share(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_device *dev = ptt_find_device(args->word[2]);
	struct ptt_shared *s;
	u64 size;
	int ret;

	if (!ptt_name_ok(args->word[1]))
		return ptt_fail(reply, -EINVAL, "%.40s is not a name", args->word[1]);
	if (find_shared(args->word[1]))
		return ptt_fail(reply, -EEXIST, "%s is shared already", args->word[1]);
	if (!dev || !dev->group)
		return ptt_fail(reply, -ENODEV, "no device %.31s with an IOMMU", args->word[2]);
	ret = ptt_parse_number(args->word[3], &size);
	if (ret || !size || size % PAGE_SIZE || size / PAGE_SIZE > MAX_PAGES)
		return ptt_fail(reply, ret ?: -ERANGE, "SIZE %.31s is not 1 to %u pages",
				args->word[3], MAX_PAGES);
	s = kzalloc_obj(*s);
	if (!s)
		return -ENOMEM;
	strscpy(s->name, args->word[1]);
	s->dev = dev;
	s->nr = size / PAGE_SIZE;
	ret = parse_direction(s, args->word[4], reply);
	if (!ret)
		ret = ptt_group_give(dev->group, reply);
	if (ret)
		goto free;
	ret = share(s);
	if (ret) {
		ptt_fail(reply, ret, "the DMA API refused");
		ptt_group_take(dev->group);
		goto free;
	}
	list_add_tail(&s->node, &shares);
	return tell(s, reply);
free:
	kfree(s);
	return ret;
}

/* ptt_cmd_unshare() - unshare NAME */
int ptt_cmd_unshare(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_shared *s = find_shared(args->word[1]);
	int ret;

	if (!s)
		return ptt_fail(reply, -ENOENT, "nothing shared is called %.31s", args->word[1]);
	ret = unshare(s);
	return ret ? ptt_fail(reply, ret, "the kernel does not give the group back") : 0;
}

/* ptt_unshare_all() - what is shared with a device, or with any */
void ptt_unshare_all(const struct ptt_device *dev)
{
	struct ptt_shared *s, *next;

	list_for_each_entry_safe(s, next, &shares, node)
		if (!dev || s->dev == dev)
			unshare(s);
}

static void unshare_everything(void)
{
	ptt_unshare_all(NULL);
}

struct ptt_holder ptt_shared_holder = {
	.before_reset = unshare_everything,
};
