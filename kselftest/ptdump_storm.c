// SPDX-License-Identifier: GPL-2.0-only
/*
 * The dump while the table changes: kernel threads map and unmap in cells, readers
 * read all the time. Sentinels between the cells stay, and must be in every read as they were; what
 * was never mapped must be in none, and lines ascend. What is in a cell must be one of the states
 * that a cell can be in.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "kselftest_harness.h"
#include "ptdump.h"
#include "ptdump_judge.h"

#define CELLS 24
#define SECONDS 600
#define READERS 2
#define TRIES 4

static const char *missing;

/* What each test is about, told where it fails */
static const struct {
	const char *test;
	const char *rules;
} about[] = {
	{ "page_table", "CON-2 CON-3 CON-4 CON-5" },
	{ "entries", "CON-2 CON-3 CON-4 CON-5" },
	{ "stats", "ENT-2" },
	{ "freed", "CON-9" },
};

struct reader {
	pthread_t thread;
	struct judge judge;
	const char *path;
	atomic_bool *over;
	struct {
		uint64_t begin, end;
	} round[1024];
	unsigned int rounds;
	int error;
};

static uint64_t nanoseconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

static void *read_on(void *data)
{
	struct reader *reader = data;
	struct ptd_text text = {};

	while (!*reader->over && !reader->error && !reader->judge.wrong[0]) {
		uint64_t begin = nanoseconds();

		reader->error = -ptd_read(reader->path, &text);
		if (reader->error)
			break;
		if (reader->rounds < ARRAY_SIZE(reader->round)) {
			reader->round[reader->rounds].begin = begin;
			reader->round[reader->rounds].end = nanoseconds();
			reader->rounds++;
		}
		judge_text(&reader->judge, text.data);
	}
	ptd_free(&text);
	return NULL;
}

/* command() - one line for the module: 0, or -1 with its answer in @said */
static int command(struct ptd_text *said, const char *fmt, ...)
{
	char line[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line) - 1, fmt, args);
	va_end(args);
	strcat(line, "\n");
	if (ptd_control(line, said))
		return -1;
	if (!strncmp(said->data, "1 ok", 4))
		return 0;
	ptd_say("`%.*s` gives %.*s", (int)strcspn(line, "\n"), line, (int)strcspn(said->data, "\n"),
		said->data);
	return -1;
}

/**
 * struct sky - a domain and those who look at it
 * @dir: its directory
 * @said: the module's last answer
 * @readers: READERS of them
 * @over: they shall come to an end
 * @taint: the kernel's before
 */
struct sky {
	char dir[PTD_PATH / 4];
	struct ptd_text said;
	struct reader *readers;
	atomic_bool over;
	long taint;
};

FIXTURE(storm)
{
	struct sky sky;
};

FIXTURE_VARIANT(storm)
{
	const char *table;
	const char *needs;
};

FIXTURE_VARIANT_ADD(storm, s1)
{
	.table = "dev=edu0 stage=1",
	.needs = "edu0 behind an IOMMU with stage 1",
};

FIXTURE_VARIANT_ADD(storm, s2)
{
	.table = "dev=edu0 stage=2",
	.needs = "edu0 behind an IOMMU with stage 2",
};

FIXTURE_VARIANT_ADD(storm, lpae_s1)
{
	.table = "format=arm_64_lpae_s1",
	.needs = "CONFIG_IOMMU_IO_PGTABLE_LPAE",
};

FIXTURE_VARIANT_ADD(storm, lpae_s2)
{
	.table = "format=arm_64_lpae_s2",
	.needs = "CONFIG_IOMMU_IO_PGTABLE_LPAE",
};

FIXTURE_VARIANT_ADD(storm, amdv1)
{
	.table = "format=amdv1",
	.needs = "CONFIG_IOMMU_PT_AMDV1",
};

FIXTURE_VARIANT_ADD(storm, vtdss)
{
	.table = "format=vtdss",
	.needs = "CONFIG_IOMMU_PT_VTDSS",
};

FIXTURE_VARIANT_ADD(storm, x86)
{
	.table = "format=x86_64",
	.needs = "CONFIG_IOMMU_PT_X86_64",
};

FIXTURE_VARIANT_ADD(storm, riscv)
{
	.table = "format=riscv_64",
	.needs = "CONFIG_IOMMU_PT_RISCV64",
};

