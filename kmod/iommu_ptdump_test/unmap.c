// SPDX-License-Identifier: GPL-2.0-only
/* The unmap command: refuses holes and parts of blocks, which the kernel would warn of. */
#include <linux/err.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "ptdump_test.h"

static int part_of_block(const struct ptt_leaf *leaf, struct ptt_reply *reply)
{
	char text[16];

	return ptt_fail(reply, -EINVAL, "part of a %s block at 0x%llx",
			ptt_size_text(text, sizeof(text), leaf->size), leaf->first);
}

/*
 * Check that all of iova..last is mapped, and that every call of iommu_unmap()
 * will begin and end between two leaves. *cuts counts the ranges that lose
 * their middle.
 */
static int check_one(struct ptt_domain *d, u64 iova, u64 last, u64 step, u64 *cuts,
		     struct ptt_reply *reply)
{
	struct ptt_range *r = ptt_maps_first(d, iova);
	u64 at = iova, call = iova, loops = 0;
	struct ptt_leaf leaf;

	if (r && r->first < iova && r->last > last)
		(*cuts)++;
	for (;;) {
		if (!r || r->first > at)
			return ptt_fail(reply, -ENOENT, "0x%llx is not mapped", at);
		leaf = ptt_leaf_at(r->call, at);
		if (leaf.first != at)
			return part_of_block(&leaf, reply);

		/* on to where the next call begins, or to the next range if that comes first */
		if (step && last - call >= step && r->last - call >= step) {
			call += step;
			at = call;
		} else if (r->last < last) {
			at = r->last + 1;
			r = ptt_maps_next(r);
		} else {
			break;
		}
		if (ptt_killed(++loops))
			return -EINTR;
	}
	leaf = ptt_leaf_at(r->call, last);
	if (leaf.first + (leaf.size - 1) != last)
		return part_of_block(&leaf, reply);
	return 0;
}

/*
 * One repetition; returns the bytes that are gone, *err says why not all.
 * @returned adds up what iommu_unmap() says, which may be an errno by mistake.
 */
static u64 unmap_one(struct ptt_domain *d, u64 iova, u64 size, u64 step, u64 *returned, int *err,
		     struct ptt_reply *reply)
{
	u64 done = 0, loops = 0, got;

	while (done < size) {
		if (ptt_killed(++loops)) {
			*err = ptt_fail(reply, -EINTR, "stopped at 0x%llx", iova + done);
			break;
		}
		got = iommu_unmap(d->domain, iova + done, step);
		*returned += got;
		if (got != step) {
			*err = ptt_fail(reply, -EIO, "iommu_unmap(0x%llx, 0x%llx) returned 0x%llx",
					iova + done, step, got);
			done += min(got, size - done);
			break;
		}
		done += got;
	}
	return done;
}

/* ptt_cmd_unmap() - unmap NAME IOVA SIZE [leaf= count= istep=] */
int ptt_cmd_unmap(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_domain *d = ptt_find_domain(args->word[1]);
	struct ptt_range *spare;
	struct ptt_call span;
	u64 n, at, done, returned = 0, cuts = 0;
	int ret;

	if (!d)
		return ptt_fail(reply, -ENOENT, "no domain %.31s", args->word[1]);
	ret = ptt_at_rest(d, reply);
	if (!ret)
		ret = ptt_parse_span(d, args, &span, reply);
	for (n = 0; !ret && n < span.count; n++) {
		at = span.iova + n * span.istep;
		ret = check_one(d, at, at + (span.size - 1), span.leaf, &cuts, reply);
		if (!ret && ptt_killed(n))
			ret = -EINTR;
	}
	if (ret)
		return ret;
	spare = ptt_ranges_alloc(cuts);
	if (IS_ERR(spare))
		return ptt_fail(reply, PTR_ERR(spare), "no room for %llu more ranges", cuts);

	for (n = 0; n < span.count; n++) {
		at = span.iova + n * span.istep;
		done = unmap_one(d, at, span.size, span.leaf ?: span.size, &returned, &ret, reply);
		if (done)
			ptt_maps_erase(d, &spare, at, at + (done - 1));
		if (ret)
			break;
	}
	ptt_ranges_free(spare);
	return ret ?: ptt_ok(reply, "unmapped=0x%llx", returned);
}
