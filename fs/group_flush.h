/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * group_flush: flushes of one file, one at a time. Whoever comes while one is under way shares the next one, which
 * begins after he came, with all the others who wait for it.
 *
 * One at a time, because the host tells of a failed write-back only once for a descriptor, to whoever asks first: the
 * second of two at the same time would have an answer before the first has noted the failure for everybody.
 */
#ifndef ZCFS_GROUP_FLUSH_H
#define ZCFS_GROUP_FLUSH_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct group_flush {
	pthread_mutex_t lock;
	pthread_cond_t ended;
	uint64_t begun_count, ended_count; /* they differ while one is under way */
	bool next_is_whole;                /* not of the data alone */
};

void group_flush_init(struct group_flush *group);
void group_flush_destroy(struct group_flush *group);

/* Calls flush, or waits until somebody else has, so that all of it lies after this call's begin and before its end.
 * data_only: as with fdatasync; flush gets false if anybody of those who share it wants the whole. What came of it,
 * flush has to note where all will find it. Any thread that may wait for the disk. */
void group_flush_run(struct group_flush *group, bool data_only, void (*flush)(void *context, bool data_only),
                     void *context);

#endif
