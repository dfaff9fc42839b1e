/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * settle: the settle pass: moves the pieces of an image on the host so that the image map becomes sequential again.
 *
 * What to move where is planned by mapdb/settle_plan.h. It is carried out in steps, each of which moves one batch and is complete in
 * itself, so that a pass can end after any step, or in the middle of one by a crash, and be taken up again by whoever likes:
 *
 *     target punched          what a crash has left there must not show
 *     mirror                  from now on the guest's writes to the batch go to both places
 *     copied, piece by piece  each piece ordered against writes to it; holes stay holes, but what the guest discards of the few
 *                             MiB that come next becomes zeros
 *     data file synced        before any map names the new places
 *     map committed           with the history; undo goes
 *     replace                 new map in use; on return nobody uses the old one any more
 *     old places punched      whole blocks that nothing names
 *
 * No write ever waits for a sync. A step gives back what its batch has left before the next one begins, so at no time is more allocated than
 * the image, one batch, once more what the guest writes to holes of the batch meanwhile, and blocks of which other batches have parts; a crash anywhere costs at most that, as space
 * that no extent names. A step that fails before the commit leaves the image as it was.
 *
 * This part knows neither FUSE nor locks: whoever has the image provides the hooks. All calls for one pass come from one
 * thread at a time, with the right to change the map.
 */
#ifndef ZCFS_SETTLE_H
#define ZCFS_SETTLE_H

#include <stdbool.h>
#include <stdint.h>

#include "mapdb/image_map.h"
#include "mapdb/io.h"
#include "mapdb/map_db.h"
#include "mapdb/settle_plan.h"

#define SETTLE_BATCH_DEFAULT (UINT64_C(64) << 20)
#define SETTLE_PIECE	     (256u << 10) /* what is copied at a time, at most; a write to it waits no longer than that takes */

struct settle_hooks {
	void *context;
	/* From its return until replace() or unmirror(), what the guest does to the windows (guest range, new host_off) it does in both
	 * places, and nothing that it did to the old one only is still under way. 0 or -errno. */
	int (*mirror)(void *context, const struct extent *windows, size_t count);
	void (*unmirror)(void *context);
	/* Around the copying of a piece. exclusive: writes to the piece wait meanwhile; otherwise they do not, and copy_end tells of
	 * them: 1 if the piece was written to, and must be copied again; 0; -errno if a write to the new place failed. */
	void (*copy_begin)(void *context, uint64_t guest_off, uint64_t length, bool exclusive);
	int (*copy_end)(void *context);
	/* Calls map_db_settle() on the image's database, and returns its result. After -EINPROGRESS neither unmirror() nor
	 * replace() is called: either map may be the one that counts, so both places must be kept alike, for good. */
	int (*commit)(void *context, const struct image_map *old, const struct image_map *map, const struct run_record *run,
		      struct settle_record *settle);
	/* Takes a reference. Cannot fail: what it needs was got by mirror(). */
	void (*replace)(void *context, struct image_map *map);
	bool (*stop)(void *context); /* asked before each piece: end the step, with what is copied so far */
	bool (*busy)(void *context); /* the guest has been using the image lately */
};

struct settle_options {
	uint64_t threshold;   /* of the plan */
	bool identity;	      /* of the plan; several plans then follow each other */
	uint64_t batch_bytes; /* of data in a step; 0: SETTLE_BATCH_DEFAULT */
	const char *text;     /* for the history; copied */
};

struct settle_limits {
	/* Bytes a second; 0: none. With one, or idle, the old places are given back no faster than leaves others as much time for the
	 * file as that takes: where the host discards each at once, longer than the copying. */
	uint64_t rate;
	bool idle;	      /* copy only while hooks.busy says no */
	unsigned int step_ms; /* copying ends after about this time; 0: when the batch is done */
};

struct settle_progress {
	uint64_t bytes_planned; /* of this plan, holes included */
	uint64_t bytes_left;	/* of those */
	uint64_t bytes_moved;	/* data copied by the whole pass, steps before an interruption included */
	uint64_t extents_before, extents;
	bool finished;
};

struct settle;

/* A pass over the data file data_fd (borrowed). db: read once, for a pass that was interrupted; NULL: none was. -ENOMEM; -errno
 * of the database. */
int settle_new(const struct io *io, int data_fd, struct map_db *db, const struct settle_hooks *hooks,
	       const struct settle_options *options, struct settle **out);
void settle_free(struct settle *settle); /* NULL is allowed */

/* One batch. map: the current one; if it is not what the last step left, a new plan is made. *progress is filled in when 0 is
 * returned; finished is set when nothing is left to move, which is then recorded, and the data file cut to what is mapped.
 * -EFBIG: the host's files cannot be long enough for anything to be moved; -ENOSPC: too little is free for even a small batch;
 * -EOPNOTSUPP: the host cannot punch holes; -EINPROGRESS: see hooks.commit, no further step may be made; -EIO etc. */
int settle_step(struct settle *settle, struct image_map *map, const struct settle_limits *limits,
		struct settle_progress *progress);

#endif