FIXTURE_SETUP(storm)
{
	char script[256], id[16], path[PTD_PATH];
	struct ptd_text before = {};
	const char *error;
	unsigned int i;

	if (missing)
		SKIP(return, "%s", missing);
	self->sky.taint = ptd_tainted();
	snprintf(script, sizeof(script), "reset\ndomain t %s\n", variant->table);
	ASSERT_EQ(0, ptd_control(script, &self->sky.said));
	error = strstr(self->sky.said.data, "2 error ");
	if (error && (!strncmp(error + 8, "ENODEV", 6) || !strncmp(error + 8, "EOPNOTSUPP", 10)))
		SKIP(return, "not without %s", variant->needs);
	ASSERT_EQ(NULL, error);
	ASSERT_TRUE(ptd_word(strstr(self->sky.said.data, "\n2 ok") + 1, "id=", id, sizeof(id)));
	snprintf(self->sky.dir, sizeof(self->sky.dir), PTD_DOMAINS "/%s", id);

	/* a block before the cells, a page after each, some far away */
	ASSERT_EQ(0, command(&self->sky.said, "map t 0x3fc00000 0x80000000 2M rw"));
	ASSERT_EQ(0, command(&self->sky.said,
			     "map t 0x%x 0x90001000 4K rw count=%d istep=0x%x pstep=12K",
			     JUDGE_IOVA + JUDGE_CELL + 0x1000, CELLS, JUDGE_GAP));
	ASSERT_EQ(0, command(&self->sky.said, "map t 0x200000000 0xa0000000 64K r leaf=4K"));

	self->sky.readers = calloc(READERS, sizeof(*self->sky.readers));
	ASSERT_NE(NULL, self->sky.readers);
	for (i = 0; i < READERS; i++) {
		snprintf(path, sizeof(path), "%s/page_table", self->sky.dir);
		ASSERT_EQ(0, ptd_read(path, &before));
		judge_begin(&self->sky.readers[i].judge, before.data, CELLS);
		ASSERT_EQ(CELLS + 2U, self->sky.readers[i].judge.nr_sentinels);
	}
	ptd_free(&before);
}

FIXTURE_TEARDOWN(storm)
{
	size_t i;

	if (missing)
		return;
	ptd_control("reset\n", &self->sky.said);
	if (ptd_tainted() & ~self->sky.taint) {
		ptd_say("the kernel is tainted: it printed a warning");
		_metadata->exit_code = KSFT_FAIL;
	}
	for (i = 0; i < ARRAY_SIZE(about); i++)
		if (_metadata->exit_code == KSFT_FAIL && !strcmp(about[i].test, _metadata->name))
			ptd_say("%s: %s", about[i].test, about[i].rules);
}

static int start(struct sky *sky, const char *path)
{
	struct reader *readers = sky->readers;
	unsigned int i;

	sky->over = false;
	for (i = 0; i < READERS; i++) {
		readers[i].path = path;
		readers[i].over = &sky->over;
		readers[i].rounds = 0;
		readers[i].error = 0;
		if (pthread_create(&readers[i].thread, NULL, read_on, &readers[i])) {
			sky->over = true;
			return -1;
		}
	}
	return 0;
}

static void stop(struct sky *sky)
{
	unsigned int i;

	sky->over = true;
	for (i = 0; i < READERS; i++)
		pthread_join(sky->readers[i].thread, NULL);
}

/* raced() - how many changes began while somebody read */
static unsigned int raced(const struct reader *readers, const char *log)
{
	unsigned int count = 0, cell, state, i, k;
	uint64_t begin;
	const char *line;

	for (line = log; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
		if (sscanf(line, "%u %u %" SCNu64, &cell, &state, &begin) != 3)
			continue;
		for (i = 0; i < READERS; i++)
			for (k = 0; k < readers[i].rounds; k++)
				count += readers[i].round[k].begin < begin &&
					 begin < readers[i].round[k].end;
	}
	return count;
}

