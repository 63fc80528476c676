// SPDX-License-Identifier: GPL-2.0-only
/* The commands domain, destroy and reset, and the file that lists the domains. */
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "ptdump_test.h"

/* ptt_cmd_domain() - domain NAME dev=.. | domain NAME format=.. */
int ptt_cmd_domain(struct ptt_args *args, struct ptt_reply *reply)
{
	const char *format = args->value[PTT_FORMAT];
	char id[16], granule[16];
	struct ptt_domain *d;
	int ret;

	if (!ptt_name_ok(args->word[1]))
		return ptt_fail(reply, -EINVAL, "%.40s is not a name", args->word[1]);
	if (ptt_find_domain(args->word[1]))
		return ptt_fail(reply, -EEXIST, "there is a domain %s", args->word[1]);
	if (!format == !args->value[PTT_DEV])
		return ptt_fail(reply, -EINVAL, "a domain needs either dev= or format=");

	d = kzalloc_obj(*d);
	if (!d)
		return -ENOMEM;
	strscpy(d->name, args->word[1]);
	strscpy(d->dev_name, "-");
	d->maps = RB_ROOT;
	INIT_LIST_HEAD(&d->plants);
	d->sw = format;

	if (!format)
		ret = ptt_hw_domain(d, args, reply);
	else if (ptt_is_io_pgtable_format(format))
		ret = ptt_sw_io_pgtable(d, args, reply);
	else if (ptt_is_generic_pt_format(format))
		ret = ptt_sw_generic_pt(d, args, reply);
	else
		ret = ptt_fail(reply, -EINVAL, "unknown format %.31s", format);
	if (ret) {
		kfree(d);
		return ret;
	}

	list_add_tail(&d->node, &ptt_domains);
	return ptt_ok(reply,
		      "id=%s format=%s ias=%u oas=%u granule=%s pgsizes=0x%lx aperture=0x%llx-0x%llx",
		      ptt_dump_id(d->domain, id, sizeof(id)), d->format, d->ias, d->oas,
		      ptt_size_text(granule, sizeof(granule), ptt_granule(d)),
		      d->domain->pgsize_bitmap, d->aperture[0].first, d->aperture[0].last);
}

/* ptt_cmd_destroy() - destroy NAME */
int ptt_cmd_destroy(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_domain *d = ptt_find_domain(args->word[1]);

	if (!d)
		return ptt_fail(reply, -ENOENT, "no domain %.31s", args->word[1]);
	if (d->attached)
		return ptt_fail(reply, -EBUSY, "%s is attached", d->name);
	ptt_free_domain(d);
	return 0;
}

/* ptt_cmd_reset() - reset */
int ptt_cmd_reset(struct ptt_args *args, struct ptt_reply *reply)
{
	ptt_reset();
	return 0;
}

/* ptt_show_domains() - one line a domain; ptt_lock held */
void ptt_show_domains(struct seq_file *s)
{
	char id[16], granule[16];
	struct ptt_table table;
	struct ptt_domain *d;

	list_for_each_entry(d, &ptt_domains, node) {
		seq_printf(s, "%s id=%s kind=%s format=%s dev=%s stage=", d->name,
			   ptt_dump_id(d->domain, id, sizeof(id)), d->sw ? "sw" : "hw", d->format,
			   d->dev_name);
		if (d->stage)
			seq_printf(s, "%u", d->stage);
		else
			seq_puts(s, "-");
		seq_printf(s, " ias=%u oas=%u granule=%s attached=", d->ias, d->oas,
			   ptt_size_text(granule, sizeof(granule), ptt_granule(d)));
		ptt_show_attached(s, d);
		if (ptt_get_table(d, &table))
			seq_printf(s, " top=0x%llx levels=%u\n", (u64)table.top, table.levels);
		else
			seq_puts(s, " top=- levels=-\n");
	}
}
