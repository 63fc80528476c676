// SPDX-License-Identifier: GPL-2.0-only
/* What decides how a driver sets up page tables: sizes of the kernel, ID registers of SMMUv3s. */
#include <linux/device.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/platform_device.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/string.h>

#include "ptdump_test.h"

#define IDR0 0x0
#define IDR1 0x4
#define IDR3 0xc
#define IDR5 0x14

/* A driver takes the option's number, not the bits that this processor has */
#ifdef CONFIG_ARM64
#define PTT_VA_BITS VA_BITS
#else
#define PTT_VA_BITS BITS_PER_LONG
#endif

static int show_smmu_v3(struct device *dev, void *data)
{
	struct seq_file *s = data;
	struct resource *res;
	void __iomem *regs;

	if (!dev->driver || strcmp(dev->driver->name, "arm-smmu-v3"))
		return 0;
	res = platform_get_resource(to_platform_device(dev), IORESOURCE_MEM, 0);
	if (!res)
		return 0;
	/* the driver has mapped them, too; these never change */
	regs = ioremap(res->start, SZ_4K);
	if (!regs)
		return -ENOMEM;
	seq_printf(s, "smmuv3 base=%pa idr0=0x%x idr1=0x%x idr3=0x%x idr5=0x%x\n", &res->start,
		   readl(regs + IDR0), readl(regs + IDR1), readl(regs + IDR3),
		   readl(regs + IDR5));
	iounmap(regs);
	return 0;
}

/* ptt_show_hardware() - one line for the kernel, and one an SMMUv3 */
int ptt_show_hardware(struct seq_file *s)
{
	/* A seq_file is from a slab cache, so it is in the linear map */
	u64 linear = (uintptr_t)s - virt_to_phys(s);

	seq_printf(s, "kernel page=%lu va_bits=%u linear=0x%llx\n", PAGE_SIZE, PTT_VA_BITS,
		   linear);
	return bus_for_each_dev(&platform_bus_type, NULL, s, show_smmu_v3);
}
