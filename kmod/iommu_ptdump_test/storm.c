// SPDX-License-Identifier: GPL-2.0-only
/* The commands storm and calm: one storm at a time, over one domain. */
#include <linux/bits.h>
#include <linux/cpumask.h>
#include <linux/err.h>
#include <linux/log2.h>
#include <linux/math64.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "storm.h"

#define MAX_CELLS	BIT(16)
#define MAX_THREADS	64
#define MAX_OPS		200000
#define MAX_PAUSE	10000
#define MAX_LATE	100000

static struct ptt_storm *the_storm;

static void storm_release(struct kref *ref)
{
	struct ptt_storm *s = container_of(ref, struct ptt_storm, ref);

	kvfree(s->log);
	kvfree(s->state);
	kfree(s);
}

/* ptt_storm_get() - the storm that is not forgotten, or NULL; ptt_lock held */
struct ptt_storm *ptt_storm_get(void)
{
	if (the_storm)
		kref_get(&the_storm->ref);
	return the_storm;
}

void ptt_storm_put(struct ptt_storm *s)
{
	if (s)
		kref_put(&s->ref, storm_release);
}

static void forget(void)
{
	ptt_storm_put(the_storm);
	the_storm = NULL;
}

/* ptt_no_storm() - refuse what a storm's cells are not to be disturbed by */
int ptt_no_storm(const struct ptt_domain *d, struct ptt_reply *reply)
{
	if (!the_storm || the_storm->d != d)
		return 0;
	return ptt_fail(reply, -EBUSY, "a storm is over %s, calm it first", d->name);
}

/* ptt_no_running_storm() - the same as long as its threads run */
int ptt_no_running_storm(const struct ptt_domain *d, struct ptt_reply *reply)
{
	if (the_storm && completion_done(&the_storm->done))
		return 0;
	return ptt_no_storm(d, reply);
}

/* End a domain's storm before the domain goes; its table goes as a whole */
static void end_storm(struct ptt_domain *d)
{
	if (!the_storm || the_storm->d != d)
		return;
	ptt_storm_stop(the_storm);
	forget();
}

struct ptt_holder ptt_storm_holder = {
	.busy = ptt_no_storm,
	.free_domain = end_storm,
};

/*
 * Smallest pages come of an output address that is a page off: nothing larger
 * fits anywhere then, and it takes one call of the core. They are in the upper
 * half of what the table can put out, where there is no memory to account for.
 */
static int make_shapes(struct ptt_storm *s, struct ptt_domain *d, struct ptt_reply *reply)
{
	u64 granule = ptt_granule(d), step = 2 * roundup_pow_of_two(s->nr_cells * s->cell);
	u64 base = BIT_ULL(d->oas - 1), off = s->cell > granule ? granule : 0;
	static const struct ptt_shape kinds[PTT_STORM_STATES] = {
		[1] = { .prot = IOMMU_READ | IOMMU_WRITE | IOMMU_NOEXEC, .letters = "rw" },
		[2] = { .prot = IOMMU_READ | IOMMU_NOEXEC, .letters = "r" },
		[3] = { .prot = IOMMU_READ | IOMMU_WRITE | IOMMU_NOEXEC, .letters = "rw" },
		[4] = { .prot = IOMMU_READ | IOMMU_WRITE, .letters = "rwx" },
	};
	unsigned int i;

	if (step > base / (PTT_STORM_STATES - 1))
		return ptt_fail(reply, -ERANGE, "no room for the cells in %u bits of PA", d->oas);
	for (i = 1; i < PTT_STORM_STATES; i++) {
		s->shape[i] = kinds[i];
		s->shape[i].pa = base + (i - 1) * step + off;
		s->shape[i].size = s->cell;
		s->shape[i].leaf = granule;
	}
	if (d->domain->pgsize_bitmap & s->cell) {
		s->shape[3].pa -= off;
		s->shape[3].leaf = s->cell;
	}
	if (off)
		s->shape[4].size /= 2;
	return 0;
}

