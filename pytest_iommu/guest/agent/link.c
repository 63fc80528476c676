// SPDX-License-Identifier: GPL-2.0-only
/* One end of a link over a bad line, without the line: see link.h. */
#include <stdlib.h>
#include <string.h>

#include "link.h"

#define HEAD 13	/* session, kind, number, due */
#define CRC 8

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static uint32_t crc32_of(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint32_t crc = ~0u;

	while (len--)
		crc = crc32_byte(crc, *p++);
	return ~crc;
}

static void add_base64(struct buffer *b, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i += 3) {
		size_t left = len - i;
		uint32_t bits = data[i] << 16;
		char four[4];

		if (left > 1)
			bits |= data[i + 1] << 8;
		if (left > 2)
			bits |= data[i + 2];
		four[0] = digits[bits >> 18];
		four[1] = digits[bits >> 12 & 63];
		four[2] = left > 1 ? digits[bits >> 6 & 63] : '=';
		four[3] = left > 2 ? digits[bits & 63] : '=';
		buffer_add(b, four, 4);
	}
}

/* Bytes of a payload, or -1; out has room for a piece */
static int from_base64(const char *text, size_t len, uint8_t *out)
{
	int done = 0;

	if (len % 4 || len > LINK_PIECE / 3 * 4)
		return -1;
	for (size_t i = 0; i < len; i += 4) {
		uint32_t bits = 0;
		int bytes = 3;

		for (int j = 0; j < 4; j++) {
			const char *digit = text[i + j] ? strchr(digits, text[i + j]) : NULL;

			if (!digit && (text[i + j] != '=' || j < 2 || i + 4 < len))
				return -1;
			bits = bits << 6 | (digit ? digit - digits : 0);
			bytes -= !digit;
		}
		for (int j = 0; j < bytes; j++)
			out[done++] = bits >> (16 - 8 * j);
	}
	return done;
}

/* A hexadecimal number of exactly that many digits, or -1 */
static int64_t number(const char *text, size_t len)
{
	char copy[9] = {};
	char *end;
	int64_t value;

	memcpy(copy, text, len);
	value = strtoll(copy, &end, 16);
	return end == copy + len ? value : -1;
}

static void put_line(struct link *l, char kind, uint16_t seq, const uint8_t *data, size_t len)
{
	size_t start = l->out.len;

	buffer_text(&l->out, "~%s%c%04x%04x", l->session, kind, seq, l->due);
	add_base64(&l->out, data, len);
	buffer_text(&l->out, "%08x\n", crc32_of(l->out.data + start + 1, l->out.len - start - 1));
}

static void put_piece(struct link *l, uint16_t seq)
{
	const struct link_piece *p = &l->pieces[seq % LINK_WINDOW];

	put_line(l, p->kind, seq, p->data, p->len);
}

static void send_again(struct link *l, int64_t now)
{
	l->sent = now;
	for (unsigned int i = 0; i < l->waiting; i++)
		put_piece(l, l->first + i);
}

/* Once for a hole: what was on its way behind it comes, too. The complaint may be lost */
static void complain(struct link *l, int64_t now)
{
	if (l->complained && now - l->complained < l->patience)
		return;
	put_line(l, LINK_AGAIN, 0, NULL, 0);
	l->complained = now;
}

/* The other end has everything up to a number */
static void acknowledged(struct link *l, uint16_t due, int64_t now)
{
	uint16_t count = due - l->first;

	if (!count || count > l->waiting)
		return;
	l->first = due;
	l->waiting -= count;
	l->sent = now;
}

static void take_piece(struct link *l, uint16_t seq, const struct link_piece *p, int64_t now)
{
	uint16_t ahead = seq - l->due;

	if (ahead && ahead < LINK_WINDOW) {
		complain(l, now);
		return;
	}
	/* one from before is acknowledged again: the first time may have been lost */
	l->complained = 0;
	if (!ahead) {
		l->due++;
		if (p->kind == LINK_END)
			l->ended = true;
		else
			buffer_add(&l->in, p->data, p->len);
	}
	put_line(l, LINK_ACK, 0, NULL, 0);
}

/* A line, without the ~; false when it is none of ours, or broken */
static bool take_line(struct link *l, const char *text, size_t len, int64_t now)
{
	struct link_piece piece;
	int64_t seq, due;
	int size;

	if (len < HEAD + CRC || number(text + len - CRC, CRC) != crc32_of(text, len - CRC))
		return false;
	if (text[4] == LINK_QUIT)
		l->quit = true;
	seq = number(text + 5, 4);
	due = number(text + 9, 4);
	size = from_base64(text + HEAD, len - HEAD - CRC, piece.data);
	if (memcmp(text, l->session, 4) || seq < 0 || due < 0 || size < 0)
		return true;
	piece.kind = text[4];
	piece.len = size;
	l->heard = now;
	acknowledged(l, due, now);
	switch (piece.kind) {
	case LINK_DATA:
	case LINK_END:
		take_piece(l, seq, &piece, now);
		break;
	case LINK_AGAIN:
		send_again(l, now);
		break;
	case LINK_PING:
		put_line(l, LINK_ACK, 0, NULL, 0);
		break;
	}
	return true;
}

/* What came over the line; between lines of ours there may be anything */
void link_input(struct link *l, const uint8_t *data, size_t len, int64_t now)
{
	for (size_t i = 0; i < len; i++) {
		bool ends = data[i] == '\n', begins = data[i] == '~';

		if (l->inside && (begins || l->len == LINK_LINE ||
				  (ends && !take_line(l, l->line, l->len, now)))) {
			complain(l, now);
			l->inside = false;
		}
		if (begins)
			l->len = 0;
		else if (l->inside && !ends)
			l->line[l->len++] = data[i];
		l->inside = begins || (l->inside && !ends);
	}
}

/* Whether a piece can be sent */
bool link_room(const struct link *l)
{
	return l->waiting < LINK_WINDOW;
}

/* Send a piece, of LINK_PIECE bytes at most; there has to be room */
void link_send(struct link *l, enum link_kind kind, const void *data, size_t len, int64_t now)
{
	uint16_t seq = l->first + l->waiting;
	struct link_piece *p = &l->pieces[seq % LINK_WINDOW];

	p->kind = kind;
	p->len = len;
	if (len)
		memcpy(p->data, data, len);
	if (!l->waiting++)
		l->sent = now;
	put_piece(l, seq);
}

/* Send again what was not answered; to be called now and then */
void link_tick(struct link *l, int64_t now)
{
	if (l->out.len)
		l->sent = now;
	else if (l->waiting && now - l->sent >= l->patience)
		send_again(l, now);
}
