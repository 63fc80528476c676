// SPDX-License-Identifier: GPL-2.0-only
/* What the programs need around them: debugfs, the test module, files as text. */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ptdump.h"

#define MODULE "iommu_ptdump_test"
#define DEBUGFS "/sys/kernel/debug"

static char reason[256];
static bool loaded, mounted;

static const struct {
	int error;
	const char *name;
} known[] = { { EPERM, "EPERM" },	{ ENOENT, "ENOENT" },	      { EINTR, "EINTR" },
	      { EIO, "EIO" },		{ E2BIG, "E2BIG" },	      { EBADF, "EBADF" },
	      { EAGAIN, "EAGAIN" },	{ ENOMEM, "ENOMEM" },	      { EACCES, "EACCES" },
	      { EFAULT, "EFAULT" },	{ EBUSY, "EBUSY" },	      { EEXIST, "EEXIST" },
	      { ENODEV, "ENODEV" },	{ EINVAL, "EINVAL" },	      { ENOTTY, "ENOTTY" },
	      { ENOSPC, "ENOSPC" },	{ ESPIPE, "ESPIPE" },	      { ERANGE, "ERANGE" },
	      { ENOTCONN, "ENOTCONN" }, { EOPNOTSUPP, "EOPNOTSUPP" }, {} };

/* ptd_errno_name() - an errno as scenarios and the test module name it */
const char *ptd_errno_name(int error)
{
	static char number[16];
	size_t i;

	if (!error)
		return "ok";
	for (i = 0; known[i].name; i++)
		if (known[i].error == error)
			return known[i].name;
	snprintf(number, sizeof(number), "errno-%d", error);
	return number;
}

/* ptd_say() - a diagnostic line of KTAP */
void ptd_say(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	printf("# ");
	vprintf(fmt, args);
	printf("\n");
	va_end(args);
}

/* ptd_slow() - whether this machine is known to be slow: then there are fewer rounds */
bool ptd_slow(void)
{
	const char *value = getenv("KSFT_MACHINE_SLOW");

	return value && *value && strcmp(value, "no") && strcmp(value, "0");
}

static int load_from(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	ret = syscall(SYS_finit_module, fd, "", 0) ? -errno : 0;
	close(fd);
	return ret;
}

static int modprobe(void)
{
	int status;
	pid_t pid = fork();

	if (pid < 0)
		return -errno;
	if (!pid) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, 1);
		dup2(null, 2);
		execlp("modprobe", "modprobe", MODULE, NULL);
		_exit(127);
	}
	if (waitpid(pid, &status, 0) < 0)
		return -errno;
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : -ENOENT;
}

/* The module beside this program, else one that is installed. */
static int load_module(void)
{
	char path[PTD_PATH];
	ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 64);
	int ret = -ENOENT;

	if (len > 0) {
		path[len] = 0;
		*(strrchr(path, '/') + 1) = 0;
		strcat(path, "test_modules/" MODULE ".ko");
		ret = load_from(path);
	}
	if (ret == -ENOENT)
		ret = modprobe();
	loaded = !ret;
	return ret;
}

/* The module knows the directories of one dump alone, whose functions it calls. */
static bool knows_directories(void)
{
	struct ptd_text said = {};
	const char *made = NULL;
	char id[16] = "";

	if (!ptd_control("reset\n?domain ask format=arm_64_lpae_s1\nreset\n", &said) && said.data)
		made = strstr(said.data, "\n2 ok");
	if (made)
		ptd_word(made + 1, "id=", id, sizeof(id));
	ptd_free(&said);
	return strcmp(id, "?");
}

/**
 * ptd_missing() - get all that is needed, the test module too
 *
 * Return: NULL, or what is not there, for a SKIP.
 */
const char *ptd_missing(void)
{
	struct statfs fs;
	int ret;

	if (geteuid())
		return "it needs root";
	if (statfs(DEBUGFS, &fs) || fs.f_type != DEBUGFS_MAGIC)
		mounted = !mount("debugfs", DEBUGFS, "debugfs", 0, NULL);
	if (access(PTD_DOMAINS, F_OK)) {
		if (access(DEBUGFS "/iommu", F_OK))
			return "no iommu in debugfs (CONFIG_IOMMU_DEBUGFS)";
		return "no iommu/domains in debugfs (CONFIG_IOMMU_PTDUMP_DEBUGFS)";
	}
	if (access(PTD_MODULE, F_OK)) {
		ret = load_module();
		if (ret == -ENOENT)
			return "no module " MODULE " (build test_modules with KDIR=)";
		if (ret) {
			snprintf(reason, sizeof(reason), "module %s does not load, %s", MODULE,
				 strerror(-ret));
			return reason;
		}
	}
	if (!knows_directories())
		return "module " MODULE " does not know the directories of this dump";
	return NULL;
}

