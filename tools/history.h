/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * history: the last runs over an image, as its map database remembers them.
 */
#ifndef ZCFS_HISTORY_H
#define ZCFS_HISTORY_H

#include <stddef.h>

#include "mapdb/image.h"

#define HISTORY_MAX 50

struct history {
	size_t count; /* 0: a plain image, or nothing is known */
	struct history_row {
		struct run_record run; /* its texts are the two that follow */
		char operation[16], options[128];
	} rows[HISTORY_MAX]; /* the newest first */
};

/* 0 or -errno, with what could be read. */
int history_read(struct image *image, struct history *history);

#endif
