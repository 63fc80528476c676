// SPDX-License-Identifier: GPL-2.0-only
/*
 * The threads of a storm. They use the domain as drivers do, without a lock:
 * each has cells of its own, and the core lets disjoint ranges be changed at
 * the same time.
 */
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/sched/task.h>
#include <linux/sort.h>
#include <linux/time64.h>

#include "storm.h"

/* us between changes that only go on for the sake of slow readers */
#define PTT_STORM_SLOW	100u

/* ns in which another processor answers that runs right now, and how long it is tried */
#define PTT_STORM_AT_ONCE	(20 * NSEC_PER_USEC)
#define PTT_STORM_LONG		(10 * NSEC_PER_MSEC)

/* xorshift64*, so that a seed gives the same operations on every kernel */
static u32 next_random(struct ptt_storm_thread *t, u32 below)
{
	t->random ^= t->random >> 12;
	t->random ^= t->random << 25;
	t->random ^= t->random >> 27;
	return mul_u32_u32(t->random * 0x2545f4914f6cdd1dull >> 32, below) >> 32;
}

/* Neighbouring seeds and threads must not give similar numbers, nor 0, where it would stay */
static u64 first_random(u64 seed, unsigned int index)
{
	u64 x = seed + (index + 1) * 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return (x ^ x >> 31) ?: 1;
}

static u64 cell_iova(const struct ptt_storm *s, u32 cell)
{
	if (s->round)
		return s->iova + cell / s->nr_threads * s->round + cell % s->nr_threads * s->gap;
	return s->iova + cell * s->gap;
}

static void note(struct ptt_storm_thread *t, u64 begin, u64 end, u32 cell, u8 state)
{
	t->log[t->nr] = (struct ptt_change){ begin, end, cell, t->nr, state };
	t->nr++;
}

/* One call of the core: map @to, or unmap when that is 0. False when it failed. */
static bool change(struct ptt_storm_thread *t, u32 cell, u8 to)
{
	struct ptt_storm *s = t->storm;
	const struct ptt_shape *shape = &s->shape[to ?: s->state[cell]];
	u64 iova = cell_iova(s, cell), pa = shape->pa + cell * s->cell, begin, end;
	unsigned int pause;
	size_t gone = 0;
	int ret = 0;

	begin = ktime_get_ns();
	if (to)
		ret = iommu_map(s->d->domain, iova, pa, shape->size, shape->prot, PTT_GFP);
	else
		gone = iommu_unmap(s->d->domain, iova, shape->size);
	end = ktime_get_ns();

	if (!to && gone != shape->size)
		ret = -EIO;
	note(t, begin, end, cell, to);
	s->state[cell] = to;
	pause = t->nr < t->quota ? s->pause : max(s->pause, PTT_STORM_SLOW);
	if (pause)
		usleep_range(pause, pause + pause / 4);
	if (!ret)
		return true;
	/* a part was mapped for a moment, the core has taken it back */
	if (to)
		note(t, begin, end, cell, 0);
	s->state[cell] = 0;
	cmpxchg(&s->error, 0, ret);
	return false;
}

static bool go_on(const struct ptt_storm_thread *t)
{
	const struct ptt_storm *s = t->storm;

	if (kthread_should_stop() || READ_ONCE(s->error))
		return false;
	return t->nr < t->quota || (t->nr < t->quota + t->more && !READ_ONCE(s->enough));
}

static int compare(u64 a, u64 b)
{
	return (a > b) - (a < b);
}

static int by_time(const void *a, const void *b)
{
	const struct ptt_change *x = a, *y = b;

	return compare(x->begin, y->begin) ?: compare(x->order, y->order);
}

/* Nobody writes to the log any more: close the gaps between the threads' parts */
static void finish(struct ptt_storm *s)
{
	unsigned int i;

	for (i = 0; i < s->nr_threads; i++) {
		memmove(s->log + s->nr_log, s->thread[i].log,
			s->thread[i].nr * sizeof(*s->log));
		s->nr_log += s->thread[i].nr;
	}
	sort_nonatomic(s->log, s->nr_log, sizeof(*s->log), by_time, NULL);
	complete_all(&s->done);
}

/* Each changes a cell of its own, as it likes, and changes it again */
static void change_at_random(struct ptt_storm_thread *t)
{
	struct ptt_storm *s = t->storm;
	u32 cell;
	u8 to;

	while (go_on(t)) {
		cell = t->index + next_random(t, t->own) * s->nr_threads;
		to = next_random(t, PTT_STORM_STATES - 1);
		if (to >= s->state[cell])
			to++;
		if (s->state[cell] && !change(t, cell, 0))
			break;
		if (to && go_on(t) && !change(t, cell, to))
			break;
		cond_resched();
	}
}

/* Wait for the others, for the @nr-th time; false when the storm ends early */
static bool meet(struct ptt_storm *s, unsigned int nr)
{
	int all = nr * s->nr_threads;

	atomic_inc(&s->arrived);
	while (atomic_read(&s->arrived) < all) {
		if (kthread_should_stop() || READ_ONCE(s->error))
			return false;
		cpu_relax();
		cond_resched();
	}
	return true;
}

