/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/processes.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "mapdb/cleanup.h"

#define DAEMON_COMMAND "zcfs"
#define ARGUMENTS_MAX  65536

static void cleanup_directory(DIR **directory)
{
	if (*directory)
		closedir(*directory);
}

/* At most size - 1 bytes, and a zero byte after them; how many. */
static size_t read_file_of(unsigned int process, const char *name, char *buffer, size_t size)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%u/%s", process, name);
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t length = 0;

	while (fd >= 0 && length < size - 1) {
		ssize_t piece = read(fd, buffer + length, size - 1 - length);
		if (piece <= 0)
			break;
		length += (size_t)piece;
	}
	buffer[length] = '\0';
	return length;
}

/* Asks no server: one that hangs must not hang us. */
static bool is_open(unsigned int process, const struct identity *image)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%u/fd", process);
	__attribute__((cleanup(cleanup_directory))) DIR *files = opendir(path);
	struct dirent *entry;
	struct statx status;

	while (files && (entry = readdir(files))) {
		if (statx(dirfd(files), entry->d_name, AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &status) == 0 &&
		    S_ISREG(status.stx_mode) &&
		    identity_has(image, makedev(status.stx_dev_major, status.stx_dev_minor), status.stx_ino))
			return true;
	}
	return false;
}

void process_guest_name(const char *arguments, size_t length, char *name, size_t size)
{
	const char *end = arguments + length;
	bool named = false;

	name[0] = '\0';
	for (const char *at = arguments; at < end; at += strnlen(at, (size_t)(end - at)) + 1) {
		size_t left = strnlen(at, (size_t)(end - at));

		if (!named) {
			named = left == 5 && strncmp(at, "-name", 5) == 0;
			continue;
		}
		if (left >= 6 && strncmp(at, "guest=", 6) == 0) {
			at += 6;
			left -= 6;
		}
		const char *comma = memchr(at, ',', left);
		snprintf(name, size, "%.*s", (int)(comma ? comma - at : (ptrdiff_t)left), at);
		return;
	}
}

static void describe(unsigned int process, const char *command, struct image_user *user)
{
	cleanup_free char *arguments = malloc(ARGUMENTS_MAX);

	*user = (struct image_user){.kind = USER_PROCESS, .id = process};
	snprintf(user->name, sizeof user->name, "%s", command);
	if (arguments && strncmp(command, "qemu", 4) == 0)
		process_guest_name(arguments, read_file_of(process, "cmdline", arguments, ARGUMENTS_MAX), user->guest,
		                   sizeof user->guest);
}

bool process_find(const struct identity *image, struct image_user *user)
{
	__attribute__((cleanup(cleanup_directory))) DIR *processes = opendir("/proc");
	struct dirent *entry;

	while (processes && (entry = readdir(processes))) {
		unsigned int process;
		char command[32], rest;

		if (sscanf(entry->d_name, "%u%c", &process, &rest) != 1 || process == (unsigned int)getpid() ||
		    !is_open(process, image))
			continue;
		read_file_of(process, "comm", command, sizeof command);
		command[strcspn(command, "\n")] = '\0';
		if (strcmp(command, DAEMON_COMMAND) == 0) /* on behalf of somebody else */
			continue;
		describe(process, command, user);
		return true;
	}
	return false;
}
