// SPDX-License-Identifier: GPL-2.0-only
/* Buffers: named, physically contiguous memory that DMA may go to. */
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "ptdump_test.h"

#define MAX_BUFFER SZ_4M
#define MAX_PEEK 64

struct ptt_buffer {
	struct list_head node;
	char name[PTT_NAME_LEN];
	u64 size;
	unsigned int order;
	struct page *page;
};

static LIST_HEAD(buffers);

static struct ptt_buffer *find_buffer(const char *name)
{
	struct ptt_buffer *b;

	list_for_each_entry(b, &buffers, node)
		if (!strcmp(b->name, name))
			return b;
	return NULL;
}

/* ptt_cmd_buffer() - buffer NAME SIZE: zeroed, aligned to its size rounded up */
int ptt_cmd_buffer(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_buffer *b;
	u64 size;
	int ret;

	if (!ptt_name_ok(args->word[1]))
		return ptt_fail(reply, -EINVAL, "%.40s is not a name", args->word[1]);
	if (find_buffer(args->word[1]))
		return ptt_fail(reply, -EEXIST, "there is a buffer %s", args->word[1]);
	ret = ptt_parse_number(args->word[2], &size);
	if (ret || !size || size > MAX_BUFFER)
		return ptt_fail(reply, ret ?: -ERANGE, "SIZE %.31s is not in 1..4M", args->word[2]);

	b = kzalloc_obj(*b);
	if (!b)
		return -ENOMEM;
	strscpy(b->name, args->word[1]);
	b->size = size;
	b->order = get_order(size);
	b->page = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_COMP | __GFP_NOWARN | __GFP_NORETRY,
			      b->order);
	if (!b->page) {
		kfree(b);
		return ptt_fail(reply, -ENOMEM, "no contiguous memory");
	}
	list_add_tail(&b->node, &buffers);
	return ptt_ok(reply, "pa=0x%llx", (u64)page_to_phys(b->page));
}

static void free_buffer(struct ptt_buffer *b)
{
	list_del(&b->node);
	__free_pages(b->page, b->order);
	kfree(b);
}

/* Nothing may be mapped any more */
static void free_buffers(void)
{
	struct ptt_buffer *b, *next;

	list_for_each_entry_safe(b, next, &buffers, node)
		free_buffer(b);
}

struct ptt_holder ptt_buffer_holder = {
	.after_reset = free_buffers,
};

static int get_buffer(const char *name, struct ptt_buffer **b, struct ptt_reply *reply)
{
	*b = find_buffer(name);
	return *b ? 0 : ptt_fail(reply, -ENOENT, "no buffer %.31s", name);
}

/* ptt_cmd_unbuffer() - unbuffer NAME: refused while a mapping may lead there */
int ptt_cmd_unbuffer(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_buffer *b;
	int ret = get_buffer(args->word[1], &b, reply);
	u64 pa;

	if (ret)
		return ret;
	pa = page_to_phys(b->page);
	if (ptt_pa_in_use(pa, pa + (PAGE_SIZE << b->order) - 1))
		return ptt_fail(reply, -EBUSY, "%s is mapped", b->name);
	free_buffer(b);
	return 0;
}

/* ptt_cmd_peek() - peek NAME OFFSET LEN */
int ptt_cmd_peek(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_buffer *b;
	u64 offset, len;
	int ret = get_buffer(args->word[1], &b, reply);

	if (ret)
		return ret;
	ret = ptt_parse_number(args->word[2], &offset) ?: ptt_parse_number(args->word[3], &len);
	if (ret)
		return ptt_fail(reply, ret, "OFFSET and LEN are numbers");
	if (!len || len > MAX_PEEK || offset >= b->size || len > b->size - offset)
		return ptt_fail(reply, -ERANGE, "at most %d bytes inside the buffer", MAX_PEEK);
	return ptt_ok(reply, "data=%*phN", (int)len, page_address(b->page) + offset);
}

/* ptt_cmd_fill() - fill NAME BYTE */
int ptt_cmd_fill(struct ptt_args *args, struct ptt_reply *reply)
{
	struct ptt_buffer *b;
	u64 byte;
	int ret = get_buffer(args->word[1], &b, reply);

	if (ret)
		return ret;
	ret = ptt_parse_number(args->word[2], &byte);
	if (ret || byte > 0xff)
		return ptt_fail(reply, ret ?: -ERANGE, "BYTE %.31s is not in 0..255",
				args->word[2]);
	memset(page_address(b->page), byte, b->size);
	return 0;
}

/**
 * ptt_parse_pa() - read an output address
 * @text: a number, or @NAME or @NAME+OFFSET of a buffer; cut up
 * @pa: the address
 * @reply: says what is wrong
 *
 * Return: 0 or -errno.
 */
int ptt_parse_pa(char *text, u64 *pa, struct ptt_reply *reply)
{
	struct ptt_buffer *b;
	u64 offset = 0;
	char *name;
	int ret;

	if (*text != '@') {
		ret = ptt_parse_number(text, pa);
		return ret ? ptt_fail(reply, ret, "PA %.31s is not a number", text) : 0;
	}
	text++;
	name = strsep(&text, "+");
	ret = get_buffer(name, &b, reply);
	if (ret)
		return ret;
	if (text && ptt_parse_number(text, &offset))
		return ptt_fail(reply, -EINVAL, "offset %.31s is not a number", text);
	if (offset >= b->size)
		return ptt_fail(reply, -ERANGE, "offset %.31s is outside the buffer", text);
	*pa = page_to_phys(b->page) + offset;
	return 0;
}
