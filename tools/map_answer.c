/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/map_answer.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_hole(int data_fd, uint64_t host_off)
{
	off_t next = lseek(data_fd, (off_t)host_off, SEEK_HOLE);

	return next >= 0 && (uint64_t)next == host_off;
}

static void find_by_guest(const struct image *image, struct map_answer *answer)
{
	uint64_t size = image_map_size(image->map);

	answer->guest_off = answer->question.off;
	answer->mapped = answer->guest_off < size;
	if (!answer->mapped) {
		answer->extent = (struct extent){.guest_off = size, .length = UINT64_MAX};
		return;
	}
	answer->extent = image_map_get(image->map, image_map_find(image->map, answer->guest_off));
	answer->host_off = answer->extent.host_off + (answer->guest_off - answer->extent.guest_off);
}

static void find_by_host(const struct image *image, const struct host_index *index, struct map_answer *answer)
{
	uint64_t start, end;

	answer->host_off = answer->question.off;
	answer->mapped = !host_index_unmapped(index, answer->host_off, &start, &end);
	if (!answer->mapped) {
		answer->extent = (struct extent){.host_off = start, .length = end == UINT64_MAX ? end : end - start};
		return;
	}
	host_index_lookup(index, answer->host_off, &answer->extent);
	answer->guest_off = answer->extent.guest_off;
	answer->extent = image_map_get(image->map, image_map_find(image->map, answer->guest_off));
}

int map_answer_find(const struct image *image, struct map_answer *answers, size_t count)
{
	struct host_index *index = NULL;

	for (size_t i = 0; i < count; i++) {
		if (!answers[i].question.host)
			find_by_guest(image, &answers[i]);
		else if (index || host_index_new(image->map, &index) == 0)
			find_by_host(image, index, &answers[i]);
		else
			return -ENOMEM;
		answers[i].hole =
		        (answers[i].mapped || answers[i].question.host) && is_hole(image->data_fd, answers[i].host_off);
		answers[i].owner.guest_off = answers[i].guest_off;
	}
	host_index_free(index);
	return 0;
}

static const struct map_figures no_figures = {
        .classes =
                {
                        {.name = "below 4 KiB", .below = 4096},
                        {.name = "4 KiB to 64 KiB", .below = 65536},
                        {.name = "64 KiB to 1 MiB", .below = 1 << 20},
                        {.name = "1 MiB to 16 MiB", .below = 16 << 20},
                        {.name = "16 MiB to 256 MiB", .below = 256 << 20},
                        {.name = "256 MiB and more", .below = UINT64_MAX},
                },
};

int map_figures(const struct image *image, struct map_figures *figures)
{
	struct stat status;

	*figures = no_figures;
	for (size_t i = 0; i < image_map_count(image->map); i++) {
		struct map_length_class *class = figures->classes;
		uint64_t length = image_map_get(image->map, i).length;

		while (length >= class->below)
			class ++;
		class->extents++;
		class->bytes += length;
		if (!figures->shortest || length < figures->shortest)
			figures->shortest = length;
		if (length > figures->longest)
			figures->longest = length;
	}
	if (fstat(image->data_fd, &status) < 0)
		return -errno;
	figures->allocated = (uint64_t)status.st_blocks * 512;
	return 0;
}
