/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: the blobs of changes_diff, applied to the data file, turn what the guest saw into what it shall see, and
 * change no other byte; through an overlay it is seen beforehand. However scattered the map and the stream are.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "defrag/changes.h"
#include "tests/mapdb/check.h"

#define ROUNDS       60
#define UNITS        3000u /* of the image */
#define IMAGE_SIZE   (UNITS * IMAGE_MAP_UNIT)
#define HOST_SIZE    (2 * IMAGE_SIZE)
#define VOLUME_OFF   (63 * IMAGE_MAP_UNIT)
#define CLUSTERS_MAX 2600u

static uint8_t host[HOST_SIZE], expected[HOST_SIZE], got[HOST_SIZE];
static uint8_t before[IMAGE_SIZE], after[IMAGE_SIZE], seen[IMAGE_SIZE];
static uint32_t host_unit[UNITS]; /* of each unit of the image */

static struct image_map *make_map(void)
{
	static uint32_t places[2 * UNITS];
	struct extent extents[UNITS];
	unsigned int longest = 1 + (unsigned int)random_below(random_below(2) ? 3 : 200);
	for (uint32_t i = 0; i < 2 * UNITS; i++)
		places[i] = i;
	for (uint32_t i = 2 * UNITS; i > 1; i--) {
		uint32_t k = (uint32_t)random_below(i), swap = places[i - 1];
		places[i - 1] = places[k];
		places[k] = swap;
	}
	/* Stretches of the image at places of the host that follow one another, and single units anywhere else. */
	for (uint32_t i = 0; i < UNITS; i++)
		host_unit[i] = longest > 100 ? UNITS - 1 - i / longest * longest + i % longest : places[i];
	for (uint32_t i = 0; i < UNITS; i++)
		extents[i] = (struct extent){.guest_off = (uint64_t)i * IMAGE_MAP_UNIT,
		                             .length = IMAGE_MAP_UNIT,
		                             .host_off = (uint64_t)host_unit[i] * IMAGE_MAP_UNIT};
	struct image_map *map;
	CHECK_IS(image_map_new(extents, UNITS, IMAGE_SIZE, &map), 0);
	return map;
}

static size_t host_place(uint64_t guest_off)
{
	return (size_t)host_unit[guest_off / IMAGE_MAP_UNIT] * IMAGE_MAP_UNIT + guest_off % IMAGE_MAP_UNIT;
}

/* A stream of clusters in random order and in runs of random length. */
static void make_runs(struct run_list *runs, uint32_t cluster_size)
{
	uint64_t clusters = (IMAGE_SIZE - VOLUME_OFF) / cluster_size,
	         most = clusters < CLUSTERS_MAX ? clusters : CLUSTERS_MAX;
	bool used[CLUSTERS_MAX] = {0};
	for (unsigned int tries = 0; tries < 200; tries++) {
		uint64_t lcn = random_below(most), length = 1 + random_below(random_below(3) ? 4 : 60), free = 0;
		while (free < length && lcn + free < most && !used[lcn + free])
			used[lcn + free++] = true;
		if (free)
			CHECK_IS(run_list_push_merged(runs, 0, lcn, free), 0);
	}
}

/* Some edits: single bytes, stretches, equal bytes, and bytes that are written but not changed. */
static void edit(uint8_t *bytes, size_t size)
{
	for (unsigned int i = (unsigned int)random_below(200); i; i--) {
		size_t at = random_below(size), length = 1 + random_below(random_below(3) ? 3 : 5000);
		if (length > size - at)
			length = size - at;
		switch (random_below(3)) {
		case 0:
			random_bytes(bytes + at, length);
			break;
		case 1:
			memset(bytes + at, (int)random_below(3), length);
			break;
		default:
			bytes[at] ^= 1;
		}
	}
}

