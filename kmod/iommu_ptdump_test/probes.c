// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a kernel may lack, or may have in another shape. Kbuild compiles each
 * part alone; nothing of this file is in the module.
 */
#include <linux/iommu.h>

/* Domains of a driver's kinds, e.g. a nest parent; without it there are the default ones alone */
#ifdef PTT_PROBE_ALLOC_FLAGS
#include <uapi/linux/iommufd.h>

static __maybe_unused struct iommu_domain *ptt_probe(struct device *dev)
{
	return iommu_paging_domain_alloc_flags(dev, IOMMU_HWPT_ALLOC_NEST_PARENT);
}
#endif

/* Page tables that are domains */
#ifdef PTT_PROBE_GENERIC_PT
#include <linux/generic_pt/iommu.h>

static __maybe_unused unsigned int ptt_probe(struct iommu_domain *domain)
{
	struct pt_common *common = (struct pt_common *)(iommupt_from_domain(domain) + 1);

	return common->max_vasz_lg2;
}
#endif

/* What makes such a table without a driver, and frees its pages */
#ifdef PTT_PROBE_SW_GENERIC_PT
#include <linux/generic_pt/iommu.h>

#include "iommu-pages.h"

static __maybe_unused void ptt_probe(struct iommu_domain *domain, struct iommu_iotlb_gather *gather)
{
	struct pt_iommu *iommu = iommupt_from_domain(domain);

	iommu_put_pages_list(&gather->freelist);
	pt_iommu_deinit(iommu);
}
#endif

/* A group moves from one domain to another, and knows by which handle */
#ifdef PTT_PROBE_GROUP_HANDLES
#include "iommu-priv.h"

static __maybe_unused int ptt_probe(struct iommu_group *group, struct iommu_domain *domain)
{
	static struct iommu_attach_handle handle;

	iommu_detach_group_handle(domain, group);
	return iommu_replace_group_handle(group, domain, &handle);
}
#endif

/* SMMUv3's domains, with page tables of io-pgtable */
#ifdef PTT_PROBE_SMMU_V3
#include <linux/io-pgtable.h>

#include "arm/arm-smmu-v3/arm-smmu-v3.h"

static __maybe_unused unsigned int ptt_probe(struct arm_smmu_domain *domain)
{
	struct io_pgtable_ops *ops = domain->pgtbl_ops;

	return domain->stage == ARM_SMMU_DOMAIN_S1 ? io_pgtable_ops_to_pgtable(ops)->cfg.ias : 0;
}
#endif

/* AMD's domains, with page tables of the driver's own */
#ifdef PTT_PROBE_AMD_V1
#include "amd/amd_iommu_types.h"

static __maybe_unused u64 *ptt_probe(struct protection_domain *domain, int *mode)
{
	*mode = domain->pd_mode == PD_MODE_V1 ? domain->iop.mode : PAGE_MODE_NONE;
	return domain->iop.root;
}
#endif

/* The C interface of the reference implementation; another dump has another one, or none */
#ifdef PTT_PROBE_DUMP
#include <linux/io-pgtable.h>
#include "iommu-ptdump.h"

static u32 (*ptt_id)(const struct iommu_domain *domain) __maybe_unused = iommu_ptd_id;
static void (*ptt_del)(struct iommu_domain *domain) __maybe_unused = iommu_ptd_del;
static void (*ptt_add)(struct io_pgtable_ops *ops, struct iommu_domain *domain) __maybe_unused =
	io_pgtable_ptd_add;
static void (*ptt_flush)(void) __maybe_unused = iommu_ptd_flush;
#endif

#ifdef PTT_PROBE_SORT_NONATOMIC
#include <linux/sort.h>

static void (*ptt_sort)(void *base, size_t num, size_t size, cmp_func_t cmp,
			swap_func_t swap) __maybe_unused = sort_nonatomic;
#endif
