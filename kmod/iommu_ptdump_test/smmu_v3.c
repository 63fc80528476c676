// SPDX-License-Identifier: GPL-2.0-only
/*
 * What an SMMUv3 has been told, from its registers and the tables that it reads itself:
 * Arm IHI 0070, 3.3 and 5.1 to 5.4. This serves kernels whose headers are there without
 * the driver's own, as distributions have them.
 */
#include <linux/bitfield.h>
#include <linux/bits.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/io-pgtable.h>
#include <linux/ioport.h>
#include <linux/platform_device.h>
#include <linux/sizes.h>
#include <linux/string.h>

#include "ptdump_test.h"
#include "smmu_v3.h"

#define STRTAB_BASE		0x80
#define STRTAB_BASE_CFG		0x88
#define STRTAB_LOG2SIZE		GENMASK(5, 0)
#define STRTAB_SPLIT		GENMASK(10, 6)
#define STRTAB_FMT		GENMASK(17, 16)
#define STRTAB_FMT_2LVL		1
#define STRTAB_ADDR		GENMASK_ULL(51, 6)
#define IDR0_COHACC		BIT(4)

#define WORDS			8	/* of an STE, and of a CD */
#define STE0_V			BIT_ULL(0)
#define STE0_CFG		GENMASK_ULL(3, 1)
#define STE0_CFG_S1		5
#define STE0_CFG_S2		6
#define STE0_S1FMT		GENMASK_ULL(5, 4)
#define STE0_S1CTXPTR		GENMASK_ULL(51, 6)
#define STE0_S1CDMAX		GENMASK_ULL(63, 59)
#define STE2_S2T0SZ		GENMASK_ULL(37, 32)
#define STE2_S2SL0		GENMASK_ULL(39, 38)
#define STE2_S2TG		GENMASK_ULL(47, 46)
#define STE2_S2PS		GENMASK_ULL(50, 48)
#define STE3_S2TTB		GENMASK_ULL(51, 4)
#define L1CD_V			BIT_ULL(0)
#define L1CD_L2PTR		GENMASK_ULL(51, 12)
#define CD0_T0SZ		GENMASK_ULL(5, 0)
#define CD0_TG0			GENMASK_ULL(7, 6)
#define CD0_V			BIT_ULL(31)
#define CD0_IPS			GENMASK_ULL(34, 32)
#define CD1_TTB0		GENMASK_ULL(51, 4)

/* IPS and S2PS */
static const u8 output_bits[] = { 32, 36, 40, 42, 44, 48, 52, 56 };

/**
 * ptt_smmu_v3_map() - the first page of an SMMUv3's registers
 * @dev: any device
 *
 * The driver has mapped them, too.
 *
 * Return: to be given to iounmap(); NULL for a device that is no SMMUv3, or an error pointer.
 */
void __iomem *ptt_smmu_v3_map(struct device *dev)
{
	struct resource *res;
	void __iomem *regs;

	if (!dev || !dev->driver || strcmp(dev->driver->name, "arm-smmu-v3"))
		return NULL;
	res = platform_get_resource(to_platform_device(dev), IORESOURCE_MEM, 0);
	if (!res)
		return NULL;
	regs = ioremap(res->start, SZ_4K);
	return regs ?: IOMEM_ERR_PTR(-ENOMEM);
}

static int read_ste(void __iomem *regs, u32 sid, u64 *ste)
{
	u32 how = readl(regs + STRTAB_BASE_CFG);
	u64 base = readq(regs + STRTAB_BASE) & STRTAB_ADDR;
	unsigned int split = FIELD_GET(STRTAB_SPLIT, how);
	u64 l1;
	int ret;

	if ((u64)sid >> FIELD_GET(STRTAB_LOG2SIZE, how))
		return -ENOENT;
	if (FIELD_GET(STRTAB_FMT, how) == STRTAB_FMT_2LVL) {
		ret = ptt_read_words(base + (sid >> split) * sizeof(l1), &l1, 1);
		if (ret)
			return ret;
		base = l1 & STRTAB_ADDR;
		sid &= BIT(split) - 1;
		if (!base)
			return -ENOENT;
	}
	return ptt_read_words(base + sid * WORDS * sizeof(*ste), ste, WORDS);
}

/* The descriptor without a SSID */
static int read_cd(const u64 *ste, u64 *cd)
{
	u64 at = ste[0] & STE0_S1CTXPTR;
	int ret;

	if (FIELD_GET(STE0_S1CDMAX, ste[0]) && FIELD_GET(STE0_S1FMT, ste[0])) {
		ret = ptt_read_words(at, cd, 1);
		if (ret)
			return ret;
		if (!(cd[0] & L1CD_V))
			return -ENOENT;
		at = cd[0] & L1CD_L2PTR;
	}
	ret = ptt_read_words(at, cd, WORDS);
	return ret ?: cd[0] & CD0_V ? 0 : -ENOENT;
}

static void stage2(const u64 *ste, struct io_pgtable_cfg *cfg)
{
	cfg->arm_lpae_s2_cfg.vtcr.tsz = FIELD_GET(STE2_S2T0SZ, ste[2]);
	cfg->arm_lpae_s2_cfg.vtcr.sl = FIELD_GET(STE2_S2SL0, ste[2]);
	cfg->arm_lpae_s2_cfg.vtcr.tg = FIELD_GET(STE2_S2TG, ste[2]);
	cfg->arm_lpae_s2_cfg.vttbr = ste[3] & STE3_S2TTB;
	cfg->ias = 64 - cfg->arm_lpae_s2_cfg.vtcr.tsz;
	cfg->oas = output_bits[FIELD_GET(STE2_S2PS, ste[2])];
}

static void stage1(const u64 *cd, struct io_pgtable_cfg *cfg)
{
	cfg->arm_lpae_s1_cfg.tcr.tsz = FIELD_GET(CD0_T0SZ, cd[0]);
	cfg->arm_lpae_s1_cfg.tcr.tg = FIELD_GET(CD0_TG0, cd[0]);
	cfg->arm_lpae_s1_cfg.ttbr = cd[1] & CD1_TTB0;
	cfg->ias = 64 - cfg->arm_lpae_s1_cfg.tcr.tsz;
	cfg->oas = output_bits[FIELD_GET(CD0_IPS, cd[0])];
}

/**
 * ptt_smmu_v3_cfg() - the page table that a stream leads to
 * @regs: of the SMMU, see ptt_smmu_v3_map()
 * @sid: the stream; its device is attached
 * @cfg: gets what the hardware is told: ias, oas, coherent_walk, and the part of the stage
 *
 * Return: the stage, 1 or 2; -EOPNOTSUPP for an SMMU that does not see what the CPU has in its
 * caches, -ENOENT where the stream leads to no page table.
 */
int ptt_smmu_v3_cfg(void __iomem *regs, u32 sid, struct io_pgtable_cfg *cfg)
{
	u64 ste[WORDS], cd[WORDS];
	int ret;

	if (!(readl(regs + PTT_SMMU_IDR0) & IDR0_COHACC))
		return -EOPNOTSUPP;
	cfg->coherent_walk = true;
	ret = read_ste(regs, sid, ste);
	if (ret)
		return ret;
	switch (ste[0] & STE0_V ? FIELD_GET(STE0_CFG, ste[0]) : 0) {
	case STE0_CFG_S2:
		stage2(ste, cfg);
		return 2;
	case STE0_CFG_S1:
		ret = read_cd(ste, cd);
		if (ret)
			return ret;
		stage1(cd, cfg);
		return 1;
	default:
		return -ENOENT;
	}
}
