/* SPDX-License-Identifier: GPL-2.0-only */
/* What older kernels lack, as newer ones have it; see probes.c for what cannot be made up. */
#ifndef __IOMMU_PTDUMP_TEST_COMPAT_H
#define __IOMMU_PTDUMP_TEST_COMPAT_H

#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/sort.h>

#ifndef kmalloc_obj
#define kmalloc_obj(obj)	kmalloc(sizeof(obj), GFP_KERNEL)
#endif
#ifndef kzalloc_obj
#define kzalloc_obj(obj)	kzalloc(sizeof(obj), GFP_KERNEL)
#endif
#ifndef kzalloc_flex
#define kzalloc_flex(obj, array, nr) \
	kzalloc(struct_size((typeof(obj) *)NULL, array, nr), GFP_KERNEL)
#endif

#ifndef PTT_HAS_SORT_NONATOMIC
#define sort_nonatomic		sort
#endif

#endif
