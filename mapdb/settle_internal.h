/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What settle.c (the pass and its steps), settle_batch.c (what one step copies) and settle_pace.c (how fast) share.
 */
#ifndef ZCFS_SETTLE_INTERNAL_H
#define ZCFS_SETTLE_INTERNAL_H

#include "mapdb/host_space.h"
#include "mapdb/settle.h"

#define WINDOWS_MAX 256u

/* What was copied with a rate; times of CLOCK_MONOTONIC. */
struct settle_pace {
	uint64_t rate;	       /* that the times are for; 0: none yet */
	int64_t begun_ns;      /* the last piece */
	int64_t due_ns;	       /* when everything should have been through */
	int64_t not_before_ns; /* what is late is caught up with little by little */
};

struct settle {
	const struct io *io;
	int data_fd;
	struct settle_hooks hooks;
	struct settle_options options;
	char *text;

	struct image_map *map; /* that the plan is for, after what has been moved */
	struct host_index *index;
	struct settle_plan plan;
	size_t next;	    /* move */
	uint64_t next_done; /* bytes of it that are moved */
	uint64_t placed;    /* bytes of the plan that are moved */

	struct run_record run;
	struct settle_record record; /* run 0: nothing committed yet */

	uint8_t *buffer; /* SETTLE_PIECE bytes */
	struct settle_pace pace;
	bool gently;	     /* this step leaves others time for the file while holes are punched */
	int64_t punching_ns; /* the last pause of that */
};

struct extent_list {
	struct extent *extents;
	size_t count, capacity;
};

/* Consecutive pieces of the plan. */
struct batch {
	struct extent windows[WINDOWS_MAX]; /* guest range, new host_off; in guest order */
	size_t count;
	struct extent rest[WINDOWS_MAX]; /* what was not copied, after batch_cut */
	size_t rest_count;
	uint64_t data_max;   /* bytes of data to copy */
	uint64_t ahead;	     /* bytes of the windows, from the first on, that are looked at and on their way from the disk */
	struct extent_list data; /* of those, what is data, where it was; in guest order */
	size_t data_next;	 /* what of it is copied next */
	uint64_t copied;     /* bytes of the windows, from the first on */
	uint64_t data_bytes; /* of those, data */
	struct extent_list sources; /* after batch_cut, where the bytes were that were copied; in host order */
};

/* The next batch of about data_bytes of data. -errno. */
int batch_choose(struct settle *settle, uint64_t data_bytes, struct batch *batch);
void batch_release(struct batch *batch);
/* Punches the targets. */
int batch_prepare(struct settle *settle, const struct batch *batch);
/* Copies until everything is copied or it is time to stop; says in batch->copied how far it came. */
int batch_copy(struct settle *settle, struct batch *batch, const struct settle_limits *limits);
/* Makes of the batch one of what was copied only, and finds its sources. -ENOMEM. */
int batch_cut(struct settle *settle, struct batch *batch);

int64_t settle_now_ns(void);
uint64_t settle_piece(const struct settle_limits *limits); /* bytes to copy at a time; at most SETTLE_PIECE */
void settle_pace_add(struct settle_pace *pace, uint64_t bytes); /* copied just now, after settle_wait() */
/* Waits until more may be copied. True: stop instead. end_ns: when to stop at the latest; 0: never. */
bool settle_wait(struct settle *settle, const struct settle_limits *limits, int64_t end_ns);
/* For holes that are punched from now on, for as long as nothing else is done. */
struct host_puncher settle_puncher(struct settle *settle);

#endif
