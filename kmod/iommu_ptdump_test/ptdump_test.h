/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Test module for page-table dumps: what its files share. See README for the
 * commands.
 */
#ifndef __IOMMU_PTDUMP_TEST_H
#define __IOMMU_PTDUMP_TEST_H

#include <linux/bits.h>
#include <linux/gfp_types.h>
#include <linux/iommu.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/sizes.h>
#include <linux/types.h>

#include "compat.h"

#define PTT_NAME_LEN	32		/* with the terminating zero */
#define PTT_MAX_COUNT	BIT(22)		/* repetitions, and leaves, of one command */
#define PTT_MAX_RANGES	BIT(20)		/* live ranges in all domains together */
#define PTT_MAX_BATCH	SZ_4M	/* bytes of one write to control */
#define PTT_MAX_STATUS	SZ_16M	/* bytes the status file may grow to */

/*
 * Out of memory must fail the command, not wake the OOM killer; page tables are
 * charged to whoever writes to control.
 */
#define PTT_GFP (GFP_KERNEL_ACCOUNT | __GFP_NORETRY | __GFP_NOWARN)

struct file_operations;
struct io_pgtable_cfg;
struct io_pgtable_ops;
struct seq_file;
struct ptt_device;

extern struct mutex ptt_lock;

/**
 * struct ptt_reply - what a command has to say for its status line
 * @text: after "ok " or "error NAME "
 */
struct ptt_reply {
	char text[512];
};

__printf(3, 4) int ptt_fail(struct ptt_reply *reply, int err, const char *fmt, ...);
__printf(2, 3) int ptt_ok(struct ptt_reply *reply, const char *fmt, ...);

/* Keys of key=value words */
enum ptt_key {
	PTT_DEV,
	PTT_STAGE,
	PTT_FORMAT,
	PTT_GRANULE,
	PTT_IAS,
	PTT_OAS,
	PTT_QUIRKS,
	PTT_PAGES,
	PTT_FEATURES,
	PTT_LEVELS,
	PTT_VASZ,
	PTT_OASZ,
	PTT_LEAF,
	PTT_COUNT,
	PTT_ISTEP,
	PTT_PSTEP,
	PTT_SEED,
	PTT_TO,
	PTT_LEN,
	PTT_DOMAIN,
	PTT_RAW,
	PTT_CELLS,
	PTT_GAP,
	PTT_THREADS,
	PTT_OPS,
	PTT_MORE,
	PTT_PAUSE,
	PTT_ROUNDS,
	PTT_ROUND,
	PTT_LATE,
	PTT_AT,
	PTT_NR_KEYS
};

/**
 * struct ptt_args - the words of one command line, split in place
 * @nr_words: number of words that are not key=value, the command included
 * @word: those words
 * @value: text after key=, or NULL
 */
struct ptt_args {
	unsigned int nr_words;
	char *word[8];
	const char *value[PTT_NR_KEYS];
};

/* parse.c */
int ptt_split(char *line, struct ptt_args *args, struct ptt_reply *reply);
int ptt_parse_number(const char *text, u64 *value);
int ptt_arg_number(const struct ptt_args *args, enum ptt_key key, u64 min, u64 max,
		   u64 *value, struct ptt_reply *reply);
int ptt_parse_prot(const char *text, int *prot, struct ptt_reply *reply);
int ptt_parse_words(const char *text, const char *const *known, unsigned int nr,
		    unsigned long *bits, struct ptt_reply *reply);
bool ptt_name_ok(const char *name);
const char *ptt_key_name(enum ptt_key key);
const char *ptt_size_text(char *buf, size_t len, u64 size);
const char *ptt_errno_name(int err);

/* batch.c, commands.c */
ssize_t ptt_run_batch(char *text, size_t len);
int ptt_run_line(char *line, struct ptt_reply *reply);

/* struct ptt_status - the status file's text, shared by those who have it open */
struct ptt_status {
	struct kref ref;
	size_t len;
	size_t size;
	bool cut;
	char *text;
};

struct ptt_status *ptt_status_get(void);
void ptt_status_put(struct ptt_status *status);
void ptt_status_drop(void);

struct ptt_table;

struct ptt_aperture {
	u64 first;
	u64 last;
};

/**
 * struct ptt_domain - a page table under test
 * @node: in ptt_domains
 * @name: as the user calls it
 * @domain: the page table's iommu_domain, a wrapper for software tables
 * @free: gives @domain back
 * @dev_name: device it was made for, or "-"
 * @format: page-table format
 * @stage: 1, 2, or 0 where the word means nothing
 * @ias: bits of IOVA
 * @oas: bits of PA
 * @aperture: the IOVAs it takes; two with sign extension
 * @nr_apertures: how many
 * @attached: number of devices attached by name
 * @maps: what is mapped, struct ptt_range ordered by IOVA
 * @sw: software table, cannot be attached
 * @plants: items that were overwritten, the newest first
 * @arm_cfg: what the hardware of an Arm table is to be told, NULL for others
 * @table: where the table is now; NULL for those of Arm and of generic_pt
 * @told: what hardware was told of it, where its driver tells nothing, else NULL
 */
