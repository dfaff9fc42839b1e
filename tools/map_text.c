/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What zcfs-map says to people.
 */
#include <inttypes.h>
#include <stdio.h>

#include "tools/map_answer.h"
#include "tools/text.h"

void map_print_table(const struct image_map *map)
{
	printf("%20s %20s %20s\n", "guest offset", "length", "host offset");
	for (size_t i = 0; i < image_map_count(map) && !ferror(stdout); i++) {
		struct extent extent = image_map_get(map, i);

		printf("%20" PRIu64 " %20" PRIu64 " %20" PRIu64 "\n", extent.guest_off, extent.length, extent.host_off);
	}
}

/* ---- summary ---- */

static void print_count(const char *what, uint64_t count)
{
	char number[TEXT_NUMBER_MAX];

	printf("  %-20s %16s\n", what, text_number(number, count));
}

static void print_size(const char *what, uint64_t bytes)
{
	char number[TEXT_NUMBER_MAX], size[TEXT_NUMBER_MAX];

	printf("  %-20s %16s  %s\n", what, text_bytes(size, bytes), text_number(number, bytes));
}

static void print_lengths(const struct map_figures *figures)
{
	char number[TEXT_NUMBER_MAX], size[TEXT_NUMBER_MAX];

	for (size_t i = 0; i < MAP_LENGTH_CLASSES; i++) {
		const struct map_length_class *class = &figures->classes[i];

		if (class->extents)
			printf("  %-20s %16s  %s\n", class->name, text_number(number, class->extents),
			       text_bytes(size, class->bytes));
	}
}

void map_print_summary(const struct image *image, const char *path, const struct map_figures *figures)
{
	uint64_t size = image_map_size(image->map), count = image_map_count(image->map);

	text_print(stdout, path);
	puts(image->bundle_fd < 0 ? ": a plain image: every byte is where the guest has it" : ": a bundle");
	print_size("guest's disk", size);
	print_size("data file, allocated", figures->allocated);
	if (image->bundle_fd < 0)
		return;
	print_size("data file, mapped to", image_map_host_end(image->map));
	print_count("changes of the map", image->state.generation);
	print_count("extents", count);
	if (count) {
		print_size("shortest", figures->shortest);
		print_size("average", size / count);
		print_size("longest", figures->longest);
	}
	print_lengths(figures);
	if (image->state.redo_pending)
		puts("  a change is committed; whoever opens the image next completes it");
}

/* ---- answers ---- */

static void print_extent(const struct map_answer *answer)
{
	const struct extent *extent = &answer->extent;

	if (answer->mapped)
		printf("  extent: guest %" PRIu64 ", length %" PRIu64 ", host %" PRIu64 "\n", extent->guest_off,
		       extent->length, extent->host_off);
	else if (!answer->question.host)
		printf("  beyond the end of the guest's disk, %" PRIu64 "\n", extent->guest_off);
	else if (extent->length == UINT64_MAX)
		printf("  unmapped: host %" PRIu64 " and all beyond it\n", extent->host_off);
	else
		printf("  unmapped: host %" PRIu64 ", length %" PRIu64 "\n", extent->host_off, extent->length);
}

static void print_path(const struct owner_query *owner)
{
	putchar('"');
	text_print(stdout, owner->path);
	printf("\", %s, cluster %" PRIu64 " of it; MFT record %" PRIu64 "\n", owner->attribute, owner->vcn,
	       owner->record);
}

static const struct volume_report *volume_at(const struct pass_report *report, uint64_t guest_off)
{
	for (size_t i = 0; i < report->volume_count; i++) {
		const struct volume_report *volume = &report->volumes[i];

		if (guest_off >= volume->off && guest_off - volume->off < volume->length)
			return volume;
	}
	return NULL;
}

static void print_owner(const struct owner_query *owner, const struct pass_report *report)
{
	const struct volume_report *volume = volume_at(report, owner->guest_off);

	if (!volume) {
		puts("  owner: outside of all volumes");
		return;
	}
	printf("  owner: volume %u (", volume->number);
	text_print(stdout, volume->file_system);
	printf(", at %" PRIu64 "): ", volume->off);
	switch (owner->kind) {
	case OWNER_UNKNOWN:
		text_print(stdout, volume->cause[0] ? volume->cause : "not known");
		putchar('\n');
		break;
	case OWNER_FREE:
		puts("nobody, a free cluster");
		break;
	case OWNER_NOBODY:
		puts("no file, but marked as used");
		break;
	case OWNER_BEYOND:
		puts("beyond the last cluster, where the copy of the boot sector is");
		break;
	case OWNER_STREAM:
		print_path(owner);
		break;
	}
}

void map_print_answers(const struct map_answer *answers, size_t count, const struct pass_report *report)
{
	for (size_t i = 0; i < count; i++) {
		const struct map_answer *answer = &answers[i];

		if (answer->mapped)
			printf("guest %" PRIu64 " = host %" PRIu64 "%s\n", answer->guest_off, answer->host_off,
			       answer->hole ? " (a hole on the host)" : "");
		else
			printf("%s %" PRIu64 "%s\n", answer->question.host ? "host" : "guest", answer->question.off,
			       answer->hole ? " (a hole on the host)" : "");
		print_extent(answer);
		if (answer->mapped)
			print_owner(&answer->owner, report);
	}
}