static void weather(struct __test_metadata *_metadata, struct sky *sky, const char *file)
{
	unsigned int changes = ptd_slow() ? 500 : 1500, tries, races = 0, rounds = 0, i;
	struct ptd_text log = {};
	char path[PTD_PATH], error[16];

	snprintf(path, sizeof(path), "%s/%s", sky->dir, file);
	for (tries = 0; tries < TRIES && !races; tries++, changes *= 3) {
		ASSERT_EQ(0, start(sky, path));
		EXPECT_EQ(0,
			  command(&sky->said, "storm t 0x%x 0x%x cells=%d gap=0x%x ops=%u seed=%u",
				  JUDGE_IOVA, JUDGE_CELL, CELLS, JUDGE_GAP, changes, tries));
		EXPECT_EQ(0, ptd_read(PTD_MODULE "/storm", &log));
		stop(sky);
		ASSERT_TRUE(log.data && ptd_word(log.data, "error=", error, sizeof(error)));
		ASSERT_STREQ("0", error);
		races += raced(sky->readers, log.data);
		for (i = 0; i < READERS; i++) {
			struct judge *judge = &sky->readers[i].judge;

			rounds += sky->readers[i].rounds;
			EXPECT_EQ(0, sky->readers[i].error);
			judge_states(judge, log.data);
			EXPECT_STREQ("", judge->wrong);
		}
		ASSERT_EQ(0, command(&sky->said, "calm t"));
		if (_metadata->exit_code != KSFT_PASS)
			break;
	}
	ptd_free(&log);
	TH_LOG("%u reads, %u changes during them", rounds, races);
	/* what never raced has shown nothing */
	EXPECT_NE(0U, races);
}

TEST_F_TIMEOUT(storm, page_table, SECONDS)
{
	weather(_metadata, &self->sky, "page_table");
}

TEST_F_TIMEOUT(storm, entries, SECONDS)
{
	struct ptd_text before = {};
	char path[PTD_PATH];
	unsigned int i;

	snprintf(path, sizeof(path), "%s/entries", self->sky.dir);
	ASSERT_EQ(0, ptd_read(path, &before));
	for (i = 0; i < READERS; i++) {
		judge_begin(&self->sky.readers[i].judge, before.data, CELLS);
		/* the 64K far away are 16 leaves */
		ASSERT_EQ(CELLS + 17U, self->sky.readers[i].judge.nr_sentinels);
	}
	weather(_metadata, &self->sky, "entries");
}

TEST_F_TIMEOUT(storm, stats, SECONDS)
{
	unsigned int i;

	for (i = 0; i < READERS; i++)
		judge_begin(&self->sky.readers[i].judge, "level", CELLS);
	weather(_metadata, &self->sky, "stats");
}

TEST_F_TIMEOUT(storm, freed, SECONDS)
{
	char path[PTD_PATH], byte;
	unsigned int i;
	int fd;

	snprintf(path, sizeof(path), "%s/page_table", self->sky.dir);
	fd = open(path, O_RDONLY);
	ASSERT_LE(0, fd);
	EXPECT_EQ(1, read(fd, &byte, 1));
	ASSERT_EQ(0, start(&self->sky, path));
	EXPECT_EQ(0, command(&self->sky.said, "storm t 0x%x 0x%x cells=%d gap=0x%x ops=2000",
			     JUDGE_IOVA, JUDGE_CELL, CELLS, JUDGE_GAP));
	EXPECT_EQ(0, command(&self->sky.said, "destroy t"));
	EXPECT_EQ(-1, access(self->sky.dir, F_OK));
	EXPECT_EQ(ENOENT, errno);
	/* an open file keeps nothing alive */
	EXPECT_EQ(-1, read(fd, &byte, 1));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, pread(fd, &byte, 1, 0));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-1, lseek(fd, 0, SEEK_SET));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(0, close(fd));
	EXPECT_EQ(-1, open(path, O_RDONLY));
	EXPECT_EQ(ENOENT, errno);
	/* nobody is told to stop: the domain's end ends the readers */
	for (i = 0; i < READERS; i++) {
		pthread_join(self->sky.readers[i].thread, NULL);
		EXPECT_STREQ("", self->sky.readers[i].judge.wrong);
		EXPECT_TRUE(self->sky.readers[i].error == EIO ||
			    self->sky.readers[i].error == ENOENT);
	}
}

int main(int argc, char **argv)
{
	int ret;

	atexit(ptd_leave);
	missing = ptd_missing();
	ret = test_harness_argv_check(argc, argv);
	if (!ret && missing) {
		/* the harness ends with 0 where all are skipped */
		pid_t pid = fork();

		if (!pid)
			return test_harness_run(argc, argv);
		return waitpid(pid, &ret, 0) == pid && WIFEXITED(ret) && !WEXITSTATUS(ret) ?
			       KSFT_SKIP :
			       KSFT_FAIL;
	}
	return ret ? ret : test_harness_run(argc, argv);
}
