/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "fs/log.h"
#include "fs/mount_table.h"
#include "mapdb/image.h"

/* How long to wait for another daemon to let go of the store: 3 s. */
#define LOCK_PAUSE_MS 20
#define LOCK_ATTEMPTS 150

/* How deep to look for what crashes have left. A level costs a descriptor and some stack, and whoever may write
 * anywhere in the store can make any number of them. */
#define CLEAN_DEPTH_MAX 128

struct store store = {.io = &io_posix, .dir_fd = -1};

/* A daemon whose mount has just been removed may need a moment to end. -1 with errno, as flock(). */
static int take_lock(int fd)
{
	for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
		if (errno != EWOULDBLOCK || i == LOCK_ATTEMPTS)
			return -1;
		nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_MS * 1000000L}, NULL);
	}
	return 0;
}

bool store_open(const char *path)
{
	struct stat status;

	store.dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store.dir_fd < 0 || fstat(store.dir_fd, &status) < 0) {
		fprintf(stderr, "zcfs: %s: cannot be opened: %s%s\n", path, strerror(errno),
		        errno == EACCES ? "; run as root, or as its owner" : "");
		return false;
	}
	store.dev = status.st_dev;
	/* Of what has been opened: a daemon that starts at the same time may mount over the path at any moment. */
	if (mount_table_inside_zcfs(store.dir_fd)) {
		fprintf(stderr, "zcfs: %s: is already served by zcfs; unmount it first\n", path);
		return false;
	}
	if (take_lock(store.dir_fd) == 0)
		return true;
	if (errno == EWOULDBLOCK)
		fprintf(stderr,
		        "zcfs: %s: another zcfs serves this directory already; use its mount, or unmount that first\n",
		        path);
	else
		fprintf(stderr, "zcfs: %s: cannot be locked: %s\n", path, strerror(errno));
	return false;
}

struct cleaning {
	unsigned int depth;
	bool too_deep;
};

/* Removes what crashes have left, in this directory and those below. Nobody uses the store yet. Takes dir_fd. */
static void clean_below(int dir_fd, struct cleaning *cleaning)
{
	DIR *dir = fdopendir(dir_fd);
	unsigned int removed = 0, left = 0;
	struct dirent *entry;

	if (!dir) {
		close(dir_fd);
		return;
	}
	if (image_clean_stale(store.io, dir_fd, &removed, &left) == 0 && removed + left > 0)
		log_message(LOG_NOTICE, "left over from an interrupted change: removed %u, left alone %u", removed,
		            left);
	rewinddir(dir);
	while ((entry = readdir(dir))) {
		struct stat status;
		int fd;

		if ((entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN) || strcmp(entry->d_name, ".") == 0 ||
		    strcmp(entry->d_name, "..") == 0 || image_name_reserved(entry->d_name))
			continue;
		fd = store.io->open(store.io, dir_fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
		if (fd < 0)
			continue;
		if (fstat(fd, &status) < 0 || status.st_dev != store.dev || faccessat(fd, MAP_DB_NAME, F_OK, 0) == 0) {
			close(fd);
		} else if (cleaning->depth == CLEAN_DEPTH_MAX) {
			cleaning->too_deep = true;
			close(fd);
		} else {
			cleaning->depth++;
			clean_below(fd, cleaning);
			cleaning->depth--;
		}
	}
	closedir(dir);
}

void store_clean(void)
{
	struct cleaning cleaning = {0};

	if (store.read_only)
		return;
	/* A descriptor with a position of its own. */
	int fd = store.io->open(store.io, store.dir_fd, ".", O_RDONLY | O_DIRECTORY, 0);
	if (fd >= 0)
		clean_below(fd, &cleaning);
	if (cleaning.too_deep)
		log_message(LOG_NOTICE,
		            "directories more than %d deep were not searched for what interrupted changes have left",
		            CLEAN_DEPTH_MAX);
}
