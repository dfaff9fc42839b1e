/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * settle_guest: an image and a guest that writes, discards and flushes at every moment of a settle pass at which it could, and
 * remembers what must be there.
 */
#ifndef ZCFS_TESTS_SETTLE_GUEST_H
#define ZCFS_TESTS_SETTLE_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io_record.h"
#include "mapdb/image.h"
#include "mapdb/settle.h"

#define SECTOR      512u
#define SECTORS     200u
#define SIZE        (SECTORS * SECTOR - 212) /* an odd end */
#define EVENTS_MAX  4000u
#define NAME        "a.img"

/* What the guest did, and between which recorded operations. A sector holds the number of the event that wrote it; 0:
 * zeros. */
struct event {
	size_t begun, done;        /* operations recorded before */
	unsigned int first, count; /* sectors; count 0: a flush */
	uint64_t value;
};

struct guest {
	struct io io; /* first: passes on to base, and lets the guest act during copies */
	const struct io *base;
	struct io_record *record; /* NULL: nothing is recorded */
	struct image *image;
	struct image_map *map; /* that the guest's requests go by */
	struct extent windows[256];
	size_t window_count;
	uint64_t copy_off, copy_length; /* the piece that is being copied */
	bool exclusive, written;
	bool acting;           /* not from within itself */
	unsigned int grain;    /* sectors: what the image is scattered by, and the guest's requests are aligned to */
	unsigned int activity; /* one call in so many lets the guest act; 0: never */
	unsigned int stop;     /* the pass is asked to stop before one piece in so many; 0: never */
	uint64_t sectors[SECTORS]; /* what it wrote last */
	struct event events[EVENTS_MAX];
	size_t event_count;
};

extern struct guest guest;

/* The options of every pass here. */
extern const struct settle_options settle_test_options;

/* Empties the directory, and makes a plain image of numbered sectors, some of them holes, then a bundle of it with a map of shuffled
 * segments. guest.base, which the guest and the pass go through, and guest.activity are set by the test. */
void settle_start(int dir_fd);
void settle_open(const struct io *io, int dir_fd);
void settle_close(void);
/* A pass, to the end or until it fails, or until it was interrupted after a random step. io is what the pass itself goes through. */
int settle_run_pass(const struct io *io, bool interrupt, bool identity, struct settle_progress *progress);
/* What is left after a crash can be settled to the end by somebody else. */
void settle_take_up(int dir_fd, const uint64_t *sectors);

/* Writes or discards a grain, wherever it belongs now. */
void guest_put_grain(unsigned int sector, uint64_t value, bool discard);

/* Reads what the guest would see: the value of every sector. A sector with two values fails. */
void settle_read_sectors(const struct io *io, int dir_fd, uint64_t *sectors);
void settle_check_seen(int dir_fd);
/* Every allocated block of the data file has a byte that is mapped. */
void settle_check_nothing_leaked(int dir_fd);
/* Nothing follows the last mapped byte. */
void settle_check_cut(int dir_fd);

#endif
