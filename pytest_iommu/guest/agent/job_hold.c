// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory that holds whoever touches it first, a copy in the kernel as well:
 * its page faults are ours to answer (userfaultfd), and we wait for the word.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "job.h"

static int faults;
static struct uffdio_range range;

/* Says that somebody is held. The fault itself is not answered here. */
static void *tell(void *shared)
{
	struct uffd_msg msg;

	if (read(faults, &msg, sizeof(msg)) == sizeof(msg) && msg.event == UFFD_EVENT_PAGEFAULT)
		job_set(&((struct job_shared *)shared)->held);
	return NULL;
}

/* Memory like any other from then on; who was held is woken and faults it in */
static void *answer(void *shared)
{
	job_await(&((struct job_shared *)shared)->release, 0);
	ioctl(faults, UFFDIO_UNREGISTER, &range);
	return NULL;
}

int32_t hold_memory(void *memory, size_t size, struct job_shared *shared)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	size_t page = sysconf(_SC_PAGESIZE);
	pthread_t thread;
	int err;

	faults = syscall(SYS_userfaultfd, O_CLOEXEC);
	if (faults < 0)
		return -errno;
	range.start = (uintptr_t)memory;
	range.len = (size + page - 1) / page * page;
	reg.range = range;
	if (ioctl(faults, UFFDIO_API, &api) < 0 || ioctl(faults, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	err = pthread_create(&thread, NULL, tell, shared);
	if (!err)
		err = pthread_create(&thread, NULL, answer, shared);
	return -err;
}
