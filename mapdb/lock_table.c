/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mapdb/lock_table.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

/* What the kernel hands out at once, some 70 lines. Between two reads a line may go, and then one is skipped. */
#define READ_MAX 4096
#define LOOKS    3

/* Whether the process has that inode open; who may not look takes it for granted. Asks no server: it may be us. */
static bool has_open(int pid, const struct stat *status)
{
	char path[32];
	struct dirent *entry;
	struct statx found;

	snprintf(path, sizeof path, "/proc/%d/fd", pid);
	DIR *files = opendir(path);
	bool open = !files;
	while (!open && (entry = readdir(files)))
		open = statx(dirfd(files), entry->d_name, AT_STATX_DONT_SYNC, STATX_INO, &found) == 0 &&
		       found.stx_ino == status->st_ino &&
		       makedev(found.stx_dev_major, found.stx_dev_minor) == status->st_dev;
	if (files)
		closedir(files);
	return open;
}

/* One line of /proc/locks: "3: LEASE  ACTIVE    WRITE 708 fe:00:1234 0 EOF". Those who only wait have "->" after the
 * number. On btrfs the device is the file system's and not the subvolume's that stat tells: an anonymous one in both
 * cases, of major number 0. A snapshot has the same inode numbers. */
static bool parse_line(const char *line, const struct stat *status, struct lock_holder *holder)
{
	char kind[16], state[16], access[16];
	unsigned int device_major, device_minor;
	unsigned long long inode;
	int pid;

	if (sscanf(line, "%*d: %15s %15s %15s %d %x:%x:%llu", kind, state, access, &pid, &device_major, &device_minor,
	           &inode) != 7)
		return false;
	/* Of a lease that is being broken the kernel tells what it will be then. */
	*holder = (struct lock_holder){
	        .pid = pid,
	        .lease = !strcmp(kind, "LEASE"),
	        .write = !strcmp(access, "WRITE") || !strcmp(state, "BREAKING"),
	};
	if (inode != status->st_ino || (!holder->lease && strcmp(kind, "FLOCK") != 0))
		return false;
	bool same_device = device_major == major(status->st_dev) && device_minor == minor(status->st_dev);
	bool anonymous = device_major == 0 && major(status->st_dev) == 0;
	return same_device || (anonymous && has_open(pid, status));
}

size_t lock_holders(const struct stat *status, struct lock_holder *out, size_t max)
{
	FILE *file = fopen("/proc/locks", "re");
	char buffer[READ_MAX], line[256];
	size_t count = 0;

	if (!file)
		return 0;
	setvbuf(file, buffer, _IOFBF, sizeof buffer);
	while (count < max && fgets(line, sizeof line, file)) {
		if (parse_line(line, status, &out[count]))
			count++;
	}
	fclose(file);
	return count;
}

bool lock_leased(const struct stat *status)
{
	struct lock_holder holders[16];

	for (int look = 0; look < LOOKS; look++) {
		size_t count = lock_holders(status, holders, sizeof holders / sizeof holders[0]);

		for (size_t i = 0; i < count; i++) {
			if (holders[i].lease && holders[i].write)
				return true;
		}
	}
	return false;
}
