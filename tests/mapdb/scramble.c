/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "scramble.h"

#include <stdlib.h>

#include "check.h"
#include "mapdb/cleanup.h"
#include "mapdb/image_internal.h"

void scramble(int dir_fd, uint64_t size, uint64_t unit, uint64_t shift)
{
	uint64_t count = (size - shift) / unit;
	cleanup_free struct map_move *moves = calloc(count, sizeof *moves);
	struct image_map *map;
	struct image *image;

	CHECK(moves);
	for (uint64_t i = 0; i < count; i++)
		moves[i] = (struct map_move){shift + i * unit, shift + i * unit, unit};
	for (uint64_t i = count; i > 1; i--) {
		uint64_t j = random_below(i), off = moves[j].old_off;

		moves[j].old_off = moves[i - 1].old_off;
		moves[i - 1].old_off = off;
	}
	if (count > 1 && moves[0].old_off == shift) { /* something moves, whatever chance says */
		moves[0].old_off = moves[1].old_off;
		moves[1].old_off = shift;
	}
	CHECK_IS(image_open(&io_posix, dir_fd, "a.img", IMAGE_EXCLUSIVE, 0, 2000, &image), 0);
	CHECK_IS(image_begin(image), 0);
	CHECK_IS(image_map_permute(image->map, moves, count, &map), 0);
	CHECK_IS(map_db_put_map(image->db, map), 0);
	CHECK_IS(image_commit(image), 0);
	image_map_unref(map);
	image_close(image);
}
