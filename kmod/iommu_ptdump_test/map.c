// SPDX-License-Identifier: GPL-2.0-only
/* The map command: everything is checked first, so that a refusal changes nothing. */
#include <linux/bits.h>
#include <linux/err.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "ptdump_test.h"

/**
 * ptt_killed() - called in every loop of unknown length
 * @done: how far it got: one call in 1024 looks
 *
 * Return: true when the writer was killed.
 */
bool ptt_killed(u64 done)
{
	if (done & 1023)
		return false;
	cond_resched();
	return fatal_signal_pending(current);
}

/**
 * ptt_may_grow() - the same for loops that allocate
 * @done: how far it got
 *
 * Return: 0, -EINTR when the writer was killed, -ENOMEM when memory is nearly
 * gone: the guest's agent must not become the OOM killer's victim.
 */
int ptt_may_grow(u64 done)
{
	if (ptt_killed(done))
		return -EINTR;
	if (!(done & 1023) && si_mem_available() < (long)(totalram_pages() / 16))
		return -ENOMEM;
	return 0;
}

static int parse_address(const char *what, const char *text, u64 *value, struct ptt_reply *reply)
{
	int ret = ptt_parse_number(text, value);

	if (ret)
		return ptt_fail(reply, ret, "%s %.31s is not a number", what, text);
	return 0;
}

/* ptt_in_aperture() - whether a domain takes all these IOVAs */
bool ptt_in_aperture(const struct ptt_domain *d, u64 first, u64 last)
{
	unsigned int i;

	for (i = 0; i < d->nr_apertures; i++)
		if (first >= d->aperture[i].first && last <= d->aperture[i].last)
			return true;
	return false;
}

static int outside_aperture(const struct ptt_domain *d, struct ptt_reply *reply)
{
	const struct ptt_aperture *a = d->aperture;

	if (d->nr_apertures == 1)
		return ptt_fail(reply, -ERANGE, "IOVA outside the aperture 0x%llx-0x%llx",
				a[0].first, a[0].last);
	return ptt_fail(reply, -ERANGE, "IOVA outside the apertures to 0x%llx and from 0x%llx",
			a[0].last, a[1].first);
}

/* Last address of all repetitions, false when it does not fit 64 bits */
static bool span_last(u64 first, u64 step, const struct ptt_call *span, u64 *last)
{
	return !check_mul_overflow(step, span->count - 1, last) &&
	       !check_add_overflow(*last, first, last) &&
	       !check_add_overflow(*last, span->size - 1, last);
}

/*
 * io-pgtable-arm keeps page sizes that no level of a small table has an item
 * for, and warns when one is used.
 */
static bool no_item(const struct ptt_domain *d, const struct ptt_call *span)
{
	u64 step = span->leaf ?: span->size;
	struct ptt_table table;

	if (!d->arm_cfg || !is_power_of_2(step) || !(step & span->pgsizes) ||
	    span->pa & (step - 1) || !ptt_get_table(d, &table))
		return false;
	return (ilog2(step) - table.granule_lg2) / table.index_bits >= table.levels;
}

/**
 * ptt_parse_span() - the addresses that map and unmap share
 * @d: domain
 * @args: words; map has PA before SIZE, unmap has none
 * @span: filled
 * @reply: says what is wrong
 *
 * Return: 0, -EINVAL for what is misaligned, -ERANGE outside the aperture.
 */
int ptt_parse_span(struct ptt_domain *d, struct ptt_args *args, struct ptt_call *span,
		   struct ptt_reply *reply)
{
	bool map = args->nr_words == 6;
	u64 granule = ptt_granule(d);
	char text[16];
	u64 last;
	int ret;