/*
 * A busy host runs virtual processors in turn, and what lasts microseconds is
 * over before the next one's turn. So the first thread goes on, for the @nr-th
 * time, when the second, on another processor, has just answered at once; with
 * less than two cores, when it has tried long enough.
 */
static bool run_at_once(struct ptt_storm_thread *t, unsigned int nr)
{
	struct ptt_storm *s = t->storm;
	u64 begin = ktime_get_ns(), asked = begin, now;
	u32 ping = READ_ONCE(s->ping) + 1;

	if (!t->index)
		WRITE_ONCE(s->ping, ping);
	while (READ_ONCE(s->go) < nr) {
		if (kthread_should_stop() || READ_ONCE(s->error))
			return false;
		cpu_relax();
		if (t->index == 1) {
			WRITE_ONCE(s->pong, READ_ONCE(s->ping));
		} else if (!t->index && READ_ONCE(s->pong) == ping) {
			now = ktime_get_ns();
			if (now - asked < PTT_STORM_AT_ONCE ||
			    now - begin > PTT_STORM_LONG)
				WRITE_ONCE(s->go, nr);
			asked = now;
			WRITE_ONCE(s->ping, ++ping);
		}
		cond_resched();
	}
	return true;
}

/*
 * All threads map at the same moment where there is no table yet, each its own
 * cell, and race to install the tables that lead to their cells.
 */
static void change_in_rounds(struct ptt_storm_thread *t)
{
	struct ptt_storm *s = t->storm;
	unsigned int round;
	u32 cell;

	for (round = 0; round < s->nr_cells / s->nr_threads; round++) {
		cell = round * s->nr_threads + t->index;
		if (!meet(s, round + 2))
			break;
		if (s->nr_threads > 1 && !s->late && !run_at_once(t, round + 1))
			break;
		if (s->late && !t->index)
			usleep_range(s->late, s->late + s->late / 4);
		if (!change(t, cell, 1 + next_random(t, PTT_STORM_STATES - 1)))
			break;
		/* what one is late for is not taken away from the other */
		if (s->late || !next_random(t, 2))
			continue;
		if (!change(t, cell, 0))
			break;
		if (next_random(t, 2) && !change(t, cell, 1 + next_random(t, PTT_STORM_STATES - 1)))
			break;
	}
}

static int run(void *data)
{
	struct ptt_storm_thread *t = data;
	struct ptt_storm *s = t->storm;

	/* nobody is done before the last one begins */
	if (meet(s, 1)) {
		if (s->round)
			change_in_rounds(t);
		else
			change_at_random(t);
	}
	if (atomic_dec_and_test(&s->running))
		finish(s);
	return 0;
}

static void divide(struct ptt_storm *s, u64 seed)
{
	struct ptt_change *log = s->log;
	unsigned int i;

	for (i = 0; i < s->nr_threads; i++) {
		struct ptt_storm_thread *t = &s->thread[i];

		t->storm = s;
		t->index = i;
		t->own = (s->nr_cells - i + s->nr_threads - 1) / s->nr_threads;
		t->quota = s->ops / s->nr_threads + (i < s->ops % s->nr_threads);
		t->more = s->more / s->nr_threads;
		t->random = first_random(seed, i);
		/* one that fails takes two */
		t->log = log;
		log += t->quota + t->more + 1;
	}
}

/**
 * ptt_storm_start() - make the threads and let them go
 * @s: all but the threads' fields is filled in
 * @seed: decides what they do
 *
 * Return: 0, or -errno and there are no threads.
 */
int ptt_storm_start(struct ptt_storm *s, u64 seed)
{
	unsigned int i, cpu = cpumask_first(cpu_online_mask);
	struct task_struct *task;

	divide(s, seed);
	atomic_set(&s->running, s->nr_threads);
	for (i = 0; i < s->nr_threads; i++) {
		task = kthread_create_on_cpu(run, &s->thread[i], cpu, "ptt_storm/%u");
		if (IS_ERR(task)) {
			ptt_storm_stop(s);
			return PTR_ERR(task);
		}
		s->thread[i].task = get_task_struct(task);
		cpu = cpumask_next(cpu, cpu_online_mask);
		if (cpu >= nr_cpu_ids)
			cpu = cpumask_first(cpu_online_mask);
	}
	for (i = 0; i < s->nr_threads; i++)
		wake_up_process(s->thread[i].task);
	return 0;
}

/* ptt_storm_stop() - there are no threads afterwards, and the log is in order */
void ptt_storm_stop(struct ptt_storm *s)
{
	unsigned int i;

	if (!completion_done(&s->done))
		cmpxchg(&s->error, 0, -EINTR);
	for (i = 0; i < s->nr_threads; i++) {
		if (s->thread[i].task)
			kthread_stop_put(s->thread[i].task);
		s->thread[i].task = NULL;
	}
	/* one that was stopped before it began has not counted itself out */
	if (!completion_done(&s->done))
		finish(s);
}

/* ptt_storm_unmap() - unmap all cells; there are no threads any more */
void ptt_storm_unmap(struct ptt_storm *s)
{
	u32 i;

	for (i = 0; i < s->nr_cells; i++) {
		if (s->state[i])
			iommu_unmap(s->d->domain, cell_iova(s, i), s->shape[s->state[i]].size);
		s->state[i] = 0;
		cond_resched();
	}
}
