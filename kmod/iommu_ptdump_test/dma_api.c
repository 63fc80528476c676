// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory mapped for a device as drivers have it done, with the DMA API: in the default
 * domain of its group, which is given back to the kernel meanwhile.
 */
#include <linux/dma-mapping.h>
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
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
 * @size: in bytes
 * @at: offset of its first byte in the first page
 * @nr: number of pages that it touches
 * @dir: of the transfers
 * @coherent: came from dma_alloc_coherent()
 * @apart: each page is a piece of its own, and the one behind it in memory is not mapped
 * @data: the memory, NULL for registers
 * @registers: physical address of the other device's registers
 * @pieces: what is mapped if @apart
 * @iova: what the device is to be told
 */
struct ptt_shared {
	struct list_head node;
	char name[PTT_NAME_LEN];
	struct ptt_device *dev;
	size_t size;
	unsigned int at;
	unsigned int nr;
	enum dma_data_direction dir;
	bool coherent;
	bool apart;
	void *data;
	phys_addr_t registers;
	struct sg_table pieces;
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

/* Bytes from the beginning of one page that is mapped to that of the next */
static size_t stride(const struct ptt_shared *s)
{
	return s->apart ? 2 * PAGE_SIZE : PAGE_SIZE;
}

static size_t data_size(const struct ptt_shared *s)
{
	return s->nr * stride(s);
}

static struct page *page_of(const struct ptt_shared *s, unsigned int nr)
{
	void *at = s->data + nr * stride(s);

	return is_vmalloc_addr(at) ? vmalloc_to_page(at) : virt_to_page(at);
}

static phys_addr_t address_of(const struct ptt_shared *s, unsigned int nr)
{
	return s->data ? page_to_phys(page_of(s, nr)) : s->registers + nr * PAGE_SIZE;
}

static int map_pieces(struct ptt_shared *s, struct device *dev)
{
	size_t left = s->size;
	struct scatterlist *sg;
	unsigned int i;
	int ret = sg_alloc_table(&s->pieces, s->nr, GFP_KERNEL | __GFP_NOWARN);

	if (ret)
		return ret;
	for_each_sgtable_sg(&s->pieces, sg, i) {
		unsigned int at = i ? 0 : s->at;
		unsigned int len = min_t(size_t, left, PAGE_SIZE - at);

		sg_set_page(sg, page_of(s, i), len, at);
		left -= len;
	}
	ret = dma_map_sgtable(dev, &s->pieces, s->dir, 0);
	if (ret)
		sg_free_table(&s->pieces);
	else
		s->iova = sg_dma_address(s->pieces.sgl);
	return ret;
}

static int share(struct ptt_shared *s)
{
	struct device *dev = &s->dev->pdev->dev;
	int ret = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64));

	if (ret)
		return ret;
	if (s->registers) {
		s->iova = dma_map_resource(dev, s->registers, s->size, s->dir, 0);
		return dma_mapping_error(dev, s->iova);
	}
	if (s->coherent) {
		s->data = dma_alloc_coherent(dev, s->size, &s->iova, GFP_KERNEL | __GFP_NOWARN);
		return s->data ? 0 : -ENOMEM;
	}
	s->data = alloc_pages_exact(data_size(s), GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN);
	if (!s->data)
		return -ENOMEM;
	if (s->apart) {
		ret = map_pieces(s, dev);
	} else {
		s->iova = dma_map_single(dev, s->data + s->at, s->size, s->dir);
		ret = dma_mapping_error(dev, s->iova);
	}
	if (ret)
		free_pages_exact(s->data, data_size(s));
	return ret;
}

static int unshare(struct ptt_shared *s)
{
	struct device *dev = &s->dev->pdev->dev;
	struct ptt_group *group = s->dev->group;

	if (s->registers) {
		dma_unmap_resource(dev, s->iova, s->size, s->dir, 0);
	} else if (s->coherent) {
		dma_free_coherent(dev, s->size, s->data, s->iova);
	} else {
		if (s->apart) {
			dma_unmap_sgtable(dev, &s->pieces, s->dir, 0);
			sg_free_table(&s->pieces);
		} else {
			dma_unmap_single(dev, s->iova, s->size, s->dir);
		}
		free_pages_exact(s->data, data_size(s));
	}
	list_del(&s->node);
	kfree(s);
	return ptt_group_take(group);
}

