/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * store: the one directory that this daemon serves, and how it was asked to serve it.
 * Filled by main.c before the first request, and with what that one tells; never changed afterwards. Any thread may read it.
 */
#ifndef ZCFS_STORE_H
#define ZCFS_STORE_H

#include <stdbool.h>
#include <sys/types.h>

#include "mapdb/io.h"

/* Where the kernel caches what is read and written without O_DIRECT: the host's file system always does. For the mount,
 * too, costs memory and a second copy, but answers small reads at once. */
enum caching {
	CACHING_AUTO, /* for the mount, too, what is first opened for reading only */
	CACHING_HOST,
	CACHING_BOTH,
};

struct store {
	const struct io *io;
	int dir_fd;       /* the store itself, below an over-mount; carries the daemon's flock */
	dev_t dev;        /* of its file system; others may be mounted in it */
	bool read_only;   /* -o ro: images are opened read-only, nothing in the store is changed */
	bool privileged;  /* effective uid 0: acts for callers with other uids */
	bool passthrough; /* plain images may be left to the kernel */
	bool rings;       /* requests come by FUSE over io_uring, unless libfuse fails to start that */
	bool acls;        /* the kernel asks for ACLs and obeys them; known after the first request */
	enum caching caching;
	bool uncached; /* the kernel does all it must for files that it does not cache for the mount; as acls */
};

extern struct store store;

/* Opens and locks the directory at path. False: said why on standard error. */
bool store_open(const char *path);
/* Removes what crashes have left in the store (image_clean_stale), in all directories of its file system, but not more
 * than 128 deep: there it stays until its directory is removed, and does no harm. Before anybody uses it. */
void store_clean(void);

/* Seconds for which the kernel may go on using an entry or attributes without asking. The administrator may change the
 * store below the mount, so not for long. */
#define KERNEL_CACHE_SECONDS 1.0

/* Name of the control directory in the root of the mount. */
#define CONTROL_NAME ".zcfs"

#endif