/* The cells are the repetitions of an unmap, as far as their addresses go */
static int parse_cells(struct ptt_domain *d, struct ptt_args *args, struct ptt_call *span,
		       struct ptt_reply *reply)
{
	struct ptt_args alike = *args;
	u64 cells, cell, gap = U64_MAX;
	int ret;

	if (!args->value[PTT_CELLS])
		return ptt_fail(reply, -EINVAL, "a storm needs cells=");
	ret = ptt_arg_number(args, PTT_CELLS, 1, MAX_CELLS, &cells, reply);
	if (!ret)
		ret = ptt_arg_number(args, PTT_GAP, 0, U64_MAX, &gap, reply);
	if (ret)
		return ret;
	if (!ptt_parse_number(args->word[3], &cell) && gap < cell)
		return ptt_fail(reply, -EINVAL, "gap= is smaller than CELL: cells overlap");
	if (args->value[PTT_ROUND] && !args->value[PTT_THREADS])
		return ptt_fail(reply, -EINVAL, "round= needs threads=");
	/* parse_rounds() looks at the other rounds */
	alike.value[PTT_COUNT] = args->value[args->value[PTT_ROUND] ? PTT_THREADS : PTT_CELLS];
	alike.value[PTT_ISTEP] = args->value[PTT_GAP];
	ret = ptt_parse_span(d, &alike, span, reply);
	if (ret)
		return ret;
	if (!is_power_of_2(span->size) || (span->iova | span->istep) & (span->size - 1))
		return ptt_fail(reply, -EINVAL, "CELL: a power of 2; IOVA, gap=: multiples of it");
	if (span->size / ptt_granule(d) > PTT_MAX_COUNT / cells)
		return ptt_fail(reply, -E2BIG, "more than %lu leaves in one storm", PTT_MAX_COUNT);
	ret = ptt_check_holes(d, span, reply);
	span->count = cells;
	return ret;
}

/*
 * In rounds the cells of all threads lie together, those of the next round
 * further on. Between the cells of one round nothing may be mapped either.
 */
static int parse_rounds(struct ptt_domain *d, struct ptt_args *args, struct ptt_call *span,
			u64 threads, u64 *round, struct ptt_reply *reply)
{
	u64 width = (threads - 1) * span->istep + span->size;
	struct ptt_call rounds = *span;
	int ret;

	ret = ptt_arg_number(args, PTT_ROUND, width, U64_MAX, round, reply);
	if (ret)
		return ret;
	if (*round & (span->size - 1))
		return ptt_fail(reply, -EINVAL, "round= is not a multiple of CELL");
	if (span->count % threads)
		return ptt_fail(reply, -EINVAL, "cells= is not a multiple of threads=");
	rounds.size = width;
	rounds.count = div64_u64(span->count, threads);
	rounds.istep = *round;
	if (check_mul_overflow(rounds.istep, rounds.count, &width) ||
	    check_add_overflow(width, span->iova, &width) ||
	    !ptt_in_aperture(d, span->iova, width - 1))
		return ptt_fail(reply, -ERANGE, "not all rounds are inside the aperture");
	return ptt_check_holes(d, &rounds, reply);
}

static struct ptt_storm *make_storm(struct ptt_domain *d, const struct ptt_call *span,
				    unsigned int threads, unsigned int ops, unsigned int more)
{
	struct ptt_storm *s = kzalloc_flex(*s, thread, threads);

	if (!s)
		return NULL;
	kref_init(&s->ref);
	init_completion(&s->done);
	s->nr_threads = threads;
	s->d = d;
	strscpy(s->name, d->name);
	s->iova = span->iova;
	s->cell = span->size;
	s->gap = span->istep;
	s->nr_cells = span->count;
	s->ops = ops;
	s->more = more;
	s->state = kvcalloc(s->nr_cells, sizeof(*s->state), GFP_KERNEL_ACCOUNT);
	s->log = kvmalloc_array(ops + more + threads, sizeof(*s->log), GFP_KERNEL_ACCOUNT);
	if (!s->state || !s->log) {
		ptt_storm_put(s);
		return NULL;
	}
	return s;
}

