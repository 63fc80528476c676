// SPDX-License-Identifier: GPL-2.0-only
/* What decides how a driver sets up page tables: sizes of the kernel, ID registers of SMMUv3s. */
#include <linux/device.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/platform_device.h>
#include <linux/seq_file.h>

#include "ptdump_test.h"
#include "smmu_v3.h"

/* A driver takes the option's number, not the bits that this processor has */
#ifdef CONFIG_ARM64
#define PTT_VA_BITS VA_BITS
#else
#define PTT_VA_BITS BITS_PER_LONG
#endif

static int show_smmu_v3(struct device *dev, void *data)
{
	void __iomem *regs = ptt_smmu_v3_map(dev);
	struct seq_file *s = data;
	struct resource *res;

	if (IS_ERR_OR_NULL(regs))
		return PTR_ERR_OR_ZERO(regs);
	res = platform_get_resource(to_platform_device(dev), IORESOURCE_MEM, 0);
	seq_printf(s, "smmuv3 base=%pa idr0=0x%x idr1=0x%x idr3=0x%x idr5=0x%x\n", &res->start,
		   readl(regs + PTT_SMMU_IDR0), readl(regs + PTT_SMMU_IDR1),
		   readl(regs + PTT_SMMU_IDR3), readl(regs + PTT_SMMU_IDR5));
	iounmap(regs);
	return 0;
}

/* ptt_show_hardware() - one line for the kernel, and one an SMMUv3; ptt_lock held */
int ptt_show_hardware(struct seq_file *s)
{
	/* A seq_file is from a slab cache, so it is in the linear map */
	u64 linear = (uintptr_t)s - virt_to_phys(s);

	seq_printf(s, "kernel page=%lu va_bits=%u linear=0x%llx own_tables=%u\n", PAGE_SIZE,
		   PTT_VA_BITS, linear, ptt_own_tables());
	return bus_for_each_dev(&platform_bus_type, NULL, s, show_smmu_v3);
}
