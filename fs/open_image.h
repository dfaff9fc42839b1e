/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * open_image: one image while anybody has it open through the mount, shared by all who have.
 *
 * It holds the image's shared lock (struct image), so for as long as it exists no tool can change the map, adopt the
 * image or make it plain. Whether the image is plain or a bundle is found out when it is made, under that lock, and
 * forgotten with it: nothing of it outlives the last close. This is what keeps the daemon from serving a stale map.
 *
 * The current map is swapped, never changed: I/O borrows it (map_borrow), and who replaces it waits until nobody uses
 * the old one any more.
 *
 * Locks, in the order in which they are taken: change -> (node's and image's own short locks, never held over I/O).
 */
#ifndef ZCFS_OPEN_IMAGE_H
#define ZCFS_OPEN_IMAGE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "fs/direct_file.h"
#include "fs/group_flush.h"
#include "fs/host_file.h"
#include "fs/live_map.h"
#include "fs/node.h"
#include "fs/passthrough.h"
#include "fs/read_ahead.h"
#include "fs/write_gate.h"
#include "mapdb/image.h"

/* Who caches an image for those who have it open without O_DIRECT. */
enum cached_by { CACHED_BY_NOBODY_YET, CACHED_BY_HOST, CACHED_BY_BOTH };

struct open_image {
	struct node *node; /* a reference */
	struct image *image;
	unsigned int handles;   /* under the module's mutex */
	atomic_bool handed_out; /* the kernel knows it */
	bool bundle;
	atomic_int write_fd; /* to write data through: image->data_fd or one of its own; -1: read-only (so far) */

	pthread_mutex_t change; /* size, allocation and database; held over I/O and fsync */
	bool orphan;            /* under change: a bundle that was removed while open; it has no database any more */
	bool in_doubt;             /* under change: see open_image_in_doubt() */
	atomic_bool undo_dropped;  /* set under change */
	atomic_uint change_wanted; /* those who wait for change: whoever has it for long lets go of it soon */
	bool settling;             /* a step of a settle pass is under way; under the mutex of fs/settle.c */
	struct settle_session *settle; /* under change: the pass, from its first step on */

	struct map_pointer current;
	struct host_file host; /* the data file */
	struct read_ahead ahead;
	struct direct_file direct;
	struct write_gate gate;
	atomic_bool written_past_us; /* by the kernel, for somebody who has it open through the cache (passthrough) */
	atomic_int cached_by;         /* enum cached_by */
	atomic_bool written_cached;   /* through the kernel's cache for the mount */
	atomic_bool written_directly; /* past it */
	struct passthrough passthrough;

	struct group_flush flushes;
	atomic_int sync_error;     /* of open_image_sync() */
	struct stat opened;        /* the data file at the opening */
	atomic_bool ctime_durable; /* a later one: what was flushed has ended an undo for good */
};

/* The open image of a node, opened now if it is not yet. for_write: -EROFS or -EACCES if it cannot be written.
 * -EBUSY: a tool holds the lock, or it cannot be told who has the bundle open (try again later); -ETXTBSY: another
 * daemon has, logged; -ESTALE: the name does not mean this inode any more (the kernel then looks it up again);
 * -EUCLEAN: damaged, logged. */
int open_image_get(struct node *node, bool for_write, struct open_image **out);
/* That of an open file, which has a reference to it until its release; NULL: the file is a copy of a database. */
struct open_image *open_image_of(const struct fuse_file_info *info);
/* Only if it is open already; else NULL. */
struct open_image *open_image_peek(struct node *node);
void open_image_put(struct open_image *image);

/* True, and the size of the image, if the node is open and a bundle. */
bool open_image_bundle_size(struct node *node, uint64_t *size);
bool open_image_is_plain(struct node *node); /* open, and plain */

/* For a handle that was opened with these flags. The first one decides until the image has been closed whether the kernel
 * caches it for the mount, so that all see the same: guests write and have a cache of their own; who only reads, like a
 * backup, may do so in small pieces. O_DIRECT ones get the descriptor past the host's cache. Those by which the kernel
 * writes to the host's cache itself rule that out for writes. May wait for the disk. After passthrough_decide(). */
void open_image_choose_cache(struct open_image *image, int flags);

/* Whether it was decided that the kernel does not cache it for the mount. */
bool open_image_uncached(const struct open_image *image);

/* fsync of the data file, or fdatasync. The only way to have it flushed: the host tells of a failed write-back once
 * only, whoever asks, and the handles of an inode share a descriptor. So the first failure is every later one's result,
 * too, until the image has been closed: the pages are gone. Calls at the same time share one (fs/group_flush.h). 0 or
 * -errno. */
int open_image_sync(struct open_image *image, bool data_only);

/* Takes set-user-ID and set-group-ID off the file, for a caller who lacks the right to change a privileged program and
 * leave it privileged; the daemon's own rights do not count. */
void open_image_drop_privileges(const struct open_image *image);

/* A commit has failed, and which map the database names is not known: none may be committed any more, until the image has
 * been closed. how: what is served meanwhile, for the log. Under image->change. */
void open_image_in_doubt(struct open_image *image, const char *how);

/* Takes image->change. */
void open_image_lock(struct open_image *image);

/* The current map, to be returned by the same thread; see live_map.h. */
struct live_map *map_borrow(struct open_image *image);
void map_return(struct open_image *image, struct live_map *live);
/* Makes live (taken) the current one and waits for the last user of the old one. Under image->change. */
void map_swap(struct open_image *image, struct live_map *live);

#endif
