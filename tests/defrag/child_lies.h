/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * child_lies: what a child of a guest pass may say that took orders from the guest.
 */
#ifndef ZCFS_CHILD_LIES_H
#define ZCFS_CHILD_LIES_H

#include <stddef.h>

#define QUERIES 2 /* whose a byte is, that are asked */

struct lie {
	const char *name;
	void (*tell)(void);
	unsigned int variants;
	int result; /* of the pass */
};

extern const struct lie lies[];
extern const size_t lie_count;
extern const struct lie free_lies[]; /* of one that is asked what is free */
extern const size_t free_lie_count;
extern unsigned int lie_variant; /* from 0, of the lie that is being told */
extern int lie_scratch_fd;       /* the child's file in memory */

/* An honest one that is asked that. */
void honest_about_free(void);
/* One of them: only a user who wants to stop ends it. */
void flood_of_progress(void);

#endif
