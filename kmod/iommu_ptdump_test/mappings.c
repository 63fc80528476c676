// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is mapped: ranges of IOVA ordered in an rbtree, each with the map call
 * it came of. The call says where the leaf entries begin and end, so that an
 * unmap of part of a block is refused before the kernel would warn.
 */
#include <linux/bitops.h>
#include <linux/bits.h>
#include <linux/err.h>
#include <linux/math64.h>
#include <linux/minmax.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "ptdump_test.h"

static unsigned int nr_ranges;

/* ptt_maps_first() - the first range that ends at @iova or after it, or NULL */
struct ptt_range *ptt_maps_first(const struct ptt_domain *d, u64 iova)
{
	struct rb_node *n = d->maps.rb_node;
	struct ptt_range *r, *best = NULL;

	while (n) {
		r = rb_entry(n, struct ptt_range, rb);
		if (r->last >= iova) {
			best = r;
			n = n->rb_left;
		} else {
			n = n->rb_right;
		}
	}
	return best;
}

/* ptt_maps_next() - the range after @r, or NULL */
struct ptt_range *ptt_maps_next(struct ptt_range *r)
{
	struct rb_node *n = rb_next(&r->rb);

	return n ? rb_entry(n, struct ptt_range, rb) : NULL;
}

/**
 * ptt_ranges_alloc() - ranges to have at hand, so that what follows cannot fail
 * @nr: how many
 *
 * Return: a list, NULL for none, or ERR_PTR: -ENOSPC over the limit of live
 * ranges, -ENOMEM, -EINTR.
 */
struct ptt_range *ptt_ranges_alloc(u64 nr)
{
	struct ptt_range *list = NULL, *r;

	if (nr > PTT_MAX_RANGES - nr_ranges)
		return ERR_PTR(-ENOSPC);
	while (nr--) {
		int err = ptt_may_grow(nr);

		r = err ? NULL : kmalloc_obj(*r);
		if (!r) {
			ptt_ranges_free(list);
			return ERR_PTR(err ?: -ENOMEM);
		}
		nr_ranges++;
		r->next = list;
		list = r;
	}
	return list;
}

/* ptt_ranges_free() - give back what ptt_ranges_alloc() gave */
void ptt_ranges_free(struct ptt_range *list)
{
	struct ptt_range *r;

	while ((r = list)) {
		list = r->next;
		nr_ranges--;
		kfree(r);
	}
}

/**
 * ptt_maps_insert() - note a mapping
 * @d: domain
 * @spare: list to take the range from
 * @first: first IOVA
 * @last: last IOVA, nothing in between is mapped
 * @call: what it came of
 */
void ptt_maps_insert(struct ptt_domain *d, struct ptt_range **spare, u64 first, u64 last,
		     struct ptt_call *call)
{
	struct rb_node **link = &d->maps.rb_node, *parent = NULL;
	struct ptt_range *r = *spare, *at;

	*spare = r->next;
	while (*link) {
		parent = *link;
		at = rb_entry(parent, struct ptt_range, rb);
		link = first < at->first ? &parent->rb_left : &parent->rb_right;
	}
	r->first = first;
	r->last = last;
	r->call = call;
	call->refs++;
	rb_link_node(&r->rb, parent, link);
	rb_insert_color(&r->rb, &d->maps);
}

static void drop_range(struct ptt_domain *d, struct ptt_range *r)
{
	rb_erase(&r->rb, &d->maps);
	if (!--r->call->refs)
		kfree(r->call);
	r->next = NULL;
	ptt_ranges_free(r);
}

/**
 * ptt_maps_erase() - forget what is mapped from @first to @last
 * @d: domain
 * @spare: list to take one range from, if the middle of one is cut out
 * @first: first IOVA
 * @last: last IOVA
 */