struct ptt_domain {
	struct list_head node;
	char name[PTT_NAME_LEN];
	struct iommu_domain *domain;
	void (*free)(struct ptt_domain *d);
	char dev_name[PTT_NAME_LEN];
	const char *format;
	unsigned int stage;
	unsigned int ias;
	unsigned int oas;
	struct ptt_aperture aperture[2];
	unsigned int nr_apertures;
	unsigned int attached;
	struct rb_root maps;
	bool sw;
	struct list_head plants;
	const struct io_pgtable_cfg *arm_cfg;
	bool (*table)(const struct ptt_domain *d, struct ptt_table *table);
	struct ptt_told *told;
};

/**
 * struct ptt_holder - a part of the module that holds something for domains
 * @node: in the list of holders
 * @busy: 0, or -errno where a command would meet what it holds in a domain
 * @free_domain: lets go of what it holds for a domain, which is freed next
 * @before_reset: called when reset begins, all domains are there
 * @after_reset: called when reset ends, no domain is left
 *
 * All but @node may be NULL. Holders are called in the order in which they were
 * registered, with ptt_lock held.
 */
struct ptt_holder {
	struct list_head node;
	int (*busy)(const struct ptt_domain *d, struct ptt_reply *reply);
	void (*free_domain)(struct ptt_domain *d);
	void (*before_reset)(void);
	void (*after_reset)(void);
};

extern struct ptt_holder ptt_storm_holder, ptt_plant_holder, ptt_maps_holder;
extern struct ptt_holder ptt_hw_holder, ptt_buffer_holder, ptt_shared_holder;

/* domain.c */
extern struct list_head ptt_domains;
struct ptt_domain *ptt_find_domain(const char *name);
u64 ptt_granule(const struct ptt_domain *d);
void ptt_holder_register(struct ptt_holder *h);
int ptt_at_rest(const struct ptt_domain *d, struct ptt_reply *reply);
void ptt_free_domain(struct ptt_domain *d);
void ptt_reset(void);