	memset(span, 0, sizeof(*span));
	span->count = 1;
	span->pgsizes = d->domain->pgsize_bitmap;
	ret = parse_address("IOVA", args->word[2], &span->iova, reply);
	if (!ret && map)
		ret = ptt_parse_pa(args->word[3], &span->pa, reply);
	if (!ret)
		ret = parse_address("SIZE", args->word[map ? 4 : 3], &span->size, reply);
	if (ret)
		return ret;
	span->istep = span->size;
	span->pstep = span->size;
	ret = ptt_arg_number(args, PTT_COUNT, 1, PTT_MAX_COUNT, &span->count, reply);
	if (!ret)
		ret = ptt_arg_number(args, PTT_ISTEP, 0, U64_MAX, &span->istep, reply);
	if (!ret)
		ret = ptt_arg_number(args, PTT_PSTEP, 0, U64_MAX, &span->pstep, reply);
	if (!ret)
		ret = ptt_arg_number(args, PTT_LEAF, 1, U64_MAX, &span->leaf, reply);
	if (ret)
		return ret;

	if (!span->size)
		return ptt_fail(reply, -EINVAL, "size is zero");
	if (args->value[PTT_LEAF] && (!is_power_of_2(span->leaf) || !(span->pgsizes & span->leaf)))
		return ptt_fail(reply, -EINVAL, "no leaf size %s in 0x%llx",
				ptt_size_text(text, sizeof(text), span->leaf), span->pgsizes);
	if (span->leaf)
		granule = span->leaf;
	if ((span->iova | span->pa | span->size | span->istep | span->pstep) & (granule - 1))
		return ptt_fail(reply, -EINVAL, "not aligned to %s",
				ptt_size_text(text, sizeof(text), granule));
	if (no_item(d, span))
		return ptt_fail(reply, -EINVAL, "no item of this table maps %s",
				ptt_size_text(text, sizeof(text), span->leaf ?: span->size));
	if (span->istep < span->size)
		return ptt_fail(reply, map ? -EEXIST : -ENOENT,
				"istep is smaller than the size: repetitions overlap");
	if (!span_last(span->iova, span->istep, span, &last) ||
	    !ptt_in_aperture(d, span->iova, last))
		return outside_aperture(d, reply);
	return 0;
}

/* ptt_check_holes() - refuse what is mapped; 0, -EEXIST or -EINTR */
int ptt_check_holes(struct ptt_domain *d, const struct ptt_call *span, struct ptt_reply *reply)
{
	struct ptt_range *r;
	u64 iova, n;

	for (n = 0; n < span->count; n++) {
		if (ptt_killed(n))
			return -EINTR;
		iova = span->iova + n * span->istep;
		r = ptt_maps_first(d, iova);
		if (r && r->first <= iova + (span->size - 1))
			return ptt_fail(reply, -EEXIST, "0x%llx is mapped", max(r->first, iova));
	}
	return 0;
}

/* ptt_check_map() - refuse what the kernel would warn of; 0 or -errno */
int ptt_check_map(struct ptt_domain *d, const struct ptt_call *span, struct ptt_reply *reply)
{
	u64 last, n, leaves = 0;

	if (!span_last(span->pa, span->pstep, span, &last) ||
	    (d->oas < 64 && last >> d->oas))
		return ptt_fail(reply, -ERANGE, "PA above %u bits", d->oas);

	for (n = 0; n < span->count; n++) {
		if (ptt_killed(n))
			return -EINTR;
		leaves += ptt_count_leaves(span, n);
		if (leaves > PTT_MAX_COUNT)
			return ptt_fail(reply, -E2BIG, "more than %lu leaves in one command",
					PTT_MAX_COUNT);
	}
	return ptt_check_holes(d, span, reply);
}

/*
 * Leaves of a forced size. map_pages() is asked for many at a time, unless the
 * table may take larger ones then (any but io-pgtable's), or the
 * core's own accounting (iommu_debug_map()) has to see each.
 */
