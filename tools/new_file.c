/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "mapdb/cleanup.h"

static int check_replaceable(int directory_fd, const char *name)
{
	struct stat status;
	if (fstatat(directory_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	return S_ISREG(status.st_mode) ? 0 : -EEXIST;
}

/* Splits the path. */
static int open_directory(const char *path, struct new_file *file)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	cleanup_free char *directory = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	file->name = strdup(name);
	if (!directory || !file->name)
		return -ENOMEM;
	if (!*name)
		return -EISDIR;
	file->directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return file->directory_fd < 0 ? -errno : check_replaceable(file->directory_fd, name);
}

static int open_temporary(struct new_file *file)
{
	for (int attempt = 0; attempt < 100; attempt++) {
		uint32_t number;
		if (getrandom(&number, sizeof(number), 0) != sizeof(number))
			return -EIO;
		free(file->temporary);
		if (asprintf(&file->temporary, ".%s.%06x", file->name, number & 0xffffff) < 0) {
			file->temporary = NULL;
			return -ENOMEM;
		}
		cleanup_fd int fd = openat(file->directory_fd, file->temporary,
		                           O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
		if (fd < 0 && errno == EEXIST)
			continue;
		file->file = fd < 0 ? NULL : fdopen(fd, "w");
		if (file->file)
			steal_fd(&fd);
		return file->file ? 0 : -errno;
	}
	return -EEXIST;
}

int new_file_open(const char *path, struct new_file *file)
{
	*file = (struct new_file){.directory_fd = -1};
	int error = open_directory(path, file);
	if (!error)
		error = open_temporary(file);
	if (error)
		new_file_drop(file);
	return error;
}

static int write_out(struct new_file *file)
{
	int error = ferror(file->file) ? -EIO : fflush(file->file) || fsync(fileno(file->file)) ? -errno : 0;
	if (fclose(file->file) && !error)
		error = -errno;
	file->file = NULL;
	if (!error)
		error = check_replaceable(file->directory_fd, file->name);
	if (!error && renameat(file->directory_fd, file->temporary, file->directory_fd, file->name) < 0)
		error = -errno;
	if (error)
		unlinkat(file->directory_fd, file->temporary, 0);
	else
		fsync(file->directory_fd);
	return error;
}

int new_file_commit(struct new_file *file)
{
	int error = write_out(file);
	new_file_drop(file);
	return error;
}

void new_file_drop(struct new_file *file)
{
	if (file->file) {
		fclose(file->file);
		unlinkat(file->directory_fd, file->temporary, 0);
	}
	if (file->name && file->directory_fd >= 0)
		close(file->directory_fd);
	free(file->name);
	free(file->temporary);
	*file = (struct new_file){0};
}
