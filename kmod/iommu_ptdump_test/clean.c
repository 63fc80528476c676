// SPDX-License-Identifier: GPL-2.0-only
/* The clean command: dirty tracking reads which pages were written, and makes them clean. */
#include <linux/iommu.h>

#include "ptdump_test.h"

/**
 * ptt_cmd_clean() - clean NAME IOVA SIZE, answers with the part that was dirty
 * @args: words
 * @reply: says what is wrong
 *
 * Return: 0 or -errno; -EOPNOTSUPP where nobody tracks what is written.
 */
int ptt_cmd_clean(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_domain *d = ptt_find_domain(args->word[1]);
	const struct iommu_dirty_ops *ops;
	struct iommu_iotlb_gather gather;
	struct iommu_dirty_bitmap dirty;
	struct ptt_call span;
	int ret;

	if (!d)
		return ptt_fail(reply, -ENOENT, "no domain %.31s", args->word[1]);
	ops = d->domain->dirty_ops;
	if (!ops)
		return ptt_fail(reply, -EOPNOTSUPP, "no dirty tracking in %s", d->format);
	ret = ptt_at_rest(d, reply);
	if (!ret)
		ret = ptt_parse_span(d, args, &span, reply);
	if (ret)
		return ret;

	/* no bitmap: it belongs to user space; the ranges to flush are those of dirty items */
	iommu_dirty_bitmap_init(&dirty, NULL, &gather);
	ret = ops->read_and_clear_dirty(d->domain, span.iova, span.size, 0, &dirty);
	if (ret)
		return ptt_fail(reply, ret, "read_and_clear_dirty(0x%llx, 0x%llx)", span.iova,
				span.size);
	if (gather.start > gather.end)
		return ptt_ok(reply, "dirty=none");
	return ptt_ok(reply, "dirty=0x%lx-0x%lx", gather.start, gather.end);
}
