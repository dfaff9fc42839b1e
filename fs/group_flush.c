/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/group_flush.h"

void group_flush_init(struct group_flush *group)
{
	*group = (struct group_flush){.begun_count = 0};
	pthread_mutex_init(&group->lock, NULL);
	pthread_cond_init(&group->ended, NULL);
}

void group_flush_destroy(struct group_flush *group)
{
	pthread_cond_destroy(&group->ended);
	pthread_mutex_destroy(&group->lock);
}

/* Under the lock, which it gives up meanwhile. */
static void flush_for_all(struct group_flush *group, void (*flush)(void *context, bool data_only), void *context)
{
	bool data_only = !group->next_is_whole;

	group->next_is_whole = false;
	group->begun_count++;
	pthread_mutex_unlock(&group->lock);
	flush(context, data_only);
	pthread_mutex_lock(&group->lock);
	group->ended_count++;
	pthread_cond_broadcast(&group->ended);
}

void group_flush_run(struct group_flush *group, bool data_only, void (*flush)(void *context, bool data_only),
                     void *context)
{
	pthread_mutex_lock(&group->lock);
	uint64_t ours = group->begun_count + 1;

	group->next_is_whole |= !data_only;
	while (group->ended_count < ours) {
		if (group->begun_count == group->ended_count)
			flush_for_all(group, flush, context);
		else
			pthread_cond_wait(&group->ended, &group->lock);
	}
	pthread_mutex_unlock(&group->lock);
}
