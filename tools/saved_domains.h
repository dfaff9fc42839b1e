/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * saved_domains: domains whose memory has been saved to a file, and whose disks must not change until it is restored:
 * it holds what the guest has cached of their metadata. What xl and libvirt save by themselves, when the host shuts
 * down, is in known places; where else a user has put such files only he can say. Changes nothing. One thread.
 */
#ifndef ZCFS_SAVED_DOMAINS_H
#define ZCFS_SAVED_DOMAINS_H

#include <limits.h>
#include <stdbool.h>

#include "mapdb/name_list.h"
#include "tools/identity.h"

struct saved_domain {
	char file[PATH_MAX]; /* where it is saved */
	char name[64];       /* "" if the file does not tell */
	bool by_name; /* it names a file that is not there now, and only the last part of its path is the image's */
};

/* Appends the places where xl, Debian's xendomains (as configured) and libvirt put what they save. 0 or -ENOMEM. */
int saved_places_add(struct name_list *directories);

/* A saved domain that has the image, whose name in its directory is image_name, for a disk. Save files that cannot be
 * read are passed over; see saved_domains_doubtful(). */
bool saved_domain_find(const struct name_list *directories, const struct identity *image, const char *image_name,
                       struct saved_domain *found);

/* Calls tell for every file in these directories that may hold a saved domain but cannot be read as one, and for every
 * directory that is there but cannot be read. */
void saved_domains_doubtful(const struct name_list *directories, void (*tell)(const char *path, const char *why));

#endif
