/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/fuzz/memory_image.h"

#include <string.h>

#include "tests/mapdb/check.h"

static const struct memory_image *used;

void memory_image_use(const struct memory_image *image)
{
	used = image;
}

static void read_sparse(struct input patches, uint8_t *to, size_t length, uint64_t off)
{
	struct patch patch;
	memset(to, 0, length);
	while (patch_next(&patches, &patch)) {
		uint64_t first = patch.off > off ? patch.off : off;
		uint64_t end = patch.off + (uint64_t)patch.length;
		if (end > off + length)
			end = off + length;
		if (first < end)
			memcpy(to + (first - off), patch.bytes + (first - patch.off), end - first);
	}
}

static ssize_t memory_pread(const struct io *io, int fd, void *buffer, size_t length, uint64_t off)
{
	(void)io, (void)fd;
	if (off >= used->size)
		return 0;
	if (length > used->size - off)
		length = used->size - off;
	if (used->bytes)
		memcpy(buffer, used->bytes + off, length);
	else
		read_sparse(used->sparse, buffer, length, off);
	return (ssize_t)length;
}

const struct io memory_io = {.pread = memory_pread};

struct view memory_image_view(const struct memory_image *image, struct image_map **map)
{
	memory_image_use(image);
	CHECK_IS(image_map_identity(image->size, map), 0);
	return (struct view){.io = &memory_io, .data_fd = -1, .map = *map, .length = image->size};
}
