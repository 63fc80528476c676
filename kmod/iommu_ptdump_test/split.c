// SPDX-License-Identifier: GPL-2.0-only
/* The split command: unmap a part of one block. io-pgtable-arm put a table there up to 6.12. */
#include <linux/err.h>
#include <linux/io-pgtable.h>
#include <linux/math64.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "ptdump_test.h"

#ifdef PTT_HAS_SPLIT
#define SPLITS true
#else
#define SPLITS false
#endif

/* What stays of a block on one side, in the leaves that the core would choose; NULL for nothing */
static struct ptt_call *rest_of(const struct ptt_call *from, u64 iova, u64 size)
{
	u64 n = div64_u64(iova - from->iova, from->istep);
	struct ptt_call *call = kzalloc_obj(*call);

	if (!call)
		return NULL;
	call->iova = iova;
	call->pa = from->pa + n * from->pstep + (iova - from->iova - n * from->istep);
	call->size = size;
	call->istep = size;
	call->pstep = size;
	call->count = 1;
	call->pgsizes = from->pgsizes;
	return call;
}

/*
 * Unmap @span, which is a part of @leaf. Forgets the block, and notes what is
 * left of it before and behind.
 */
static int split(struct ptt_domain *d, const struct ptt_call *span, const struct ptt_leaf *leaf,
		 const struct ptt_call *from, struct ptt_reply *reply)
{
	u64 head = span->iova - leaf->first, tail = leaf->size - head - span->size;
	struct ptt_call *before = NULL, *behind = NULL;
	u64 last = leaf->first + (leaf->size - 1);
	struct ptt_range *spare;
	int ret = -ENOMEM;
	size_t got;

	if (head)
		before = rest_of(from, leaf->first, head);
	if (tail)
		behind = rest_of(from, span->iova + span->size, tail);
	if ((head && !before) || (tail && !behind))
		goto free;
	spare = ptt_ranges_alloc(3);
	if (IS_ERR(spare)) {
		ret = PTR_ERR(spare);
		goto free;
	}
	got = iommu_unmap(d->domain, span->iova, span->size);
	if (got != span->size) {
		ptt_ranges_free(spare);
		ret = ptt_fail(reply, -EIO, "iommu_unmap(0x%llx, 0x%llx) returned 0x%llx",
			       span->iova, span->size, (u64)got);
		goto free;
	}
	ptt_maps_erase(d, &spare, leaf->first, last);
	if (before)
		ptt_maps_insert(d, &spare, leaf->first, span->iova - 1, before);
	if (behind)
		ptt_maps_insert(d, &spare, span->iova + span->size, last, behind);
	ptt_ranges_free(spare);
	return ptt_ok(reply, "unmapped=0x%llx", (u64)got);
free:
	kfree(before);
	kfree(behind);
	return ret;
}

/**
 * ptt_cmd_split() - split NAME IOVA SIZE
 * @args: words
 * @reply: says what is wrong
 *
 * Return: 0 or -errno; -EOPNOTSUPP where the kernel would refuse it with a warning.
 */
int ptt_cmd_split(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_domain *d = ptt_find_domain(args->word[1]);
	struct ptt_call span;
	struct ptt_range *r;
	struct ptt_leaf leaf;
	int ret;

	if (!d)
		return ptt_fail(reply, -ENOENT, "no domain %.31s", args->word[1]);
	if (!SPLITS || !d->arm_cfg)
		return ptt_fail(reply, -EOPNOTSUPP, "this kernel does not split blocks of %s",
				d->format);
	ret = ptt_at_rest(d, reply);
	if (!ret)
		ret = ptt_parse_span(d, args, &span, reply);
	if (ret)
		return ret;
	r = ptt_maps_first(d, span.iova);
	if (!r || r->first > span.iova)
		return ptt_fail(reply, -ENOENT, "0x%llx is not mapped", span.iova);
	leaf = ptt_leaf_at(r->call, span.iova);
	if (span.size >= leaf.size || span.iova - leaf.first > leaf.size - span.size)
		return ptt_fail(reply, -EINVAL, "not a part of the block at 0x%llx", leaf.first);
	return split(d, &span, &leaf, r->call, reply);
}