/**
 * ptt_cmd_storm() - storm NAME IOVA CELL cells=N [gap=SIZE] [threads=T] [ops=K] [more=M]
 *		     [pause=US] [seed=S] [round=SIZE] [late=US]
 * @args: words
 * @reply: says what is wrong
 *
 * Return: 0 when the threads run, or -errno.
 */
int ptt_cmd_storm(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_domain *d = ptt_find_domain(args->word[1]);
	u64 threads, ops = 1000, more = 0, pause = 0, seed = 0, round = 0, late = 0;
	struct ptt_call span;
	struct ptt_storm *s;
	int ret;

	if (!d)
		return ptt_fail(reply, -ENOENT, "no domain %.31s", args->word[1]);
	ret = ptt_at_rest(d, reply);
	if (ret)
		return ret;
	if (the_storm)
		return ptt_fail(reply, -EBUSY, "there is a storm over %s", the_storm->name);
	ret = parse_cells(d, args, &span, reply);
	if (ret)
		return ret;
	threads = min_t(u64, num_online_cpus(), min_t(u64, span.count, MAX_THREADS));
	ret = ptt_arg_number(args, PTT_THREADS, 1, min_t(u64, span.count, MAX_THREADS), &threads,
			     reply);
	if (!ret)
		ret = ptt_arg_number(args, PTT_OPS, 1, MAX_OPS, &ops, reply);
	if (!ret)
		ret = ptt_arg_number(args, PTT_MORE, 0, MAX_OPS, &more, reply);
	if (!ret)
		ret = ptt_arg_number(args, PTT_PAUSE, 0, MAX_PAUSE, &pause, reply);
	if (!ret)
		ret = ptt_arg_number(args, PTT_SEED, 0, U64_MAX, &seed, reply);
	if (!ret)
		ret = ptt_arg_number(args, PTT_LATE, 0, MAX_LATE, &late, reply);
	if (!ret && args->value[PTT_ROUND]) {
		ret = parse_rounds(d, args, &span, threads, &round, reply);
		/* map, unmap and map */
		ops = 3 * span.count;
	}
	if (ret)
		return ret;
	if (round ? args->value[PTT_OPS] || more || pause : late)
		return ptt_fail(reply, -EINVAL,
				"rounds take no ops=, more= and pause=; late= is of rounds");

	s = make_storm(d, &span, threads, ops, more);
	if (!s)
		return -ENOMEM;
	s->pause = pause;
	s->round = round;
	s->late = late;
	ret = make_shapes(s, d, reply);
	if (!ret) {
		ret = ptt_storm_start(s, seed);
		if (ret)
			ptt_fail(reply, ret, "the threads do not start");
	}
	if (ret) {
		ptt_storm_put(s);
		return ret;
	}
	the_storm = s;
	return 0;
}

static struct ptt_storm *find_storm(const struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_domain *d = ptt_find_domain(args->word[1]);

	if (d && the_storm && the_storm->d == d)
		return the_storm;
	if (d)
		ptt_fail(reply, -ENOENT, "no storm over %s", d->name);
	else
		ptt_fail(reply, -ENOENT, "no domain %.31s", args->word[1]);
	return NULL;
}

/* ptt_cmd_enough() - enough NAME: the changes of more= that have not been made are not needed */
int ptt_cmd_enough(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_storm *s = find_storm(args, reply);

	if (!s)
		return -ENOENT;
	WRITE_ONCE(s->enough, true);
	return 0;
}

/* ptt_cmd_calm() - calm NAME: wait for the end, unmap the cells, forget the storm */
int ptt_cmd_calm(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_storm *s = find_storm(args, reply);

	if (!s)
		return -ENOENT;
	WRITE_ONCE(s->enough, true);
	if (wait_for_completion_killable(&s->done))
		return -EINTR;
	ptt_storm_stop(s);
	ptt_storm_unmap(s);
	ptt_ok(reply, "changes=%u error=%d", s->nr_log, -s->error);
	forget();
	return 0;
}
