/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/directory.h"

#include <stdlib.h>
#include <string.h>

#include "mapdb/image.h"

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_visible(void *list, const char *entry)
{
	if (!strcmp(entry, ".") || !strcmp(entry, "..") || image_name_reserved(entry))
		return 0;
	return name_list_add(list, entry);
}

int directory_names(int directory_fd, struct name_list *list)
{
	int error = io_look_entries(directory_fd, add_visible, list);

	if (list->count > 1)
		qsort(list->names, list->count, sizeof *list->names, compare_names);
	return error;
}