static void apply(const struct changes *changes, int fd)
{
	CHECK_IS(pwrite(fd, host, HOST_SIZE, 0), HOST_SIZE);
	for (size_t i = 0; i < changes->count; i++) {
		CHECK(changes->blobs[i].size <= REDO_BLOB_SIZE_MAX);
		CHECK_IS(redo_apply_blob(&io_posix, fd, HOST_SIZE, changes->blobs[i].data, changes->blobs[i].size), 0);
	}
	CHECK_IS(pread(fd, got, HOST_SIZE, 0), HOST_SIZE);
	CHECK(!memcmp(got, expected, HOST_SIZE));
	CHECK_IS(pwrite(fd, host, HOST_SIZE, 0), HOST_SIZE);
}

static void look_through_overlay(const struct changes *changes, struct view view, const struct run_index *index,
                                 uint32_t cluster_size, size_t size)
{
	struct redo_overlay *overlay;
	CHECK_IS(redo_overlay_new(&overlay), 0);
	for (size_t i = 0; i < changes->count; i++)
		CHECK_IS(redo_overlay_add(overlay, changes->blobs[i].data, changes->blobs[i].size), 0);
	CHECK_IS(redo_overlay_seal(overlay), 0);
	view.changes = overlay;
	CHECK_IS(view_read_runs(&view, index, cluster_size, seen, size, 0), 0);
	CHECK(!memcmp(seen, after, size));
	redo_overlay_free(overlay);
}

/* In pieces of any size, as records and parts of bitmaps are. */
static void diff_in_pieces(struct changes *changes, const struct view *view, const struct run_index *index,
                           uint32_t cluster_size, size_t size)
{
	size_t piece = 1 + random_below(random_below(2) ? 1024 : size);
	for (size_t off = 0; off < size; off += piece) {
		size_t here = size - off < piece ? size - off : piece;
		CHECK_IS(changes_diff(changes, view, index, cluster_size, off, before + off, after + off, here), 0);
	}
	CHECK_IS(changes_finish(changes), 0);
}

static void check_round(int fd)
{
	static struct changes changes;
	struct image_map *map = make_map();
	struct run_list runs = {0};
	struct run_index index;
	uint32_t cluster_size = 512u << random_below(4);
	struct view view = {
	        .io = &io_posix, .data_fd = fd, .map = map, .off = VOLUME_OFF, .length = IMAGE_SIZE - VOLUME_OFF};
	random_bytes(host, HOST_SIZE);
	memset(host + random_below(HOST_SIZE / 2), 0, HOST_SIZE / 4); /* something to be changed to itself */
	CHECK_IS(pwrite(fd, host, HOST_SIZE, 0), HOST_SIZE);
	make_runs(&runs, cluster_size);
	CHECK_IS(run_index_build(&index, runs.runs, runs.count), 0);
	size_t size = (size_t)run_index_clusters(&index) * cluster_size;
	size -= random_below(2) ? random_below(cluster_size) : 0;
	CHECK_IS(view_read_runs(&view, &index, cluster_size, before, size, 0), 0);
	memcpy(after, before, size);
	edit(after, size);
	memcpy(expected, host, HOST_SIZE);
	for (size_t i = 0; i < size; i++) {
		struct run run = run_index_lookup(&index, i / cluster_size);
		expected[host_place(VOLUME_OFF + run.lcn * cluster_size + i % cluster_size)] = after[i];
	}
	memset(&changes, 0, sizeof(changes));
	diff_in_pieces(&changes, &view, &index, cluster_size, size);
	apply(&changes, fd);
	look_through_overlay(&changes, view, &index, cluster_size, size);
	changes_free(&changes);
	run_index_free(&index);
	run_list_free(&runs);
	image_map_unref(map);
}

int main(void)
{
	int fd = memfd_create("data", MFD_CLOEXEC);
	CHECK(fd >= 0);
	random_start();
	for (unsigned int round = 0; round < ROUNDS; round++) {
		check_context("round %u", round);
		check_round(fd);
	}
	close(fd);
	return 0;
}