/* domain_commands.c */
int ptt_cmd_domain(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_destroy(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_reset(struct ptt_args *args, struct ptt_reply *reply);
void ptt_show_domains(struct seq_file *s);

/**
 * struct ptt_table - a page table as its hardware is told of it
 * @top: physical address of the top table, of the first where several stand in a row
 * @levels: levels in use
 * @bits: bits of IOVA that are looked up
 * @granule_lg2: log2 of the smallest page, and of a table that is not the top
 * @index_bits: bits of IOVA that one level looks up
 * @coherent: the hardware sees what the CPU writes
 * @grows: the top may get another level above it
 */
struct ptt_table {
	phys_addr_t top;
	unsigned int levels;
	unsigned int bits;
	unsigned int granule_lg2;
	unsigned int index_bits;
	bool coherent;
	bool grows;
};

/* table.c */
int ptt_read_words(phys_addr_t at, u64 *words, unsigned int nr);
bool ptt_get_table(const struct ptt_domain *d, struct ptt_table *table);

/* dump.c */
const char *ptt_dump_id(const struct iommu_domain *domain, char *buf, size_t len);
void ptt_dump_add(struct io_pgtable_ops *ops, struct iommu_domain *domain);
void ptt_dump_del(struct iommu_domain *domain);
void ptt_dump_settle(void);

/* generic_pt.c, or no_generic_pt.c */
bool ptt_is_generic_pt(const struct iommu_domain *domain);
bool ptt_describe_generic_pt(struct ptt_domain *d);
bool ptt_generic_pt_table(const struct ptt_domain *d, struct ptt_table *table);

/* sw_io_pgtable.c, sw_generic_pt.c: fill @d, 0 or -errno */
int ptt_sw_io_pgtable(struct ptt_domain *d, struct ptt_args *args, struct ptt_reply *reply);
int ptt_sw_generic_pt(struct ptt_domain *d, struct ptt_args *args, struct ptt_reply *reply);
int ptt_sw_init(void);
void ptt_sw_exit(void);
bool ptt_is_io_pgtable_format(const char *format);
bool ptt_is_generic_pt_format(const char *format);

/**
 * struct ptt_call - one map command: what decides how it was cut into leaves
 * @refs: live ranges that came of it
 * @iova: first IOVA of the first repetition
 * @pa: its output address
 * @size: bytes of one repetition
 * @istep: from one repetition's IOVA to the next
 * @pstep: the same for the output address
 * @count: repetitions
 * @leaf: forced leaf size, or 0 where the core chose
 * @pgsizes: the domain's page sizes at the time
 */
struct ptt_call {
	unsigned int refs;
	u64 iova;
	u64 pa;
	u64 size;
	u64 istep;
	u64 pstep;
	u64 count;
	u64 leaf;
	u64 pgsizes;
};

/* struct ptt_range - mapped IOVAs @first to @last, inclusive, that came of @call */
struct ptt_range {
	union {
		struct rb_node rb;
		struct ptt_range *next;
	};
	u64 first;
	u64 last;
	struct ptt_call *call;
};

/* struct ptt_leaf - one leaf entry as the map call was cut */
struct ptt_leaf {
	u64 first;
	u64 size;
};

/* mappings.c */
struct ptt_range *ptt_maps_first(const struct ptt_domain *d, u64 iova);
struct ptt_range *ptt_maps_next(struct ptt_range *r);
struct ptt_range *ptt_ranges_alloc(u64 nr);
void ptt_ranges_free(struct ptt_range *list);
void ptt_maps_insert(struct ptt_domain *d, struct ptt_range **spare, u64 first, u64 last,
		     struct ptt_call *call);
void ptt_maps_erase(struct ptt_domain *d, struct ptt_range **spare, u64 first, u64 last);
struct ptt_leaf ptt_leaf_at(const struct ptt_call *call, u64 iova);
u64 ptt_count_leaves(const struct ptt_call *call, u64 n);
bool ptt_pa_in_use(u64 first, u64 last);

/* plant.c */
int ptt_cmd_plant(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_restore(struct ptt_args *args, struct ptt_reply *reply);
int ptt_no_plant(const struct ptt_domain *d, struct ptt_reply *reply);

/* map.c, unmap.c */
bool ptt_in_aperture(const struct ptt_domain *d, u64 first, u64 last);
int ptt_parse_span(struct ptt_domain *d, struct ptt_args *args, struct ptt_call *span,
		   struct ptt_reply *reply);
int ptt_check_holes(struct ptt_domain *d, const struct ptt_call *span, struct ptt_reply *reply);
int ptt_check_map(struct ptt_domain *d, const struct ptt_call *span, struct ptt_reply *reply);
int ptt_map_one(struct ptt_domain *d, const struct ptt_call *span, u64 n, int prot);
bool ptt_killed(u64 done);
int ptt_may_grow(u64 done);
int ptt_cmd_map(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_unmap(struct ptt_args *args, struct ptt_reply *reply);

/* split.c */
int ptt_cmd_split(struct ptt_args *args, struct ptt_reply *reply);

/* clean.c */
int ptt_cmd_clean(struct ptt_args *args, struct ptt_reply *reply);

/* translate.c */
int ptt_cmd_translate(struct ptt_args *args, struct ptt_reply *reply);

/* hw.c, dma.c */
int ptt_hw_register(void);
void ptt_hw_unregister(void);
int ptt_hw_domain(struct ptt_domain *d, struct ptt_args *args, struct ptt_reply *reply);
bool ptt_own_tables(void);
int ptt_cmd_attach(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_detach(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_replace(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_dma(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_load(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_probe(struct ptt_args *args, struct ptt_reply *reply);
void ptt_show_devices(struct seq_file *s);
void ptt_show_attached(struct seq_file *s, const struct ptt_domain *d);

/* dma_api.c */
int ptt_cmd_share(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_unshare(struct ptt_args *args, struct ptt_reply *reply);

/* hardware.c */
int ptt_show_hardware(struct seq_file *s);

/* buffer.c */
int ptt_cmd_buffer(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_unbuffer(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_peek(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_fill(struct ptt_args *args, struct ptt_reply *reply);
int ptt_parse_pa(char *text, u64 *pa, struct ptt_reply *reply);

/* storm.c, storm_log.c */
extern const struct file_operations ptt_storm_fops;
int ptt_cmd_storm(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_enough(struct ptt_args *args, struct ptt_reply *reply);
int ptt_cmd_calm(struct ptt_args *args, struct ptt_reply *reply);
int ptt_no_storm(const struct ptt_domain *d, struct ptt_reply *reply);
int ptt_no_running_storm(const struct ptt_domain *d, struct ptt_reply *reply);

/* cost.c */
int ptt_cmd_cost(struct ptt_args *args, struct ptt_reply *reply);

/* occupy.c */
extern const struct file_operations ptt_occupy_fops;

/* grace.c */
extern const struct file_operations ptt_grace_fops;
extern const struct file_operations ptt_grace_expedited_fops;
extern const struct file_operations ptt_rcu_barrier_fops;
int ptt_grace_init(void);
void ptt_grace_exit(void);

#endif
