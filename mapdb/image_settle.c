/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mapdb/image_settle.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "mapdb/image_internal.h"

struct image_settle {
	struct image *image;
	struct settle *settle;
	bool (*stop)(void *context);
	void *stop_context;
	bool keep_undo; /* it is valid, and nothing that a step writes is part of it */
};

/* Nobody writes, so there is nothing to mirror, to order or to wait for. */
static int no_mirror(void *context, const struct extent *windows, size_t count)
{
	return 0;
}

static void no_unmirror(void *context)
{
}

static void no_copy_begin(void *context, uint64_t guest_off, uint64_t length, bool exclusive)
{
}

static int no_copy_end(void *context)
{
	return 0;
}

static bool not_busy(void *context)
{
	return false;
}

static bool asked_to_stop(void *context)
{
	const struct image_settle *settle = context;

	return image_wanted(settle->image) || settle->stop(settle->stop_context);
}

static int commit(void *context, const struct image_map *old, const struct image_map *map, const struct run_record *run,
                  struct settle_record *record)
{
	struct image_settle *settle = context;
	struct image *image = settle->image;

	if (!image_still_ours(image))
		return -EBUSY;
	int rc = map_db_settle(&image->db, old, map, run, record);
	if (rc == -EINPROGRESS) /* until it is opened again nobody knows which map counts */
		image->read_only = true;
	if (rc == 0 && old != map)
		image->state.generation++;
	if (rc == 0)
		image->state.undo_recorded = image->state.undo_recorded && old == map;
	if (rc == 0 || rc == -EINPROGRESS)
		settle->keep_undo = false;
	return rc;
}

static void replace(void *context, struct image_map *map)
{
	struct image *image = ((struct image_settle *)context)->image;

	image_map_unref(image->map);
	image->map = image_map_ref(map);
}

/* Whether the map names all host bytes that the other one does. */
static int names_all(struct image_map *map, const struct image_map *other, bool *all)
{
	struct host_index *index;
	int rc = host_index_new(map, &index);

	*all = rc == 0;
	for (size_t i = 0; *all && i < image_map_count(other); i++) {
		struct extent extent = image_map_get(other, i), found;

		for (uint64_t done = 0; *all && done < extent.length; done += found.length)
			*all = host_index_lookup(index, extent.host_off + done, &found);
	}
	if (rc == 0)
		host_index_free(index);
	return rc;
}

/* A step writes only to what the current map does not name, but the undo's may. */
static int find_undo(struct image_settle *settle)
{
	struct image *image = settle->image;
	struct image_map *map;
	int rc = image_read_undo_map(image, &map);

	if (rc < 0 || !map)
		return rc;
	rc = names_all(image->map, map, &settle->keep_undo);
	image_map_unref(map);
	return rc;
}

/* A step that has come to nothing has changed the data file all the same, by whose size and ctime the undo is valid. If
 * that cannot be put right, the undo is lost, no more. */
static void restore_undo(struct image_settle *settle)
{
	struct image *image = settle->image;

	if (image->db && image_still_ours(image) && image->io->fsync(image->io, image->data_fd) == 0)
		(void)map_db_stamp_undo(image->db, image->data_fd);
}

int image_settle_new(struct image *image, const struct settle_options *options, bool (*stop)(void *context),
                     void *context, struct image_settle **out)
{
	struct image_settle *settle = calloc(1, sizeof *settle);

	assert(image->access == IMAGE_EXCLUSIVE && image->bundle_fd >= 0);
	if (!settle)
		return -ENOMEM;
	*settle = (struct image_settle){.image = image, .stop = stop, .stop_context = context};
	const struct settle_hooks hooks = {
	        .context = settle,
	        .mirror = no_mirror,
	        .unmirror = no_unmirror,
	        .copy_begin = no_copy_begin,
	        .copy_end = no_copy_end,
	        .commit = commit,
	        .replace = replace,
	        .stop = asked_to_stop,
	        .busy = not_busy,
	};
	int rc = find_undo(settle);
	if (rc == 0)
		rc = settle_new(image->io, image->data_fd, image->db, &hooks, options, &settle->settle);
	if (rc < 0) {
		free(settle);
		return rc;
	}
	*out = settle;
	return 0;
}

void image_settle_free(struct image_settle *settle)
{
	if (!settle)
		return;
	settle_free(settle->settle);
	free(settle);
}

int image_settle_step(struct image_settle *settle, const struct settle_limits *limits, struct settle_progress *progress)
{
	struct image *image = settle->image;

	if (image->read_only)
		return -EROFS;
	image_keep(image);
	int rc = settle_step(settle->settle, image->map, limits, progress);
	if (settle->keep_undo && !(rc == 0 && progress->finished))
		restore_undo(settle);
	return rc;
}
