/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mapdb/image.h"

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int directory_names(int directory_fd, struct name_list *list)
{
	int fd = io_look.open(&io_look, directory_fd, ".", O_RDONLY | O_DIRECTORY, 0);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	int error = 0;

	if (fd < 0)
		return fd;
	if (!directory) {
		close(fd);
		return -ENOMEM;
	}
	while (!error && (entry = readdir(directory))) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
		    !image_name_reserved(entry->d_name))
			error = name_list_add(list, entry->d_name);
	}
	closedir(directory);
	if (list->count > 1)
		qsort(list->names, list->count, sizeof *list->names, compare_names);
	return error;
}
