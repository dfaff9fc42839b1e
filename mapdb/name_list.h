/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * name_list: names of a directory, read before anything is done with them. One thread at a time.
 */
#ifndef ZCFS_NAME_LIST_H
#define ZCFS_NAME_LIST_H

#include <stddef.h>

struct name_list {
	size_t count;
	char **names;
};

/* Appends a copy. 0 or -ENOMEM; the list is good either way. */
int name_list_add(struct name_list *list, const char *name);
void name_list_release(struct name_list *list);

#define cleanup_name_list __attribute__((cleanup(name_list_release)))

#endif
