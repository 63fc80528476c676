// SPDX-License-Identifier: GPL-2.0-only
/*
 * The C interface of the reference implementation of the dump, where the kernel
 * has it. Another dump is found by what its files say alone.
 */
#include <linux/kernel.h>
#ifdef PTT_HAS_DUMP
#include <linux/io-pgtable.h>

#include "iommu-ptdump.h"
#endif

#include "ptdump_test.h"

/**
 * ptt_dump_id() - the name of a domain's directory
 * @domain: domain
 * @buf: may be used for the text
 * @len: its size
 *
 * Return: the name, "-" where there is no directory, "?" where that is not known.
 */
const char *ptt_dump_id(const struct iommu_domain *domain, char *buf, size_t len)
{
#ifdef PTT_HAS_DUMP
	u32 id = iommu_ptd_id(domain);

	if (!id)
		return "-";
	scnprintf(buf, len, "%u", id);
	return buf;
#else
	return "?";
#endif
}

/* ptt_dump_add() - show a software table, which has no driver that would */
void ptt_dump_add(struct io_pgtable_ops *ops, struct iommu_domain *domain)
{
#ifdef PTT_HAS_DUMP
	io_pgtable_ptd_add(ops, domain);
#endif
}

/* ptt_dump_del() - do not show it any more; before the table goes */
void ptt_dump_del(struct iommu_domain *domain)
{
#ifdef PTT_HAS_DUMP
	iommu_ptd_del(domain);
#endif
}

/* ptt_dump_settle() - wait until all directories are made and removed; call it without locks */
void ptt_dump_settle(void)
{
#ifdef PTT_HAS_DUMP
	iommu_ptd_flush();
#endif
}
