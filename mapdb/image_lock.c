/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Lock and lease of an image's data file.
 *
 * flock() keeps out those who ask: the daemon and the tools. The lease sees everybody: the kernel grants it only while
 * the file is open nowhere else, and makes who opens it wait until we give it back, or for lease-break-time (45 s). It
 * tells us so by a signal, SIGIO by default, whose default action is to kill; here it is SIGURG, whose default action
 * is nothing. We look with F_GETLEASE instead.
 *
 * What has begun to break cannot be mended, not even if the opener gives up at once (O_NONBLOCK), and may cost us hours
 * of work. That is right for a guest, who comes through the daemon. Everybody else looks into /proc/locks first.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <time.h>

#include "mapdb/cleanup.h"
#include "mapdb/image_internal.h"
#include "mapdb/lock_table.h"

#define POLL_MS         10u
#define LEASE_MARGIN_MS 15000 /* for what comes after the last look at the lease: commit, exchange, redo */

int pause_ms(unsigned int ms)
{
	struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	return nanosleep(&pause, NULL) < 0 ? -errno : 0;
}

/* fd, or -errno instead. */
static int open_regular(const struct io *io, int dir_fd, const char *name, int flags)
{
	cleanup_fd int fd = io->open(io, dir_fd, name, flags, 0);
	struct stat status;

	if (fd >= 0 && fstat(fd, &status) < 0)
		return -errno;
	return fd >= 0 && !S_ISREG(status.st_mode) ? -EUCLEAN : steal_fd(&fd);
}

static int open_breaking_lease(const struct io *io, int dir_fd, const char *name, int flags)
{
	cleanup_fd int fd = open_regular(io, dir_fd, name, flags | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return steal_fd(&fd);
	/* io_uring would refuse to wait for such a descriptor's I/O. */
	int file_flags = fcntl(fd, F_GETFL);
	if (file_flags < 0 || fcntl(fd, F_SETFL, file_flags & ~O_NONBLOCK) < 0)
		return -errno;
	return steal_fd(&fd);
}

int data_open(const struct io *io, int dir_fd, const char *name, int flags)
{
	struct stat status;

	if (name_stat(dir_fd, name, &status) == 0 && lock_leased(&status))
		return -EAGAIN;
	return open_breaking_lease(io, dir_fd, name, flags);
}

int data_open_path(const struct io *io, int dir_fd, const char *name)
{
	return open_regular(io, dir_fd, name, O_PATH);
}

int data_open_wait(struct image *image, int dir_fd, const char *name, int flags, bool wait)
{
	bool for_guest = image->access == IMAGE_SHARED;

	for (;;) {
		int fd = for_guest ? open_breaking_lease(image->io, dir_fd, name, flags)
		                   : data_open(image->io, dir_fd, name, flags);

		if (fd != -EAGAIN)
			return fd;
		if (!wait)
			return image->access == IMAGE_UNLOCKED ? -EAGAIN : -EBUSY;
		image->waited = true;
		int rc = pause_ms(POLL_MS);
		if (rc < 0)
			return rc;
	}
}

int data_lock(int data_fd, int operation, bool wait, bool *waited)
{
	if (flock(data_fd, operation | LOCK_NB) == 0)
		return 0;
	if (errno != EWOULDBLOCK)
		return -errno;
	if (!wait)
		return -EBUSY;
	*waited = true;
	return flock(data_fd, operation) < 0 ? -errno : 0;
}

static int64_t monotonic_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* For how long the kernel makes an opener wait. 0: not known. */
static int64_t lease_break_ms(void)
{
	char text[16] = {0};
	cleanup_fd int fd = open("/proc/sys/fs/lease-break-time", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, text, sizeof text - 1) <= 0)
		return 0;
	return strtol(text, NULL, 10) * INT64_C(1000);
}

static int take_lease(struct image *image)
{
	/* The earliest moment at which an opener can begin to wait. */
	int64_t start_ms = monotonic_ms();

	if (fcntl(image->data_fd, F_SETLEASE, F_WRLCK) < 0)
		return -errno;
	image->leased = true;
	image->lease_safe_until_ms = start_ms + lease_break_ms() - LEASE_MARGIN_MS;
	return 0;
}

int data_lease(struct image *image, unsigned int patience_ms)
{
	if (fcntl(image->data_fd, F_SETSIG, SIGURG) < 0)
		return -errno;
	for (unsigned int spent_ms = 0;; spent_ms += POLL_MS) {
		int rc = take_lease(image);

		/* EINVAL, ENOLCK, EOPNOTSUPP: no leases on this file system; EACCES: not for us, the owner is another.
		 */
		if (rc != -EAGAIN && rc != -EBUSY)
			return 0;
		if (spent_ms >= patience_ms)
			return -EBUSY;
		rc = pause_ms(POLL_MS);
		if (rc < 0)
			return rc;
	}
}

bool image_wanted(const struct image *image)
{
	return image->leased && fcntl(image->data_fd, F_GETLEASE) != F_WRLCK;
}

void image_keep(struct image *image)
{
	int64_t now_ms = monotonic_ms();

	if (image->leased && !image_wanted(image))
		image->lease_safe_until_ms = now_ms + lease_break_ms() - LEASE_MARGIN_MS;
}

bool image_still_ours(const struct image *image)
{
	return !image_wanted(image) || monotonic_ms() < image->lease_safe_until_ms;
}
