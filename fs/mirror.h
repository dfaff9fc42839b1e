/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * mirror: the windows of an image that a settle pass is moving, and how what the guest does to them reaches both places: the one
 * that the map names and the one that it will name.
 *
 * A mirror belongs to a live map (fs/live_map.h): who has borrowed that goes by the mirror, too. Whoever writes within a window
 * holds the range for as long as it takes, so that two writes to the same bytes end in the same order in both places. Who
 * copies a piece either holds it, too, or looks afterwards whether somebody has written to it; so a write waits for the copying of a
 * piece only when it has been in its way again and again. Nobody holds a range over a sync.
 *
 * The old place is the one that counts: if the new one cannot be written, the guest does not hear of it, and the move is off.
 * Only from the commit on, when the new one may count (mirror_must_succeed), is that the guest's error.
 */
#ifndef ZCFS_MIRROR_H
#define ZCFS_MIRROR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mapdb/image_map.h"

struct mirror;

/* windows (copied): guest ranges in order, with their new host_off. NULL: no memory. */
struct mirror *mirror_new(const struct extent *windows, size_t count);
void mirror_free(struct mirror *mirror); /* nobody goes by it any more; NULL is allowed */

/* True if [guest_off, guest_off + length) has bytes in a window: then what changes them must go through the rest of this. */
bool mirror_covers(const struct mirror *mirror, uint64_t guest_off, uint64_t length);

/* A range that is being changed; on its holder's stack. */
struct mirror_hold {
	uint64_t start, end;
	struct mirror_hold *next;
};
/* Waits until nobody else holds any of the range. Any thread. */
void mirror_hold(struct mirror *mirror, struct mirror_hold *hold, uint64_t guest_off, uint64_t length);
void mirror_release(struct mirror *mirror, struct mirror_hold *hold);

/* While the range is held, after the old place was changed: calls change for each part of it that lies in a window, with the part's
 * new host_off. 0, or the first error if there must be none; otherwise an error ends the move. */
int mirror_repeat(struct mirror *mirror, const struct mirror_hold *hold,
                  int (*change)(void *context, uint64_t guest_off, uint64_t host_off, uint64_t length), void *context);
/* The same if the change of the old place has failed, perhaps in part: the places may differ now. */
void mirror_fail(struct mirror *mirror, int error);

/* For the settle pass: around the copying of a piece, see struct settle_hooks. */
void mirror_copy_begin(struct mirror *mirror, uint64_t guest_off, uint64_t length, bool exclusive);
int mirror_copy_end(struct mirror *mirror);
/* From now on the new place may be the one that counts: both must be kept alike. Fails with what a change of it has failed
 * with so far. */
int mirror_must_succeed(struct mirror *mirror);

#endif
