// SPDX-License-Identifier: GPL-2.0-only
/*
 * The command cost: how long the calls of a driver take. Each round is timed
 * alone, interrupts stay on, and the shortest counts: that one has no tick in it.
 */
#include <linux/bits.h>
#include <linux/ktime.h>
#include <linux/minmax.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "hw.h"

#define MAX_ROUNDS 100000

static int parse_rounds(struct ptt_args *args, u64 *rounds, struct ptt_reply *reply)
{
	*rounds = 100;
	return ptt_arg_number(args, PTT_ROUNDS, 1, MAX_ROUNDS, rounds, reply);
}

/* cost NAME map IOVA PA SIZE PROT: from IOVA on the words are those of map */
static int cost_map(struct ptt_domain *d, struct ptt_args *args, struct ptt_reply *reply)
{
	u64 rounds, begin, middle, end, map = U64_MAX, unmap = U64_MAX;
	struct ptt_args alike = *args;
	struct ptt_call span;
	size_t gone;
	int ret, prot;

	if (args->nr_words != 7)
		return ptt_fail(reply, -EINVAL, "usage: cost NAME map IOVA PA SIZE PROT");
	alike.nr_words = 6;
	memmove(&alike.word[2], &args->word[3], 4 * sizeof(args->word[0]));
	ret = parse_rounds(args, &rounds, reply);
	if (!ret)
		ret = ptt_parse_span(d, &alike, &span, reply);
	if (!ret)
		ret = ptt_parse_prot(alike.word[5], &prot, reply);
	if (!ret)
		ret = ptt_check_map(d, &span, reply);
	if (ret)
		return ret;

	while (rounds--) {
		ret = ptt_may_grow(0);
		if (ret)
			return ret;
		begin = ktime_get_ns();
		ret = ptt_map_one(d, &span, 0, prot);
		middle = ktime_get_ns();
		if (ret)
			return ptt_fail(reply, ret, "the kernel refused, nothing is mapped");
		map = min(map, middle - begin);

		begin = ktime_get_ns();
		gone = iommu_unmap(d->domain, span.iova, span.size);
		end = ktime_get_ns();
		if (gone != span.size)
			return ptt_fail(reply, -EIO, "stopped at 0x%llx", span.iova + gone);
		unmap = min(unmap, end - begin);
	}
	return ptt_ok(reply, "map=%llu unmap=%llu", map, unmap);
}

/* cost NAME attach DEV */
static int cost_attach(struct ptt_domain *d, struct ptt_args *args, struct ptt_reply *reply)
{
	u64 rounds, begin, middle, end, attach = U64_MAX, detach = U64_MAX;
	struct ptt_device *dev;
	int ret;

	if (args->nr_words != 4)
		return ptt_fail(reply, -EINVAL, "usage: cost NAME attach DEV");
	if (args->value[PTT_LEAF])
		return ptt_fail(reply, -EINVAL, "cost attach does not take leaf=");
	ret = parse_rounds(args, &rounds, reply);
	if (ret)
		return ret;
	dev = ptt_find_device(args->word[3]);
	if (!dev)
		return ptt_fail(reply, -ENODEV, "no device %.31s", args->word[3]);
	/* were another device of its group attached, attaching this one would do nothing */
	if (dev->group && dev->group->domain)
		return ptt_fail(reply, -EBUSY, "the group of %s is attached to %s", dev->name,
				dev->group->domain->name);

	while (rounds--) {
		ret = ptt_may_grow(0);
		if (ret)
			return ret;
		begin = ktime_get_ns();
		ret = ptt_attach_device(d, dev, reply);
		middle = ktime_get_ns();
		if (ret)
			return ret;
		attach = min(attach, middle - begin);

		begin = ktime_get_ns();
		ptt_detach_device(dev);
		end = ktime_get_ns();
		detach = min(detach, end - begin);
	}
	return ptt_ok(reply, "attach=%llu detach=%llu", attach, detach);
}

/**
 * ptt_cmd_cost() - cost NAME map IOVA PA SIZE PROT | cost NAME attach DEV
 * @args: words
 * @reply: the shortest times, in ns
 *
 * Return: 0 or -errno; nothing stays mapped or attached.
 */
int ptt_cmd_cost(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_domain *d = ptt_find_domain(args->word[1]);
	int ret;

	if (!d)
		return ptt_fail(reply, -ENOENT, "no domain %.31s", args->word[1]);
	ret = ptt_at_rest(d, reply);
	if (ret)
		return ret;
	if (!strcmp(args->word[2], "map"))
		return cost_map(d, args, reply);
	if (!strcmp(args->word[2], "attach"))
		return cost_attach(d, args, reply);
	return ptt_fail(reply, -EINVAL, "cost of map or attach, not of %.31s", args->word[2]);
}
