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
#define EDU_HALF	(EDU_BUFFER_SIZE / 2)
#define EDU_DMA_USECS	100000	/* what a transfer takes */

#define SCRATCH_IOVA	0x700000000ULL	/* any: the domain is ours alone */
#define SCRATCH_IOVAS	4096U

/*
 * One transfer. The device takes 100 ms of its time for any, which costs
 * nothing where time is virtual, and never says that one failed.
 */
static int transfer_at(struct ptt_device *dev, unsigned int at, u64 iova, unsigned int len,
		       bool to_ram)
{
	unsigned long end = jiffies + 10 * HZ;
	u64 buffer = EDU_BUFFER + at;
	u64 cmd;

	/* reads zeros, or what was there, after a fault */
	if (!to_ram && at < EDU_HALF)
		dev->filled = false;
	writeq(to_ram ? buffer : iova, dev->bar + EDU_DMA_SRC);
	writeq(to_ram ? iova : buffer, dev->bar + EDU_DMA_DST);
	writeq(len, dev->bar + EDU_DMA_COUNT);
	writeq(EDU_CMD_START | (to_ram ? EDU_CMD_TO_RAM : 0), dev->bar + EDU_DMA_CMD);

	/* to the microsecond: msleep() would go on to the next tick and one more */
	usleep_range(EDU_DMA_USECS, EDU_DMA_USECS + 50);
	while ((cmd = readq(dev->bar + EDU_DMA_CMD)) & EDU_CMD_START) {
		/* pulled out */
		if (cmd == U64_MAX)
			return -ENODEV;
		if (time_after(jiffies, end))
			return -ETIMEDOUT;
		usleep_range(50, 100);
	}
	return 0;
}

/* The same, with the beginning of the buffer */
static int transfer(struct ptt_device *dev, u64 iova, unsigned int len, bool to_ram)
{
	return transfer_at(dev, 0, iova, len, to_ram);
}

/* The same through another domain than the group is attached to, for the moment */
static int transfer_through(struct iommu_domain *domain, struct ptt_device *dev, u64 iova,
			    unsigned int len, bool to_ram)
{
	struct ptt_group *group = dev->group;
	int ret;

	ptt_group_pause(group);
	ret = iommu_attach_group(domain, group->group);
	if (!ret) {
		ret = transfer(dev, iova, len, to_ram);
		iommu_detach_group(domain, group->group);
	}
	return ptt_group_resume(group) ?: ret;
}

/* What the device moves: differs in every byte for neighbouring seeds */
static void fill_pattern(u8 *data, unsigned int len, u64 seed)
{
	unsigned int i;

	for (i = 0; i < len; i++)
		data[i] = seed * 31 + i * 7 + (i >> 8);
}

/**
 * struct scratch - memory that a device's buffer is filled from and looked at in
 * @domain: maps @page, and nothing else
 * @page: the memory
 * @iova: where it is mapped
 * @data: its address
 */
struct scratch {
	struct iommu_domain *domain;
	struct page *page;
	u64 iova;
	u8 *data;
};

/*
 * Each is mapped elsewhere than those before: a kernel that forgets to invalidate
 * an id that is used again must not lead this transfer to the page of the last.
 */
static int scratch_init(struct scratch *s, struct ptt_device *dev)
{
	static unsigned int made;
	int ret;

	s->iova = SCRATCH_IOVA + (made++ % SCRATCH_IOVAS) * (u64)PAGE_SIZE;
	s->page = alloc_page(GFP_KERNEL);
	if (!s->page)
		return -ENOMEM;
	s->data = page_address(s->page);
	s->domain = iommu_paging_domain_alloc(&dev->pdev->dev);
	if (IS_ERR(s->domain)) {
		__free_page(s->page);
		return PTR_ERR(s->domain);
	}
	ret = iommu_map(s->domain, s->iova, page_to_phys(s->page), PAGE_SIZE,
			IOMMU_READ | IOMMU_WRITE | IOMMU_CACHE, GFP_KERNEL);
	if (ret) {
		iommu_domain_free(s->domain);
		__free_page(s->page);
	}
	return ret;
}

static void scratch_free(struct scratch *s)
{
	iommu_domain_free(s->domain);
	__free_page(s->page);
}

/* Let the device's buffer hold the pattern of @seed */
static int fill_buffer(struct scratch *s, struct ptt_device *dev, u64 seed)
{
	int ret;

	fill_pattern(s->data, EDU_BUFFER_SIZE, seed);
	ret = transfer_through(s->domain, dev, s->iova, EDU_BUFFER_SIZE, false);
	dev->filled = !ret;
	dev->seed = seed;
	return ret;
}

/* Look at the device's buffer */
static int read_buffer(struct scratch *s, struct ptt_device *dev)
{
	memset(s->data, 0, EDU_BUFFER_SIZE);
	return transfer_through(s->domain, dev, s->iova, EDU_BUFFER_SIZE, true);
}

/**
 * struct request - what dma and probe have in common
 * @dev: the device
 * @iova: where to
 * @len: bytes
 * @seed: of the pattern
 * @to_ram: it writes
 */
struct request {
	struct ptt_device *dev;
	u64 iova;
	u64 len;
	u64 seed;
	bool to_ram;
};

static int parse_request(struct request *r, struct ptt_args *args, const char *len,
			 struct ptt_reply *reply)
{
	int ret;