/* ptd_leave() - take away what ptd_missing() has brought */
void ptd_leave(void)
{
	if (loaded)
		syscall(SYS_delete_module, MODULE, O_NONBLOCK);
	if (mounted)
		umount2(DEBUGFS, 0);
	loaded = false;
	mounted = false;
}

/* ptd_free() - an empty text again */
void ptd_free(struct ptd_text *text)
{
	free(text->data);
	text->data = NULL;
	text->len = 0;
}

/**
 * ptd_read() - read a whole file
 * @path: its path
 * @text: takes it; what it held is dropped
 *
 * Return: 0 or -errno.
 */
int ptd_read(const char *path, struct ptd_text *text)
{
	size_t room = 1 << 16;
	ssize_t got;
	int fd, ret = 0;

	ptd_free(text);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	text->data = malloc(room);
	while (text->data) {
		if (room - text->len < 1 << 14) {
			char *more = realloc(text->data, room *= 2);

			if (!more)
				break;
			text->data = more;
		}
		got = read(fd, text->data + text->len, room - text->len - 1);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			ret = got ? -errno : 0;
			text->data[text->len] = 0;
			close(fd);
			return ret;
		}
		text->len += got;
	}
	close(fd);
	return -ENOMEM;
}

/**
 * ptd_control() - give the test module a batch of commands
 * @script: lines
 * @status: takes what became of them
 *
 * Return: 0 where the batch was run, whatever became of its lines; else -errno.
 */
int ptd_control(const char *script, struct ptd_text *status)
{
	int fd = open(PTD_MODULE "/control", O_WRONLY | O_CLOEXEC);
	ssize_t ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, script, strlen(script));
	if (ret < 0)
		ret = -errno;
	close(fd);
	if (ret == -E2BIG || ret == -EFAULT || ret == -ENOMEM)
		return ret;
	return ptd_read(PTD_MODULE "/status", status);
}

/**
 * ptd_word() - the value of a word key=value in a line
 * @line: ends with a newline or a zero
 * @key: with its =
 * @value: takes it
 * @size: room in @value
 */
bool ptd_word(const char *line, const char *key, char *value, size_t size)
{
	size_t len = strlen(key), end = strcspn(line, "\n"), at = 0, n;

	while (at < end) {
		n = strcspn(line + at, " ");
		if (n > end - at)
			n = end - at;
		if (n >= len && !strncmp(line + at, key, len)) {
			snprintf(value, size, "%.*s", (int)(n - len), line + at + len);
			return true;
		}
		at += n + 1;
	}
	return false;
}

/**
 * ptd_size() - the value of a size with its unit
 * @text: begins with it
 *
 * Return: bytes; 0 for 16384P, which is 2^64.
 */
uint64_t ptd_size(const char *text)
{
	static const char units[] = "KMGTP";
	char *end;
	uint64_t value = strtoull(text, &end, 10);
	const char *unit = *end ? strchr(units, *end) : NULL;

	return unit ? value << 10 * (unit - units + 1) : value;
}

/**
 * ptd_line() - one line of a text
 * @text: lines
 * @number: from 1
 * @line: takes it without its newline
 * @size: room in @line
 *
 * Return: @line, or NULL where there are fewer.
 */
const char *ptd_line(const char *text, unsigned int number, char *line, size_t size)
{
	while (text && *text && --number) {
		text = strchr(text, '\n');
		text = text ? text + 1 : NULL;
	}
	if (!text || !*text)
		return NULL;
	snprintf(line, size, "%.*s", (int)strcspn(text, "\n"), text);
	return line;
}

/* ptd_has_device() - whether the test module has a device of that name, behind an IOMMU */
bool ptd_has_device(const char *name)
{
	struct ptd_text devices = {};
	size_t len = strlen(name);
	bool found = false;
	const char *line;

	if (!ptd_read(PTD_MODULE "/devices", &devices))
		for (line = devices.data; *line; line += strcspn(line, "\n"), line += !!*line)
			found |= !strncmp(line, name, len) && line[len] == ' ';
	ptd_free(&devices);
	return found;
}

/* ptd_tainted() - what the kernel has printed since it booted: a warning, an oops and the like */
long ptd_tainted(void)
{
	struct ptd_text text = {};
	long value = 0;

	/* warned, died, bad page, soft lockup */
	if (!ptd_read("/proc/sys/kernel/tainted", &text))
		value = atol(text.data) & (1 << 9 | 1 << 7 | 1 << 5 | 1 << 14);
	ptd_free(&text);
	return value;
}

/* ptd_crc32() - zlib's, to be continued with its own result */
uint32_t ptd_crc32(uint32_t crc, const char *data, size_t len)
{
	size_t i;
	int bit;

	crc = ~crc;
	for (i = 0; i < len; i++) {
		crc ^= (unsigned char)data[i];
		for (bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320 : 0);
	}
	return ~crc;
}
