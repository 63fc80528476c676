// SPDX-License-Identifier: GPL-2.0-only
/* Allocations that fail on purpose, by fail-nth (Documentation/fault-injection of the kernel). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "owner.h"

#define FAIL_NTH "/proc/thread-self/fail-nth"

/* Which allocation of the next map is to fail; 0: none */
static uint64_t nth;

int cmd_fail(const struct words *w, FILE *out)
{
	if (access(FAIL_NTH, W_OK))
		return fail(out, errno, FAIL_NTH);
	return get_number(w, 1, &nth, out);
}

/* ioctl(), in which that allocation fails; once */
int ioctl_that_may_fail(int fd, unsigned long request, void *argument)
{
	int ret, error, armed = nth ? open(FAIL_NTH, O_WRONLY | O_CLOEXEC) : -1;

	if (armed >= 0)
		dprintf(armed, "%llu", (unsigned long long)nth);
	ret = ioctl(fd, request, argument);
	error = errno;
	if (armed >= 0) {
		/* the write may meet the allocation that was to fail */
		if (write(armed, "0", 1) < 0 && write(armed, "0", 1) < 0)
			perror(FAIL_NTH);
		close(armed);
	}
	nth = 0;
	errno = error;
	return ret;
}
