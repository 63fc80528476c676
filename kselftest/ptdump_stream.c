// SPDX-License-Identifier: GPL-2.0-only
/* The streams of a device: ste and cd must be what their own words say, and name the domain. */
#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ptdump.h"

#define WORDS 8

static uint64_t bits(uint64_t word, unsigned int high, unsigned int low)
{
	return word >> low & ((UINT64_C(2) << (high - low)) - 1);
}

/* address_bits() - the bits of an address, which begin at bit @low and stand in place */
static uint64_t address_bits(uint64_t word, unsigned int low)
{
	return bits(word, 51, low) << low;
}

/* find_domain() - the id of the domain whose top that is, or - */
static void find_domain(uint64_t top, char *id, size_t size)
{
	struct ptd_text info = {};
	struct dirent *entry;
	char path[PTD_PATH];
	DIR *dir = opendir(PTD_DOMAINS);

	snprintf(id, size, "-");
	while (dir && (entry = readdir(dir))) {
		const char *at;

		snprintf(path, sizeof(path), PTD_DOMAINS "/%s/info", entry->d_name);
		if (entry->d_name[0] == '.' || ptd_read(path, &info))
			continue;
		at = strstr(info.data, "\ntop: ");
		if (at && strtoull(at + 6, NULL, 16) == top)
			snprintf(id, size, "%.*s", (int)size - 1, entry->d_name);
	}
	if (dir)
		closedir(dir);
	ptd_free(&info);
}

static const char *words_of(const char *text, uint64_t *words, const char *name)
{
	unsigned int at, end = 0;
	char format[32];

	for (at = 0; at < WORDS; at++) {
		snprintf(format, sizeof(format), "\n    %s[%u]: 0x", name, at);
		text = strstr(text, format);
		if (!text)
			return NULL;
		text += strlen(format);
		words[at] = strtoull(text, NULL, 16);
		end = strcspn(text, "\n");
		text += end;
	}
	return *text ? text + 1 : text;
}

static size_t print_words(char *text, size_t size, const uint64_t *words, const char *name)
{
	size_t len = snprintf(text, size, "  Raw Data:\n");
	unsigned int at;

	for (at = 0; at < WORDS; at++)
		len += snprintf(text + len, size - len, "    %s[%u]: 0x%016" PRIx64 "\n", name, at,
				words[at]);
	return len;
}

/* What `-` in Domain is followed by in an STE */
static const char *without_domain(const uint64_t *w)
{
	static const char *const words[] = {
		" blocked",  " unknown", " unknown", " unknown",
		" identity", " cd",	 " unknown", " unknown",
	};
	unsigned int config = bits(w[0], 3, 1), s1dss = bits(w[1], 1, 0);

	if (!(w[0] & 1))
		return " none";
	if (config == 5 && bits(w[0], 63, 59) && s1dss < 2)
		return s1dss ? " identity" : " blocked";
	return words[config];
}

static void ste_text(char *text, size_t size, unsigned long sid, const uint64_t *w, char *id,
		     size_t id_size)
{
	static const char *const configs[] = {
		"ABORT",  "UNKNOWN",	   "UNKNOWN",	    "UNKNOWN",
		"BYPASS", "only S1_TRANS", "only S2_TRANS", "S1+S2_TRANS",
	};
	unsigned int config = bits(w[0], 3, 1);
	bool s1 = config == 5 || config == 7, s2 = config == 6 || config == 7;
	size_t len;

	snprintf(id, id_size, "-");
	if (s2)
		find_domain(address_bits(w[3], 4), id, id_size);
	len = snprintf(text, size,
		       "STE for Stream ID %lu\n  Valid: %s\n  Config: %s\n"
		       "  S1ContextPtr: 0x%016" PRIx64 "\n  S2TTB: 0x%016" PRIx64 "\n"
		       "  Domain: %s%s\n",
		       sid, w[0] & 1 ? "Yes" : "No", configs[config],
		       s1 ? address_bits(w[0], 6) : 0, s2 ? address_bits(w[3], 4) : 0, id,
		       *id == '-' ? without_domain(w) : "");
	print_words(text + len, size - len, w, "STE");
}

static void cd_text(char *text, size_t size, unsigned long sid, unsigned long ssid,
		    const uint64_t *w, char *id, size_t id_size)
{
	static const char *const granules[] = { "4K", "64K", "16K", "reserved" };
	static const int widths[] = { 32, 36, 40, 42, 44, 48, 52, 56 };
	bool epd0 = bits(w[0], 14, 14);
	size_t len;

	snprintf(id, id_size, "-");
	if (!epd0)
		find_domain(address_bits(w[1], 4), id, id_size);
	len = snprintf(text, size,
		       "CD for Stream ID %lu SSID %lu\n  Valid: %s\n  ASID: %" PRIu64
		       "\n  T0SZ: %" PRIu64
		       "\n  TG0: %s\n  IPS: %d\n  EPD0: %s\n  TTB0: 0x%016" PRIx64
		       "\n  MAIR: 0x%016" PRIx64 "\n  Domain: %s%s\n",
		       sid, ssid, bits(w[0], 31, 31) ? "Yes" : "No", bits(w[0], 63, 48),
		       bits(w[0], 5, 0), granules[bits(w[0], 7, 6)], widths[bits(w[0], 34, 32)],
		       epd0 ? "Yes" : "No", address_bits(w[1], 4), w[3], id,
		       *id != '-' ? "" : epd0 ? " blocked" : " unknown");
	print_words(text + len, size - len, w, "CD");
}

