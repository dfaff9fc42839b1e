/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Scope-bound release of memory and descriptors, in place of goto ladders.
 */
#ifndef ZCFS_CLEANUP_H
#define ZCFS_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_pointer(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_close_fd(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define cleanup_free __attribute__((cleanup(cleanup_free_pointer)))
#define cleanup_fd __attribute__((cleanup(cleanup_close_fd)))

/* Takes the descriptor out of a cleanup_fd variable. */
static inline int steal_fd(int *fd)
{
	int stolen = *fd;
	*fd = -1;
	return stolen;
}

static inline void *steal_pointer_impl(void *p)
{
	void **pp = p;
	void *stolen = *pp;
	*pp = NULL;
	return stolen;
}

/* Takes the pointer out of a cleanup_free variable. */
#define steal_pointer(pp) ((__typeof__(*(pp)))steal_pointer_impl(pp))

#endif
