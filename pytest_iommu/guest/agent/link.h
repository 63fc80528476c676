/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Bytes over a line that loses and garbles characters, and that the kernel
 * prints to in between. Each piece goes as a line of text:
 *
 *	~ session(4) kind(1) number(4) due(4) payload(base64) crc(8) \n
 *
 * Numbers are hexadecimal; due is the number of the piece that the sender of the
 * line waits for, so that it has all before; the CRC-32 is of everything between
 * the ~ and itself. See link.py for the host's side of the same.
 */
#ifndef LINK_H
#define LINK_H

#include "agent.h"

#define LINK_PIECE 192	/* bytes of a piece */
#define LINK_WINDOW 8	/* pieces that may be on their way; their lines fit a tty's buffer */
#define LINK_LINE 512	/* more than a line has */

enum link_kind {
	LINK_DATA = 'D',	/* numbered */
	LINK_END = 'E',		/* numbered: nothing comes after it */
	LINK_ACK = 'A',
	LINK_AGAIN = 'N',	/* something is missing: send from due on */
	LINK_PING = 'P',	/* asks for an ACK */
	LINK_QUIT = 'Q',	/* of any session: leave at once */
};

struct link_piece {
	char kind;
	uint8_t len;
	uint8_t data[LINK_PIECE];
};

/* One end. Times are in milliseconds. It neither reads nor writes: who has it does */
struct link {
	char session[5];
	int64_t patience;	/* after that long without an answer all is sent again */
	int64_t sent;		/* when the oldest piece was, or the line was not free */
	int64_t heard;		/* when a line of the other end came last */
	int64_t complained;	/* when we did last of what is missing now, or 0 */
	uint16_t due;
	uint16_t first;		/* number of the oldest piece that is not acknowledged */
	unsigned int waiting;	/* how many are not */
	struct link_piece pieces[LINK_WINDOW];
	struct buffer in;	/* what came, in order */
	struct buffer out;	/* lines that are to be written */
	bool ended;		/* the other end sends nothing any more */
	bool quit;
	bool inside;		/* of a line */
	size_t len;
	char line[LINK_LINE];
};

void link_input(struct link *l, const uint8_t *data, size_t len, int64_t now);
bool link_room(const struct link *l);
void link_send(struct link *l, enum link_kind kind, const void *data, size_t len, int64_t now);
void link_tick(struct link *l, int64_t now);

/* line.c: run a line of shell, its stdin and stdout being at the other end of our terminal */
int line_main(const char *session, const char *patience, const char *command);

#endif