static int show(const char *file, unsigned long sid, const char *want, const char *have)
{
	char expected[128], got[128];
	unsigned int number;

	for (number = 1; number < 64; number++) {
		const char *a = ptd_line(want, number, expected, sizeof(expected));
		const char *b = ptd_line(have, number, got, sizeof(got));

		if (a && b && !strcmp(a, b))
			continue;
		ptd_say("%s of stream %lu, line %u", file, sid, number);
		ptd_say("  its words say  %s", a ? a : "(the end)");
		ptd_say("  dumped         %s", b ? b : "(the end)");
		break;
	}
	return -1;
}

/* one_stream() - hold the files against their words; the domain that they name goes to @id */
static int one_stream(const char *where, unsigned long sid, char *id, size_t id_size, char *config,
		      size_t size)
{
	char path[PTD_PATH], want[2048];
	struct ptd_text ste = {}, cd = {};
	uint64_t words[WORDS];
	const char *block, *next;
	unsigned long ssid;
	char other[16];
	int ret = -1;

	snprintf(path, sizeof(path), "%s/ste", where);
	if (ptd_read(path, &ste) || !words_of(ste.data, words, "STE")) {
		ptd_say("%s cannot be read", path);
		goto out;
	}
	ste_text(want, sizeof(want), sid, words, id, id_size);
	if (strcmp(want, ste.data)) {
		show("ste", sid, want, ste.data);
		goto out;
	}
	ptd_line(strstr(want, "Config: ") + 8, 1, config, size);

	snprintf(path, sizeof(path), "%s/cd", where);
	if (ptd_read(path, &cd)) {
		ptd_say("%s cannot be read", path);
		goto out;
	}
	for (block = cd.data; *block; block = next) {
		next = words_of(block, words, "CD");
		if (!next || sscanf(block, "CD for Stream ID %*u SSID %lu", &ssid) != 1) {
			ptd_say("%s: a descriptor without its words", path);
			goto out;
		}
		cd_text(want, sizeof(want), sid, ssid, words, other, sizeof(other));
		if (strncmp(block, want, strlen(want)) || (size_t)(next - block) != strlen(want)) {
			show("cd", sid, want, block);
			goto out;
		}
		if (block == cd.data && !strcmp(id, "-"))
			snprintf(id, id_size, "%s", other);
	}
	ret = 0;
out:
	ptd_free(&ste);
	ptd_free(&cd);
	return ret;
}

static int link_differs(const char *where, const char *address)
{
	char path[PTD_PATH], target[PTD_PATH];
	const char *name;
	ssize_t len;

	snprintf(path, sizeof(path), "%s/%s", where, address);
	len = readlink(path, target, sizeof(target) - 1);
	target[len > 0 ? len : 0] = 0;
	name = strrchr(target, '/');
	if (len > 0 && name && !strcmp(name + 1, address) && !access(path, F_OK))
		return 0;
	ptd_say("%s is no symlink to the device", path);
	return -1;
}

/**
 * ptd_stream() - what debugfs says of a device's streams
 * @device: its name in the test module
 * @present: whether it has streams
 * @domain: the id that they must name, `-` for none, `*` where it is not looked at
 * @config: the words of Config, or `*`
 *
 * Return: 0, -1 where something is wrong, 1 where there is no SMMUv3 in debugfs.
 */
int ptd_stream(const char *device, bool present, const char *domain, const char *config)
{
	char pattern[PTD_PATH], sids[128] = "", address[64] = "", id[16], have[32], *at;
	struct ptd_text devices = {};
	const char *line;
	int ret = 0;

	if (access(PTD_SMMU, F_OK))
		return 1;
	if (ptd_read(PTD_MODULE "/devices", &devices))
		return -1;
	for (line = devices.data; line && *line;
	     line = strchr(line, '\n'), line = line ? line + 1 : NULL)
		if (!strncmp(line, device, strlen(device)) && line[strlen(device)] == ' ') {
			if (sscanf(line, "%*s %63s", address) == 1)
				ptd_word(line, "sid=", sids, sizeof(sids));
		}
	ptd_free(&devices);
	for (at = sids; !ret && *at;) {
		unsigned long sid = strtoul(at, &at, 10);
		glob_t found = {};

		at += *at == ',';
		snprintf(pattern, sizeof(pattern), PTD_SMMU "/*/stream_table/%lu", sid);
		glob(pattern, 0, NULL, &found);
		if (found.gl_pathc != present) {
			ptd_say("stream %lu of %s has %zu directories", sid, device,
				(size_t)found.gl_pathc);
			ret = -1;
		} else if (present) {
			ret = one_stream(found.gl_pathv[0], sid, id, sizeof(id), have,
					 sizeof(have));
			if (!ret)
				ret = link_differs(found.gl_pathv[0], address);
			if (!ret && strcmp(config, "*") && strcmp(config, have)) {
				ptd_say("stream %lu of %s: Config is %s, expected %s", sid, device,
					have, config);
				ret = -1;
			}
			if (!ret && strcmp(domain, "*") && strcmp(domain, id)) {
				ptd_say("stream %lu of %s: Domain is %s, expected %s", sid, device,
					id, domain);
				ret = -1;
			}
		}
		globfree(&found);
	}
	return ret;
}
