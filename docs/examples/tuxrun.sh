#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The kselftest in tuxrun's QEMU: tuxrun.sh Image.gz modules.tar.xz kselftest.tar.xz
# Its device qemu-arm64 has no SMMU; the parameter `machine` gives it one. It cannot be given an edu.
set -eu
exec tuxrun --device qemu-arm64 --kernel "$1" --modules "$2" --overlay "$3" /opt/kselftest \
	--parameters machine=virt,gic-version=3,iommu=smmuv3 cpu=cortex-a57 --timeouts commands=20 \
	-- 'cd /opt/kselftest && ./run_kselftest.sh -c iommu_ptdump'
