/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/mount_table.h"

#include <ctype.h>
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mapdb/cleanup.h"

#define DEAD_MAX 16 /* a stack of more than this many dead mounts is not ours */

struct mount_entry {
	unsigned int major, minor;
	char *path;
	char *type;
};

/* Mount points are written with \ooo for blanks, tabs, newlines and backslashes. */
static void decode_octal(char *text)
{
	char *to = text;

	for (const char *from = text; *from; to++) {
		if (from[0] == '\\' && isdigit((unsigned char)from[1]) && isdigit((unsigned char)from[2]) &&
		    isdigit((unsigned char)from[3])) {
			*to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

/* 36 35 98:0 /root /mount/point options optional... - type source options: see proc_pid_mountinfo(5). */
static bool parse_entry(char *line, struct mount_entry *entry)
{
	char *separator = strstr(line, " - "), *saved, *field;

	if (!separator)
		return false;
	*separator = '\0';
	entry->type = strtok_r(separator + 3, " ", &saved);
	field = strtok_r(line, " ", &saved); /* mount ID */
	for (int i = 1; field && i < 5; i++) {
		field = strtok_r(NULL, " ", &saved);
		if (i == 2 && (!field || sscanf(field, "%u:%u", &entry->major, &entry->minor) != 2))
			return false;
	}
	if (!field || !entry->type)
		return false;
	entry->path = field;
	decode_octal(entry->path);
	return true;
}

/* Calls visit for each mount in the order of mounting. */
static void each_mount(void (*visit)(const struct mount_entry *entry, void *argument), void *argument)
{
	FILE *table = fopen("/proc/self/mountinfo", "re");
	cleanup_free char *line = NULL;
	struct mount_entry entry;
	size_t size = 0;

	if (!table)
		return;
	while (getline(&line, &size, table) > 0)
		if (parse_entry(line, &entry))
			visit(&entry, argument);
	fclose(table);
}

static bool zcfs_type(const char *type)
{
	return strcmp(type, "fuse.zcfs") == 0;
}

struct question {
	const char *path;
	dev_t dev;
	bool answer;
};

static void top_is_zcfs(const struct mount_entry *entry, void *argument)
{
	struct question *question = argument;

	if (strcmp(entry->path, question->path) == 0)
		question->answer = zcfs_type(entry->type); /* the last one is on top */
}

/* True if the mount that is on top at this absolute path is one of zcfs. */
static bool is_zcfs(const char *path)
{
	struct question question = {.path = path};

	each_mount(top_is_zcfs, &question);
	return question.answer;
}

static void device_is_zcfs(const struct mount_entry *entry, void *argument)
{
	struct question *question = argument;

	if (makedev(entry->major, entry->minor) == question->dev && zcfs_type(entry->type))
		question->answer = true;
}

bool mount_table_inside_zcfs(int fd)
{
	struct question question = {0};
	struct stat status;

	if (fstat(fd, &status) < 0)
		return false;
	question.dev = status.st_dev;
	each_mount(device_is_zcfs, &question);
	return question.answer;
}

/* What a mount without a daemon answers; the latter two only while it is dying, the last one by way of its rings. */
static bool says_dead(int error)
{
	return error == ENOTCONN || error == ECONNABORTED || error == ECANCELED;
}

char *mount_table_absolute(const char *path)
{
	char *resolved = realpath(path, NULL);
	cleanup_free char *copy = NULL, *directory = NULL;
	char *slash, *joined;

	if (resolved || !says_dead(errno))
		return resolved;
	copy = strdup(path);
	if (!copy)
		return NULL;
	while ((slash = strrchr(copy, '/')) && slash[1] == '\0' && slash != copy)
		*slash = '\0';
	slash = strrchr(copy, '/');
	if (slash)
		*slash = '\0';
	directory = realpath(slash == copy ? "/" : slash ? copy : ".", NULL);
	if (!directory)
		return NULL;
	if (asprintf(&joined, "%s/%s", strcmp(directory, "/") == 0 ? "" : directory, slash ? slash + 1 : copy) < 0)
		return NULL;
	return joined;
}

/* Only the setuid helper may unmount for an ordinary user. */
static int unmount_as_user(const char *path)
{
	char *arguments[] = {"fusermount3", "-u", "-z", "--", (char *)(uintptr_t)path, NULL};
	pid_t child;
	int status;

	status = posix_spawnp(&child, arguments[0], NULL, NULL, arguments, environ);
	if (status != 0)
		return -status;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EPERM;
}

int mount_table_unmount(const char *path)
{
	if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
		return 0;
	return errno == EPERM ? unmount_as_user(path) : -errno;
}

int mount_table_clear_dead(const char *path)
{
	struct statfs status;

	for (int i = 0; i < DEAD_MAX; i++) {
		int ret;

		/* Not stat(): the kernel may still have the answer of the living. */
		if (statfs(path, &status) == 0 || !says_dead(errno))
			return 0;
		if (!is_zcfs(path))
			return -ENOTCONN;
		ret = mount_table_unmount(path);
		if (ret < 0)
			return ret;
	}
	return -ENOTCONN;
}
