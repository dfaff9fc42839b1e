/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Who waits takes the lock only to give it back: the attempt that follows takes it together with the lease, by the
 * image's name, which may mean another file by then. For that, and for a signal that came just before the sleep, it
 * wakes once a second.
 */
#include "tools/lock_wait.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "mapdb/cleanup.h"
#include "mapdb/image.h"
#include "mapdb/lock_table.h"

static void wake(int number)
{
}

static int open_data(const struct location *location)
{
	enum name_kind kind;
	struct stat status;
	cleanup_free char *path = NULL;

	if (image_classify(&io_look, location->parent_fd, location->name, &kind, &status) < 0 || kind == NAME_OTHER ||
	    lock_leased(&status) ||
	    asprintf(&path, "%s%s", location->name, kind == NAME_BUNDLE ? "/" BUNDLE_DATA_NAME : "") < 0)
		return -1;
	return openat(location->parent_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
}

bool lock_wait(const struct location *location, double seconds)
{
	cleanup_fd int fd = open_data(location);
	struct itimerval limit = {.it_value = {.tv_sec = 1}, .it_interval = {.tv_sec = 1}}, off = {0};
	struct sigaction action = {.sa_handler = wake}, before;

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0)
		return false;
	if (seconds > 0 && seconds < 1)
		limit.it_value = (struct timeval){.tv_usec = (suseconds_t)(seconds * 1e6) + 1};
	if (limit.it_value.tv_usec > 999999)
		limit.it_value.tv_usec = 999999;
	sigaction(SIGALRM, &action, &before); /* no SA_RESTART: ends the sleep */
	setitimer(ITIMER_REAL, &limit, NULL);
	flock(fd, LOCK_EX);
	setitimer(ITIMER_REAL, &off, NULL);
	sigaction(SIGALRM, &before, NULL);
	return true;
}