	memset(r, 0, sizeof(*r));
	r->dev = ptt_find_device(args->word[1]);
	if (!r->dev)
		return ptt_fail(reply, -ENODEV, "no device %.31s", args->word[1]);
	r->to_ram = !strcmp(args->word[2], "write");
	if (!r->to_ram && strcmp(args->word[2], "read"))
		return ptt_fail(reply, -EINVAL, "read or write, not %.31s", args->word[2]);
	ret = ptt_parse_number(args->word[3], &r->iova);
	if (ret)
		return ptt_fail(reply, ret, "IOVA %.31s is not a number", args->word[3]);
	ret = ptt_parse_number(len, &r->len);
	if (ret || !r->len || r->len > EDU_BUFFER_SIZE)
		return ptt_fail(reply, ret ?: -ERANGE, "LEN %.31s is not in 1..4096", len);
	ret = ptt_arg_number(args, PTT_SEED, 0, U64_MAX, &r->seed, reply);
	if (ret)
		return ret;
	if (!r->dev->group)
		return ptt_fail(reply, -ENODEV, "%s has no IOMMU", r->dev->name);
	return 0;
}

static int no_transfer(const struct request *r, int err, struct ptt_reply *reply)
{
	return ptt_fail(reply, err, "the transfer did not end or %s could not be attached again",
			r->dev->name);
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
	struct request r;
	struct scratch s;
	int ret;

	ret = parse_request(&r, args, args->word[4], reply);
	if (ret)
		return ret;
	ret = scratch_init(&s, r.dev);
	if (ret)
		return ptt_fail(reply, ret, "no domain to fill the device's buffer through");
	ret = fill_buffer(&s, r.dev, r.seed);
	if (!ret)
		ret = transfer(r.dev, r.iova, r.len, r.to_ram);
	if (!ret && !r.to_ram)
		ret = read_buffer(&s, r.dev);
	if (ret)
		no_transfer(&r, ret, reply);
	else
		ptt_ok(reply, "data=%*phN sum=0x%08x", (int)min_t(u64, r.len, 16), s.data,
		       ~crc32_le(~0, s.data, r.len));
	scratch_free(&s);
	return ret;
}

/* Have the buffer filled, unless it holds that pattern already */
static int fill_once(struct ptt_device *dev, u64 seed)
{
	struct scratch s;
	int ret;

	if (dev->filled && dev->seed == seed)
		return 0;
	ret = scratch_init(&s, dev);
	if (ret)
		return ret;
	ret = fill_buffer(&s, dev, seed);
	scratch_free(&s);
	return ret;
}

/**
 * ptt_cmd_load() - load DEV seed=N
 * @args: words
 * @reply: says what is wrong
 *
 * Fill the device's buffer, so that probes need not: they leave the group, and
 * with it the IOMMU's caches, alone then.
 *
 * Return: 0 or -errno.
 */
int ptt_cmd_load(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_device *dev = ptt_find_device(args->word[1]);
	u64 seed = 0;
	int ret;

	if (!dev)
		return ptt_fail(reply, -ENODEV, "no device %.31s", args->word[1]);
	ret = ptt_arg_number(args, PTT_SEED, 0, U64_MAX, &seed, reply);
	if (ret)
		return ret;
	if (!dev->group)
		return ptt_fail(reply, -ENODEV, "%s has no IOMMU", dev->name);
	ret = fill_once(dev, seed);
	return ret ? ptt_fail(reply, ret, "the device's buffer cannot be filled") : 0;
}

/*
 * A short read goes to the second half of the buffer, which leaves the pattern
 * in the first half, and from there to where it can be looked at.
 */
static int probe_read(const struct request *r, u64 to, bool copy)
{
	unsigned int at = r->len <= EDU_HALF ? EDU_HALF : 0;
	int ret;

	ret = transfer_at(r->dev, at, r->iova, r->len, false);
	if (!ret && copy)
		ret = transfer_at(r->dev, at, to, r->len, true);
	return ret;
}

/**
 * ptt_cmd_probe() - probe DEV read|write IOVA [len=N] [domain=NAME] [seed=N] [to=IOVA]
 * @args: words
 * @reply: says what is wrong
 *
 * One transfer, and nothing is looked at: what it did is in memory and in the
 * IOMMU's events. With to=, the device writes there what it has read.
 *
 * Return: 0 or -errno.
 */
int ptt_cmd_probe(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_domain *d = NULL;
	struct request r;
	u64 to = 0;
	int ret;

	ret = parse_request(&r, args, args->value[PTT_LEN] ?: "4", reply);
	if (!ret)
		ret = ptt_arg_number(args, PTT_TO, 0, U64_MAX, &to, reply);
	if (ret)
		return ret;
	if (args->value[PTT_TO] && (r.to_ram || args->value[PTT_DOMAIN]))
		return ptt_fail(reply, -EINVAL, "to= needs a read, and excludes domain=");
	if (args->value[PTT_DOMAIN]) {
		d = ptt_find_domain(args->value[PTT_DOMAIN]);
		if (!d)
			return ptt_fail(reply, -ENOENT, "no domain %.31s", args->value[PTT_DOMAIN]);
		if (d->sw)
			return ptt_fail(reply, -EINVAL, "%s is a software table", d->name);
		ret = ptt_at_rest(d, reply);
		if (ret)
			return ret;
	}
	if (args->value[PTT_SEED]) {
		ret = fill_once(r.dev, r.seed);
		if (ret)
			return ptt_fail(reply, ret, "the device's buffer cannot be filled");
	}
	if (d && d != r.dev->group->domain)
		ret = transfer_through(d->domain, r.dev, r.iova, r.len, r.to_ram);
	else if (r.to_ram)
		ret = transfer(r.dev, r.iova, r.len, true);
	else
		ret = probe_read(&r, to, args->value[PTT_TO]);
	return ret ? no_transfer(&r, ret, reply) : 0;
}
