// SPDX-License-Identifier: GPL-2.0-only
/* The translate command: what the kernel itself says an IOVA leads to. */
#include <linux/iommu.h>
#include <linux/kernel.h>

#include "ptdump_test.h"

/* ptt_cmd_translate() - translate NAME IOVA [IOVA..], answers with one PA for each */
int ptt_cmd_translate(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_domain *d = ptt_find_domain(args->word[1]);
	u64 iova[ARRAY_SIZE(args->word)], pa;
	unsigned int i;
	size_t len;
	int ret;

	if (!d)
		return ptt_fail(reply, -ENOENT, "no domain %.31s", args->word[1]);
	/* planted items must not be followed, nor tables that are freed meanwhile */
	ret = ptt_no_plant(d, reply) ?: ptt_no_running_storm(d, reply);
	if (ret)
		return ret;
	for (i = 2; i < args->nr_words; i++) {
		ret = ptt_parse_number(args->word[i], &iova[i]);
		if (ret)
			return ptt_fail(reply, ret, "IOVA %.31s is not a number", args->word[i]);
		if (!ptt_in_aperture(d, iova[i], iova[i]))
			return ptt_fail(reply, -ERANGE, "IOVA 0x%llx outside the aperture",
					iova[i]);
	}

	len = scnprintf(reply->text, sizeof(reply->text), "pa=");
	for (i = 2; i < args->nr_words; i++) {
		pa = iommu_iova_to_phys(d->domain, iova[i]);
		len += scnprintf(reply->text + len, sizeof(reply->text) - len, "%s0x%llx",
				 i > 2 ? "," : "", pa);
	}
	return 0;
}