static int map_leaves(struct ptt_domain *d, u64 iova, u64 pa, u64 size, u64 leaf, int prot,
		      u64 *mapped)
{
	struct iommu_domain *domain = d->domain;
	bool one_by_one = ptt_is_generic_pt(domain) || d->table ||
			  IS_ENABLED(CONFIG_IOMMU_DEBUG_PAGEALLOC);
	u64 leaves = 0;
	size_t done;
	int ret;

	while (*mapped < size) {
		/* the caller has looked before the first */
		ret = leaves ? ptt_may_grow(leaves) : 0;
		if (ret)
			return ret;
		done = 0;
		if (one_by_one) {
			ret = iommu_map(domain, iova + *mapped, pa + *mapped, leaf, prot, PTT_GFP);
			if (!ret)
				done = leaf;
		} else {
			ret = domain->ops->map_pages(domain, iova + *mapped, pa + *mapped, leaf,
						     min_t(u64, (size - *mapped) / leaf, 1024),
						     prot, PTT_GFP, &done);
		}
		leaves += one_by_one ? 1 : 1024;
		*mapped += done;
		if (ret)
			return ret;
	}
	if (!one_by_one && domain->ops->iotlb_sync_map)
		return domain->ops->iotlb_sync_map(domain, iova, size);
	return 0;
}

/* ptt_map_one() - map repetition @n of @span; 0, or -errno and nothing of it is mapped */
int ptt_map_one(struct ptt_domain *d, const struct ptt_call *span, u64 n, int prot)
{
	u64 iova = span->iova + n * span->istep, pa = span->pa + n * span->pstep, mapped = 0;
	int ret;

	if (!span->leaf)
		return iommu_map(d->domain, iova, pa, span->size, prot, PTT_GFP);
	ret = map_leaves(d, iova, pa, span->size, span->leaf, prot, &mapped);
	if (ret && mapped)
		iommu_unmap(d->domain, iova, mapped);
	return ret;
}

static int do_map(struct ptt_domain *d, const struct ptt_call *span, int prot)
{
	int ret = 0;
	u64 n;

	for (n = 0; !ret && n < span->count; n++)
		ret = ptt_may_grow(n) ?: ptt_map_one(d, span, n, prot);
	if (!ret)
		return 0;
	/* the last one has left nothing */
	n--;
	while (n--) {
		iommu_unmap(d->domain, span->iova + n * span->istep, span->size);
		cond_resched();
	}
	return ret;
}

/* ptt_cmd_map() - map NAME IOVA PA SIZE PROT [leaf= count= istep= pstep=] */
int ptt_cmd_map(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_domain *d = ptt_find_domain(args->word[1]);
	struct ptt_range *spare;
	struct ptt_call *call;
	bool contiguous;
	int ret, prot;
	u64 n, at;

	if (!d)
		return ptt_fail(reply, -ENOENT, "no domain %.31s", args->word[1]);
	ret = ptt_at_rest(d, reply);
	if (ret)
		return ret;
	call = kzalloc_obj(*call);
	if (!call)
		return -ENOMEM;
	ret = ptt_parse_span(d, args, call, reply);
	if (!ret)
		ret = ptt_parse_prot(args->word[5], &prot, reply);
	if (!ret)
		ret = ptt_check_map(d, call, reply);
	if (ret)
		goto free_call;

	contiguous = call->istep == call->size;
	spare = ptt_ranges_alloc(contiguous ? 1 : call->count);
	if (IS_ERR(spare)) {
		ret = ptt_fail(reply, PTR_ERR(spare), "no room for %llu ranges", call->count);
		goto free_call;
	}
	ret = do_map(d, call, prot);
	if (ret) {
		ptt_ranges_free(spare);
		ptt_fail(reply, ret, "the kernel refused, nothing is mapped");
		goto free_call;
	}

	if (contiguous) {
		at = call->iova + (call->count - 1) * call->istep;
		ptt_maps_insert(d, &spare, call->iova, at + (call->size - 1), call);
		return 0;
	}
	for (n = 0; n < call->count; n++) {
		at = call->iova + n * call->istep;
		ptt_maps_insert(d, &spare, at, at + (call->size - 1), call);
	}
	return 0;

free_call:
	kfree(call);
	return ret;
}
