/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/passthrough.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

#define CAPABILITY_ATTRIBUTE "security.capability"

/* From the kernel's linux/fuse.h, which may be older here than the kernel. */
struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN  _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

/* Set once, before the first open. */
static struct fuse_session *session;
static bool direct_writers_too;

void passthrough_allow(struct fuse_session *the_session, bool direct_writers)
{
	session = the_session;
	direct_writers_too = direct_writers;
}

void passthrough_init(struct passthrough *self)
{
	*self = (struct passthrough){.id = 0};
	pthread_mutex_init(&self->lock, NULL);
}

void passthrough_destroy(struct passthrough *self)
{
	uint32_t id = (uint32_t)self->id;

	if (id != 0)
		ioctl(fuse_session_fd(session), BACKING_CLOSE, &id);
	pthread_mutex_destroy(&self->lock);
}

static bool makes_privileged(mode_t mode)
{
	return (mode & S_ISUID) || (mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
}

static bool is_harmless(int data_fd)
{
	struct stat status;

	return fstat(data_fd, &status) == 0 && !makes_privileged(status.st_mode) &&
	       fgetxattr(data_fd, CAPABILITY_ATTRIBUTE, NULL, 0) < 0;
}

void passthrough_decide(struct passthrough *self, bool plain, int data_fd)
{
	struct backing_map map = {.fd = data_fd};

	pthread_mutex_lock(&self->lock);
	if (!self->decided && session && plain && is_harmless(data_fd)) {
		int id = ioctl(fuse_session_fd(session), BACKING_OPEN, &map);

		/* Not possible on every file system, nor for everybody: then the daemon does it. */
		self->id = id > 0 ? id : 0;
	}
	self->decided = true;
	pthread_mutex_unlock(&self->lock);
}

static int id_of(struct passthrough *self)
{
	int id;

	pthread_mutex_lock(&self->lock);
	id = self->id;
	pthread_mutex_unlock(&self->lock);
	return id;
}

bool passthrough_in_use(struct passthrough *self)
{
	return id_of(self) != 0;
}

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
/* The kernel makes passed-through direct writes one at a time, and leaves it to the host how they must be aligned. */
static bool suits(int open_flags, bool host_takes_sectors)
{
	if (!(open_flags & O_DIRECT) || direct_writers_too)
		return true;
	return (open_flags & O_ACCMODE) == O_RDONLY && host_takes_sectors;
}
#endif

void passthrough_tell(struct passthrough *self, struct fuse_file_info *info, bool host_takes_sectors)
{
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
	info->backing_id = id_of(self);
	if (info->backing_id == 0 || !suits(info->flags, host_takes_sectors))
		return;
	info->direct_io = 0;
	info->parallel_direct_writes = 0;
#endif
}

bool passthrough_forbids_mode(struct passthrough *self, mode_t mode)
{
	return makes_privileged(mode) && passthrough_in_use(self);
}

bool passthrough_forbids_attribute(struct passthrough *self, const char *name)
{
	return strcmp(name, CAPABILITY_ATTRIBUTE) == 0 && passthrough_in_use(self);
}
