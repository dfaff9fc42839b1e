/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the parts of check (check.c, check_db.c, check_map.c, check_data.c, check_repair.c) share.
 */
#ifndef ZCFS_CHECK_INTERNAL_H
#define ZCFS_CHECK_INTERNAL_H

#include "mapdb/check.h"
#include "mapdb/image_internal.h"
#include "mapdb/map_db_internal.h"

/* One look at one image. */
struct check {
	struct check_report *report;
	bool (*stop)(void);
	int parent_fd;
	const char *name;
	int bundle_fd;
	int data_fd;	       /* -1: cannot be looked at now */
	uint64_t data_size;    /* bytes; IMAGE_MAP_OFF_MAX if unknown */
	bool unused;	       /* nobody else has the image open */
	struct image_map *map; /* NULL: damaged or unknown */
	int error;	       /* -ENOMEM while a finding was added */
};

enum finding_weight { NOTE, FAULT, REPAIRABLE };

/* Adds a finding to the report. bytes: how many are concerned; 0: it is not about a number of bytes. */
#define check_add(check, kind, weight, ...) check_add_bytes(check, kind, weight, 0, __VA_ARGS__)
void check_add_bytes(struct check *check, enum finding_kind kind, enum finding_weight weight, uint64_t bytes,
		     const char *format, ...) __attribute__((format(printf, 5, 6)));

/* A hidden entry of check->name. */
void check_add_leftover(struct check *check, const char *entry);

bool check_stopped(const struct check *check);

/* Looks into the database; sets check->map. -errno only for what keeps it from looking. */
int check_database(struct check *check);

/* The rows of extent or undo_extent against size; with the map if there is nothing wrong with them. what: for the messages. */
int check_extents(struct check *check, struct map_db *db, const char *table, enum finding_kind kind, uint64_t size,
		  struct image_map **map);

/* Looks at the size of the data file and for space in it that check->map does not name. */
int check_data(struct check *check);

/* Calls visit for every range of the data file that takes up space though no extent names it, in whole blocks of the host's
 * file system, until one returns other than 0. */
typedef int (*leak_visit)(void *context, uint64_t host_off, uint64_t length);
int leaks_visit(int data_fd, struct image_map *map, leak_visit visit, void *context);

#endif
