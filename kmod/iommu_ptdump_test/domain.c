// SPDX-License-Identifier: GPL-2.0-only
/* The page tables the module owns, and the parts of the module that hold something for them. */
#include <linux/bits.h>
#include <linux/list.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "ptdump_test.h"

LIST_HEAD(ptt_domains);
static LIST_HEAD(ptt_holders);

/* ptt_find_domain() - the domain of that name or NULL; ptt_lock held */
struct ptt_domain *ptt_find_domain(const char *name)
{
	struct ptt_domain *d;

	list_for_each_entry(d, &ptt_domains, node)
		if (!strcmp(d->name, name))
			return d;
	return NULL;
}

/* ptt_granule() - bytes of the smallest page */
u64 ptt_granule(const struct ptt_domain *d)
{
	return BIT_ULL(__ffs(d->domain->pgsize_bitmap));
}

/* ptt_holder_register() - @h learns of every domain that is freed; ptt_lock held */
void ptt_holder_register(struct ptt_holder *h)
{
	list_add_tail(&h->node, &ptt_holders);
}

/* ptt_at_rest() - refuse a command that would meet what a holder keeps in a domain */
int ptt_at_rest(const struct ptt_domain *d, struct ptt_reply *reply)
{
	struct ptt_holder *h;
	int ret = 0;

	list_for_each_entry(h, &ptt_holders, node) {
		if (h->busy)
			ret = h->busy(d, reply);
		if (ret)
			break;
	}
	return ret;
}

/* ptt_free_domain() - the holders let go of a domain, then it is freed; ptt_lock held */
void ptt_free_domain(struct ptt_domain *d)
{
	struct ptt_holder *h;

	list_del(&d->node);
	list_for_each_entry(h, &ptt_holders, node)
		if (h->free_domain)
			h->free_domain(d);
	d->free(d);
	kfree(d);
}

/* ptt_reset() - detach and free everything; ptt_lock held */
void ptt_reset(void)
{
	struct ptt_domain *d, *next;
	struct ptt_holder *h;

	list_for_each_entry(h, &ptt_holders, node)
		if (h->before_reset)
			h->before_reset();
	list_for_each_entry_safe(d, next, &ptt_domains, node)
		ptt_free_domain(d);
	list_for_each_entry(h, &ptt_holders, node)
		if (h->after_reset)
			h->after_reset();
}
