/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map_answer: what zcfs-map says about an image, as text and as JSON. One thread.
 */
#ifndef ZCFS_MAP_ANSWER_H
#define ZCFS_MAP_ANSWER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "defrag/guest_pass.h"
#include "mapdb/image.h"
#include "tools/map_options.h"

struct map_answer {
	struct map_question question;
	bool mapped; /* by the map, and within the guest's disk or the data file */
	struct extent
	        extent; /* of the map; if not mapped: the unmapped bytes around the offset, length UINT64_MAX: no end */
	uint64_t guest_off, host_off; /* of the byte, if mapped */
	bool hole;                    /* in the data file, but the host has no block for it */
	struct owner_query owner;
};

/* Fills in everything but the owner. 0 or -ENOMEM. */
int map_answer_find(const struct image *image, struct map_answer *answers, size_t count);

/* How long the extents are; the classes are those of the view fragmentation in the database. */
struct map_length_class {
	const char *name;
	uint64_t below; /* bytes */
	uint64_t extents, bytes;
};
#define MAP_LENGTH_CLASSES 6
struct map_figures {
	struct map_length_class classes[MAP_LENGTH_CLASSES];
	uint64_t shortest, longest; /* bytes; 0 of an empty image */
	uint64_t allocated;         /* bytes that the data file takes on the host */
};
/* 0 or -errno. */
int map_figures(const struct image *image, struct map_figures *figures);

/* To standard output; what could not be written is its error. report: of the analysis that looked for the owners. */
void map_print_table(const struct image_map *map);
void map_print_summary(const struct image *image, const char *path, const struct map_figures *figures);
void map_print_answers(const struct map_answer *answers, size_t count, const struct pass_report *report);

/* One document to standard output: with the answers if something was asked, with the extents if not even a summary was.
 * 0 or -ENOMEM. */
int map_print_json(const struct image *image, const struct map_options *options, const struct map_figures *figures,
                   const struct map_answer *answers);

#endif
