// SPDX-License-Identifier: GPL-2.0-only
/*
 * Words, numbers and names of the command lines. Whatever is written to the
 * control file ends in an errno and a message, nothing else.
 */
#include <linux/bits.h>
#include <linux/ctype.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/kstrtox.h>
#include <linux/overflow.h>
#include <linux/string.h>

#include "ptdump_test.h"

static const char *const key_names[PTT_NR_KEYS] = {
	[PTT_DEV] = "dev",	   [PTT_STAGE] = "stage",     [PTT_FORMAT] = "format",
	[PTT_GRANULE] = "granule", [PTT_IAS] = "ias",	      [PTT_OAS] = "oas",
	[PTT_QUIRKS] = "quirks",   [PTT_FEATURES] = "features", [PTT_LEVELS] = "levels",
	[PTT_VASZ] = "vasz",	   [PTT_OASZ] = "oasz",	      [PTT_LEAF] = "leaf",
	[PTT_COUNT] = "count",	   [PTT_ISTEP] = "istep",     [PTT_PSTEP] = "pstep",
	[PTT_SEED] = "seed",	   [PTT_LEN] = "len",	      [PTT_DOMAIN] = "domain",
	[PTT_RAW] = "raw",	   [PTT_CELLS] = "cells",     [PTT_GAP] = "gap",
	[PTT_THREADS] = "threads", [PTT_OPS] = "ops",	      [PTT_MORE] = "more",
	[PTT_PAUSE] = "pause",
	[PTT_ROUNDS] = "rounds",   [PTT_PAGES] = "pages",      [PTT_TO] = "to",
	[PTT_ROUND] = "round",	   [PTT_LATE] = "late",	      [PTT_AT] = "at",
};

const char *ptt_key_name(enum ptt_key key)
{
	return key_names[key];
}

int ptt_fail(struct ptt_reply *reply, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vscnprintf(reply->text, sizeof(reply->text), fmt, ap);
	va_end(ap);
	return err;
}

int ptt_ok(struct ptt_reply *reply, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vscnprintf(reply->text, sizeof(reply->text), fmt, ap);
	va_end(ap);
	return 0;
}

static int find_key(const char *word, size_t len)
{
	int i;

	for (i = 0; i < PTT_NR_KEYS; i++)
		if (strlen(key_names[i]) == len && !strncmp(key_names[i], word, len))
			return i;
	return -ENOENT;
}

/**
 * ptt_split() - split a line into words and key=value pairs
 * @line: the line, cut up in place
 * @args: filled; points into @line
 * @reply: says what is wrong
 *
 * Return: 0, or -EINVAL for an unknown or doubled key, an empty value, too
 * many words or a byte that does not belong in a line.
 */
int ptt_split(char *line, struct ptt_args *args, struct ptt_reply *reply)
{
	char *word, *eq, *p;
	int key;

	memset(args, 0, sizeof(*args));
	for (p = line; *p; p++) {
		if (*p == '\t')
			*p = ' ';
		if (*p < 0x20 || *p > 0x7e)
			return ptt_fail(reply, -EINVAL, "unprintable byte in column %zu",
					(size_t)(p - line) + 1);
	}

	while ((word = strsep(&line, " ")) != NULL) {
		if (!*word)
			continue;
		eq = strchr(word, '=');
		if (!eq) {
			if (args->nr_words == ARRAY_SIZE(args->word))
				return ptt_fail(reply, -EINVAL, "too many words at %.31s", word);
			args->word[args->nr_words++] = word;
			continue;
		}
		key = find_key(word, eq - word);
		if (key < 0)
			return ptt_fail(reply, -EINVAL, "unknown word %.31s", word);
		if (args->value[key])
			return ptt_fail(reply, -EINVAL, "%s= given twice", key_names[key]);
		if (!eq[1])
			return ptt_fail(reply, -EINVAL, "%s= without a value", key_names[key]);
		args->value[key] = eq + 1;
	}
	return 0;
}

/**
 * ptt_parse_number() - read an unsigned number
 * @text: decimal, or hexadecimal with 0x; may end in K, M, G or T
 * @value: the number
 *
 * Return: 0, -EINVAL when it is no number, -ERANGE when it needs more than 64 bits.
 */
int ptt_parse_number(const char *text, u64 *value)
{
	static const char suffixes[] = "KMGT";
	unsigned int base = 10, shift = 0;
	size_t len = strlen(text);
	const char *suffix;
	char digits[24];
	int ret;

	if (!len || !isdigit(text[0]))
		return -EINVAL;
	suffix = strchr(suffixes, text[len - 1]);
	if (suffix) {
		shift = 10 * (suffix - suffixes + 1);
		len--;
	}
	if (len >= sizeof(digits))
		return -ERANGE;
	memcpy(digits, text, len);
	digits[len] = 0;
	/* base 0 would read 010 as eight */
	if (len > 2 && digits[0] == '0' && digits[1] == 'x')
		base = 16;
	ret = kstrtoull(digits, base, value);
	if (ret)
		return ret;
	if (shift && *value > U64_MAX >> shift)
		return -ERANGE;
	*value <<= shift;
	return 0;
}

