/* SPDX-License-Identifier: GPL-2.0-only */
/* A storm: what its command, its threads and its file share. */
#ifndef __IOMMU_PTDUMP_TEST_STORM_H
#define __IOMMU_PTDUMP_TEST_STORM_H

#include <linux/completion.h>
#include <linux/kref.h>
#include <linux/types.h>

#include "ptdump_test.h"

struct task_struct;

/* States of a cell: 0 is nothing, the others are in ptt_storm.shape */
#define PTT_STORM_STATES 5

/**
 * struct ptt_shape - what a state maps in a cell
 * @pa: output address of cell 0; that of cell i is i cells further on
 * @size: bytes, from the cell's first IOVA
 * @leaf: bytes of each leaf
 * @prot: IOMMU_* flags
 * @letters: the same as the map command has it
 */
struct ptt_shape {
	u64 pa;
	u64 size;
	u64 leaf;
	int prot;
	const char *letters;
};

/**
 * struct ptt_change - one call of the core
 * @begin: ktime_get_ns() right before it
 * @end: and right after
 * @cell: whose
 * @order: among those of its thread
 * @state: of the cell, afterwards
 */
struct ptt_change {
	u64 begin;
	u64 end;
	u32 cell;
	u32 order;
	u8 state;
};

/**
 * struct ptt_storm_thread - one thread and the cells it alone changes
 * @storm: whose
 * @task: referenced
 * @index: the first of its cells, every nr_threads-th follows
 * @own: number of its cells
 * @quota: changes it makes
 * @more: changes it may make after these, until enough
 * @random: of its own, from seed and index
 * @log: its part of the storm's
 * @nr: changes made
 */
struct ptt_storm_thread {
	struct ptt_storm *storm;
	struct task_struct *task;
	unsigned int index;
	unsigned int own;
	unsigned int quota;
	unsigned int more;
	u64 random;
	struct ptt_change *log;
	unsigned int nr;
};

/**
 * struct ptt_storm - a storm, shared with those who have its file open
 * @ref: the module's, as long as it is not forgotten, and one an open file
 * @d: domain; valid while the module has not forgotten the storm
 * @name: the domain's
 * @iova: of cell 0
 * @cell: bytes of a cell
 * @gap: from one cell to the next
 * @nr_cells: how many
 * @nr_threads: how many
 * @ops: changes in all
 * @more: changes that may follow in all, slowly, until enough
 * @pause: us that a thread sleeps after each of its changes
 * @round: from the cells of one round to those of the next, or 0
 * @late: us that the first thread is behind the others in each round
 * @arrived: how often a thread has waited for the others
 * @ping: what the first thread asks the second, whether it runs right now
 * @pong: what the second has answered
 * @go: how often they ran at once
 * @enough: those that follow are no longer needed
 * @shape: of each state
 * @state: of each cell
 * @error: what ended it early, 0 or -errno
 * @running: threads that have not come to their end
 * @done: all have, and the log is in order
 * @log: changes; room for ops, more and one a thread
 * @nr_log: how many, when it is done
 * @thread: the threads
 */
struct ptt_storm {
	struct kref ref;
	struct ptt_domain *d;
	char name[PTT_NAME_LEN];
	u64 iova;
	u64 cell;
	u64 gap;
	unsigned int nr_cells;
	unsigned int nr_threads;
	unsigned int ops;
	unsigned int more;
	unsigned int pause;
	u64 round;
	unsigned int late;
	atomic_t arrived;
	u32 ping;
	u32 pong;
	unsigned int go;
	bool enough;
	struct ptt_shape shape[PTT_STORM_STATES];
	u8 *state;
	int error;
	atomic_t running;
	struct completion done;
	struct ptt_change *log;
	unsigned int nr_log;
	struct ptt_storm_thread thread[] __counted_by(nr_threads);
};

/* storm.c */
struct ptt_storm *ptt_storm_get(void);
void ptt_storm_put(struct ptt_storm *storm);

/* storm_run.c */
int ptt_storm_start(struct ptt_storm *storm, u64 seed);
void ptt_storm_stop(struct ptt_storm *storm);
void ptt_storm_unmap(struct ptt_storm *storm);

#endif
