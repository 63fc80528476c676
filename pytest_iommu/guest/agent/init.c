// SPDX-License-Identifier: GPL-2.0-only
/* What pid 1 of a guest does before it serves: file systems, modules, the port, a shell. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define PORT_NAME "iommu.agent"
#define PORTS "/sys/class/virtio-ports"
#define BUSYBOX "/bin/busybox"
#define DEBUGFS "/sys/kernel/debug"

static void mount_one(const char *source, const char *target, const char *type,
		      struct buffer *errors)
{
	mkdir(target, 0755);
	if (mount(source, target, type, 0, "") < 0 && errno != EBUSY)
		buffer_text(errors, "error=mount %s: %s\n", target, strerror(errno));
}

/* What a kernel may be built without */
static void mount_if_there(const char *target, const char *type, struct buffer *errors)
{
	if (mount(type, target, type, 0, "") < 0 && errno != ENODEV && errno != ENOENT)
		buffer_text(errors, "error=mount %s: %s\n", target, strerror(errno));
}

/* stdin, stdout and stderr: the initramfs may have come without /dev/console */
static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);

	if (fd < 0)
		fd = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	if (fd > 2)
		close(fd);
}

static void load_modules(struct buffer *errors)
{
	FILE *list = fopen("/modules.list", "re");
	char line[512], *params;
	int32_t ret;

	if (!list)
		return;
	while (fgets(line, sizeof(line), list)) {
		line[strcspn(line, "\n")] = 0;
		if (!line[0] || line[0] == '#')
			continue;
		params = strchr(line, ' ');
		if (params)
			*params++ = 0;
		ret = load_module(line, params ? params : "");
		if (ret < 0)
			buffer_text(errors, "error=insmod %s: %s\n", line, strerror(-ret));
	}
	fclose(list);
}

static bool on_command_line(const char *word)
{
	char text[4096] = {}, *at, *save;
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return false;
	for (at = strtok_r(text, " \n", &save); at; at = strtok_r(NULL, " \n", &save))
		if (!strcmp(at, word))
			return true;
	return false;
}

/* Where things are, and how to leave: the first lines above the prompt */
static void greet(void)
{
	static const struct {
		const char *what, *path, *more;
	} places[] = {
		{ "page tables of domains", DEBUGFS "/iommu/domains",
		  "/ID/{info,page_table,entries,stats}" },
		{ "streams of the SMMU", DEBUGFS "/iommu/arm_smmu_v3",
		  "/*/stream_table/SID/{ste,cd}" },
		{ "the test module", DEBUGFS "/iommu_ptdump_test/control",
		  " (answers: status)" },
	};

	printf("\nThis is the guest that the tests run in.\n\n");
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		if (!access(places[i].path, F_OK))
			printf("  %-24s%s%s\n", places[i].what, places[i].path, places[i].more);
	printf("  %-24s%s\n", "to try it", "cd " DEBUGFS);
	printf("  %-24s%s\n", "", "echo domain d dev=edu0 stage=1 >iommu_ptdump_test/control");
	printf("  %-24s%s\n", "", "echo map d 0x1000 0x41000000 0x1000 rw >iommu_ptdump_test/control");
	printf("  %-24s%s\n", "", "cat iommu_ptdump_test/domains iommu/domains/*/page_table");
	printf("  %-24s%s\n\n", "to leave", "exit, Ctrl-D or poweroff");
	fflush(stdout);
}

/* What init does for poweroff, halt and reboot, which is one thing here: QEMU ends */
static void end_guest(int signal)
{
	(void)signal;
	sync();
	reboot(RB_POWER_OFF);
}

/*
 * A shell on the console; who leaves it leaves the guest. A process of its own
 * waits for it: without a host at the port the agent is stuck in its HELLO.
 */
static void spawn_shell(void)
{
	pid_t shell;

	if (fork()) {
		/* busybox's poweroff, halt and reboot */
		signal(SIGUSR2, end_guest);
		signal(SIGUSR1, end_guest);
		signal(SIGTERM, end_guest);
		return;
	}
	shell = fork();
	if (!shell) {
		greet();
		setsid();
		ioctl(0, TIOCSCTTY, 1);
		setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin", 1);
		setenv("HOME", "/", 1);
		execl(BUSYBOX, "sh", NULL);
		_exit(127);
	}
	waitpid(shell, NULL, 0);
	sync();
	reboot(RB_POWER_OFF);
	_exit(1);
}

/* Orphans end here, and jobs as it comes */
void reap_children(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		job_ended(pid, status);
}

void init_system(struct buffer *errors)
{
	mount_one("devtmpfs", "/dev", "devtmpfs", errors);
	open_console();
	mount_one("proc", "/proc", "proc", errors);
	mount_one("sysfs", "/sys", "sysfs", errors);
	/* Who boots without it wants to see what is left */
	if (!on_command_line("debugfs=off"))
		mount_one("debugfs", "/sys/kernel/debug", "debugfs", errors);
	mount_one("tmpfs", "/tmp", "tmpfs", errors);
	mount_if_there("/sys/kernel/security", "securityfs", errors);
	mount_if_there("/sys/fs/cgroup", "cgroup2", errors);
	load_modules(errors);
	if (on_command_line("iommu.shell=1") && !access(BUSYBOX, X_OK))
		spawn_shell();
}

/* Open /dev/<dir> if the port of that name is ours */
static int try_port(const char *dir)
{
	char path[512], name[64] = {};
	int fd;
	ssize_t n;

	snprintf(path, sizeof(path), PORTS "/%s/name", dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, name, sizeof(name) - 1);
	close(fd);
	if (n <= 0)
		return -1;
	name[strcspn(name, "\n")] = 0;
	if (strcmp(name, PORT_NAME))
		return -1;
	snprintf(path, sizeof(path), "/dev/%s", dir);
	return open(path, O_RDWR | O_CLOEXEC);
}

/* The port may come later than we do, and its name later than its directory */
int open_port(void)
{
	unsigned int waited;

	for (waited = 0;; waited++) {
		DIR *dir = opendir(PORTS);
		struct dirent *e;
		int fd = -1;

		while (dir && fd < 0 && (e = readdir(dir)))
			if (e->d_name[0] != '.')
				fd = try_port(e->d_name);
		if (dir)
			closedir(dir);
		if (fd >= 0)
			return fd;
		if (waited == 1000)
			fprintf(stderr, "agent: no virtio-serial port %s after 10 s\n", PORT_NAME);
		reap_children();
		usleep(10000);
	}
}