/**
 * ptt_arg_number() - the number of a key=value word
 * @args: the words
 * @key: which
 * @min: smallest value allowed
 * @max: largest
 * @value: default when the key is absent; replaced by what was given
 * @reply: says what is wrong
 *
 * Return: 0, -EINVAL or -ERANGE.
 */
int ptt_arg_number(const struct ptt_args *args, enum ptt_key key, u64 min, u64 max,
		   u64 *value, struct ptt_reply *reply)
{
	u64 n;
	int ret;

	if (!args->value[key])
		return 0;
	ret = ptt_parse_number(args->value[key], &n);
	if (ret)
		return ptt_fail(reply, ret, "%s=%.31s is not a number", key_names[key],
				args->value[key]);
	if (n < min || n > max)
		return ptt_fail(reply, -ERANGE, "%s=%.31s is not in %llu..%llu", key_names[key],
				args->value[key], min, max);
	*value = n;
	return 0;
}

/**
 * ptt_parse_prot() - read the letters of a prot word
 * @text: letters of rwxcmp, each at most once, or "-"
 * @prot: IOMMU_* flags; without x IOMMU_NOEXEC is set
 * @reply: says what is wrong
 *
 * Return: 0, or -EINVAL also when neither r nor w is there: several formats
 * cannot say so, and the core warns.
 */
int ptt_parse_prot(const char *text, int *prot, struct ptt_reply *reply)
{
	static const char letters[] = "rwxcmp";
	static const int flags[] = { IOMMU_READ,  IOMMU_WRITE, IOMMU_NOEXEC,
				     IOMMU_CACHE, IOMMU_MMIO,  IOMMU_PRIV };
	const char *p, *letter;

	*prot = 0;
	for (p = strcmp(text, "-") ? text : ""; *p; p++) {
		letter = strchr(letters, *p);
		if (!letter)
			return ptt_fail(reply, -EINVAL, "prot takes letters of rwxcmp, not %c", *p);
		if (*prot & flags[letter - letters])
			return ptt_fail(reply, -EINVAL, "prot has %c twice", *p);
		*prot |= flags[letter - letters];
	}
	if (!(*prot & (IOMMU_READ | IOMMU_WRITE)))
		return ptt_fail(reply, -EINVAL, "prot needs r or w");
	*prot ^= IOMMU_NOEXEC;
	return 0;
}

/**
 * ptt_parse_words() - read a comma-separated set
 * @text: words of @known, or "none"
 * @known: the words
 * @nr: how many
 * @bits: one bit a word
 * @reply: says what is wrong
 *
 * Return: 0 or -EINVAL.
 */
int ptt_parse_words(const char *text, const char *const *known, unsigned int nr,
		    unsigned long *bits, struct ptt_reply *reply)
{
	unsigned int i;
	size_t len;

	*bits = 0;
	if (!strcmp(text, "none"))
		return 0;
	for (;;) {
		len = strcspn(text, ",");
		for (i = 0; i < nr; i++)
			if (strlen(known[i]) == len && !strncmp(known[i], text, len))
				break;
		if (i == nr)
			return ptt_fail(reply, -EINVAL, "unknown word %.31s", text);
		if (*bits & BIT(i))
			return ptt_fail(reply, -EINVAL, "%s given twice", known[i]);
		*bits |= BIT(i);
		if (!text[len])
			return 0;
		text += len + 1;
	}
}

/* ptt_name_ok() - true for 1 to 31 of a-z, 0-9, _ and - */
bool ptt_name_ok(const char *name)
{
	size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-");

	return len && len < PTT_NAME_LEN && !name[len];
}

/* ptt_size_text() - a size in the largest of K M G T that divides it */
const char *ptt_size_text(char *buf, size_t len, u64 size)
{
	static const char suffixes[] = " KMGT";
	unsigned int i = 0;

	while (size && i < 4 && !(size % 1024)) {
		size /= 1024;
		i++;
	}
	if (i)
		scnprintf(buf, len, "%llu%c", size, suffixes[i]);
	else
		scnprintf(buf, len, "%llu", size);
	return buf;
}

/* ptt_errno_name() - the name of an errno; not errname(), which may be configured away */
const char *ptt_errno_name(int err)
{
	static const struct {
		int err;
		const char *name;
	} names[] = {
#define NAME(e) { e, #e }
		NAME(EPERM),  NAME(ENOENT),  NAME(EINTR),   NAME(EIO),	  NAME(ENXIO),
		NAME(E2BIG),  NAME(EAGAIN),  NAME(ENOMEM),  NAME(EACCES), NAME(EFAULT),
		NAME(EBUSY),  NAME(EEXIST),  NAME(ENODEV),  NAME(EINVAL), NAME(ENOSPC),
		NAME(ERANGE), NAME(ENOTCONN), NAME(EOVERFLOW), NAME(EOPNOTSUPP),
		NAME(ETIMEDOUT), NAME(EADDRINUSE), NAME(EISCONN),
#undef NAME
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].err == -err)
			return names[i].name;
	return "EOTHER";
}