/* What the device is told of the pieces: those that follow each other may be one */
static void tell_segments(const struct ptt_shared *s, char *text, size_t len)
{
	struct scatterlist *sg;
	size_t at = 0;
	unsigned int i;

	for_each_sgtable_dma_sg(&s->pieces, sg, i)
		at += scnprintf(text + at, len - at, "%s0x%llx+0x%x", i ? "," : " segments=",
				(u64)sg_dma_address(sg), sg_dma_len(sg));
}

static int tell(const struct ptt_shared *s, struct ptt_reply *reply)
{
	char pages[MAX_PAGES * 20], segments[MAX_PAGES * 28] = "";
	unsigned int i, at = 0;

	for (i = 0; i < s->nr; i++)
		at += scnprintf(pages + at, sizeof(pages) - at, "%s0x%llx", i ? "," : "",
				(u64)address_of(s, i));
	if (s->apart)
		tell_segments(s, segments, sizeof(segments));
	return ptt_ok(reply, "iova=0x%llx pages=%s%s", (u64)s->iova, pages, segments);
}

/* Which memory, and how much of it */
static int parse_memory(struct ptt_shared *s, struct ptt_args *args, struct ptt_reply *reply)
{
	const char *pages = args->value[PTT_PAGES], *other = args->value[PTT_TO];
	struct ptt_device *dev;
	u64 size, at = 0;
	int ret;

	ret = ptt_arg_number(args, PTT_AT, 0, PAGE_SIZE - 1, &at, reply);
	if (ret)
		return ret;
	ret = ptt_parse_number(args->word[3], &size);
	if (ret || !size || size > MAX_PAGES * PAGE_SIZE - at)
		return ptt_fail(reply, ret ?: -ERANGE, "SIZE %.31s is not in 1 to %u pages",
				args->word[3], MAX_PAGES);
	if (pages && strcmp(pages, "apart"))
		return ptt_fail(reply, -EINVAL, "pages=apart, not %.31s", pages);
	s->size = size;
	s->at = at;
	s->nr = DIV_ROUND_UP(at + size, PAGE_SIZE);
	s->apart = pages;
	if ((s->coherent && (at || pages || other)) || (other && (at || pages)))
		return ptt_fail(reply, -EINVAL, "coherent, to=, at= or pages=, not all");
	if (!other)
		return 0;
	dev = ptt_find_device(other);
	if (!dev)
		return ptt_fail(reply, -ENODEV, "no device %.31s", other);
	if (pci_resource_len(dev->pdev, 0) < size)
		return ptt_fail(reply, -ERANGE, "BAR 0 of %.31s is smaller", other);
	s->registers = pci_resource_start(dev->pdev, 0);
	return 0;
}

/**
 * ptt_cmd_share() - share NAME DEV SIZE r|w|rw|coherent [at=] [pages=apart] [to=DEV]
 * @args: words
 * @reply: the IOVA, and the physical address of each page
 *
 * Return: 0 or -errno.
 */
int ptt_cmd_share(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_device *dev = ptt_find_device(args->word[2]);
	struct ptt_shared *s;
	int ret;

	if (!ptt_name_ok(args->word[1]))
		return ptt_fail(reply, -EINVAL, "%.40s is not a name", args->word[1]);
	if (find_shared(args->word[1]))
		return ptt_fail(reply, -EEXIST, "%s is shared already", args->word[1]);
	if (!dev || !dev->group)
		return ptt_fail(reply, -ENODEV, "no device %.31s with an IOMMU", args->word[2]);
	s = kzalloc_obj(*s);
	if (!s)
		return -ENOMEM;
	strscpy(s->name, args->word[1]);
	s->dev = dev;
	ret = parse_direction(s, args->word[4], reply) ?: parse_memory(s, args, reply);
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
