/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * passthrough: images that the kernel reads and writes by itself, without asking the daemon.
 *
 * Only plain images: their map is the identity, and their data file is as long as they are. The kernel wants all who
 * have a file open to go the same way (buffered and passed-through use of one inode do not mix), so it is decided once
 * for each open image, by its first open, and holds until the last close. Whatever is not a read or a write still comes
 * to the daemon.
 *
 * The kernel writes with the daemon's rights, so a write would not take set-user-ID bits or file capabilities off as it
 * must. A file that has such is not passed through, and one that is passed through cannot get them
 * (passthrough_forbids).
 */
#ifndef ZCFS_PASSTHROUGH_H
#define ZCFS_PASSTHROUGH_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "fs/fuse_api.h"

/* What was decided for an open image. */
struct passthrough {
	pthread_mutex_t lock;
	bool decided; /* under lock */
	int id;       /* of the kernel; 0: not passed through */
};

/* Before the first open, if kernel and options allow it. direct_writers: even opens for writing with O_DIRECT. */
void passthrough_allow(struct fuse_session *session, bool direct_writers);

void passthrough_init(struct passthrough *self);
void passthrough_destroy(struct passthrough *self); /* nobody has it open any more */

/* Decides, if nobody has yet, for an image with that data file. */
void passthrough_decide(struct passthrough *self, bool plain, int data_fd);
/* For an answer to an open: tells the kernel, or leaves info alone. host_takes_sectors: with O_DIRECT, by 512 bytes. */
void passthrough_tell(struct passthrough *self, struct fuse_file_info *info, bool host_takes_sectors);

/* Whether it was decided that the kernel reads and writes by itself. */
bool passthrough_in_use(struct passthrough *self);

/* True if a file that is passed through must not get such a mode, or attribute. */
bool passthrough_forbids_mode(struct passthrough *self, mode_t mode);
bool passthrough_forbids_attribute(struct passthrough *self, const char *name);

#endif