void ptt_maps_erase(struct ptt_domain *d, struct ptt_range **spare, u64 first, u64 last)
{
	struct ptt_range *r = ptt_maps_first(d, first), *next;
	u64 tail;

	for (; r && r->first <= last; r = next) {
		next = ptt_maps_next(r);
		if (r->first < first && r->last > last) {
			tail = r->last;
			r->last = first - 1;
			ptt_maps_insert(d, spare, last + 1, tail, r->call);
			return;
		}
		if (r->first < first)
			r->last = first - 1;
		else if (r->last > last)
			r->first = last + 1;
		else
			drop_range(d, r);
	}
}

/* Forget everything; the page table goes as a whole */
static void clear_maps(struct ptt_domain *d)
{
	struct rb_node *n;

	while ((n = rb_first(&d->maps))) {
		drop_range(d, rb_entry(n, struct ptt_range, rb));
		cond_resched();
	}
}

struct ptt_holder ptt_maps_holder = {
	.free_domain = clear_maps,
};

/*
 * One run of equal leaves, as iommu_pgsize() in drivers/iommu/iommu.c and
 * pt_compute_best_pgsize() in generic_pt/pt_iter.h choose them: the largest
 * size that both addresses are aligned to and that fits, up to where a larger
 * one becomes possible.
 */
static u64 leaf_run(u64 pgsizes, u64 iova, u64 pa, u64 size, u64 *leaf)
{
	u64 both = iova | pa, fit, next, offset;

	fit = pgsizes & GENMASK_ULL(fls64(size) - 1, 0);
	if (both)
		fit &= GENMASK_ULL(__ffs64(both), 0);
	*leaf = BIT_ULL(fls64(fit) - 1);

	next = pgsizes & ~(*leaf | (*leaf - 1));
	if (next) {
		next = BIT_ULL(__ffs64(next));
		offset = next - (both & (next - 1));
		if (!((iova ^ pa) & (next - 1)) && offset <= size && next <= size - offset)
			size = offset;
	}
	return size & ~(*leaf - 1);
}

/**
 * ptt_leaf_at() - the leaf entry that translates an IOVA
 * @call: the map call it came of
 * @iova: an address it mapped
 */
struct ptt_leaf ptt_leaf_at(const struct ptt_call *call, u64 iova)
{
	u64 n = div64_u64(iova - call->iova, call->istep);
	u64 at = call->iova + n * call->istep;
	u64 pa = call->pa + n * call->pstep;
	u64 left = call->size, leaf = call->leaf, run;

	if (leaf)
		return (struct ptt_leaf){ at + ((iova - at) & ~(leaf - 1)), leaf };
	for (;;) {
		run = leaf_run(call->pgsizes, at, pa, left, &leaf);
		if (iova - at < run)
			return (struct ptt_leaf){ at + ((iova - at) & ~(leaf - 1)), leaf };
		at += run;
		pa += run;
		left -= run;
	}
}

/* ptt_count_leaves() - leaf entries that repetition @n of @call makes */
u64 ptt_count_leaves(const struct ptt_call *call, u64 n)
{
	u64 iova = call->iova + n * call->istep, pa = call->pa + n * call->pstep;
	u64 left = call->size, leaf, run, nr = 0;

	if (call->leaf)
		return div64_u64(left, call->leaf);
	while (left) {
		run = leaf_run(call->pgsizes, iova, pa, left, &leaf);
		nr += div64_u64(run, leaf);
		iova += run;
		pa += run;
		left -= run;
	}
	return nr;
}

/* ptt_pa_in_use() - whether a live map call may reach these output addresses */
bool ptt_pa_in_use(u64 first, u64 last)
{
	struct ptt_domain *d;
	struct ptt_range *r;

	list_for_each_entry(d, &ptt_domains, node) {
		for (r = ptt_maps_first(d, 0); r; r = ptt_maps_next(r)) {
			const struct ptt_call *c = r->call;

			if (c->pa <= last &&
			    c->pa + (c->count - 1) * c->pstep + c->size - 1 >= first)
				return true;
			cond_resched();
		}
	}
	return false;
}
