/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: whole volumes, as the child of a pass looks at them. Byte 0 says which of the volumes of mutate_base.c, byte 1
 * with what options; patches to the volume follow. The mutator does damage behind the fixups (mutate_damage.c), and now
 * and then what somebody has thought of (mutate_attack.c).
 *
 * Promise: the child ends well, and finds nothing that it could not prove; where it would change something, no two
 * streams share a cluster before, every cluster of every stream still is the same host bytes afterwards, and of the
 * bytes only metadata changes. An independent look (volume_look.h) judges.
 *
 * NTFS_POPULATE, NTFS_SCATTER and NTFS_CHECK in the environment name the tools that make the volumes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "defrag/message.h"
#include "defrag/worker.h"
#include "tests/defrag/mutate.h"
#include "tests/fuzz/memory_image.h"
#include "tests/fuzz/volume_look.h"
#include "tests/mapdb/check.h"

#define HEADER 2u /* bytes of an input before the patches */

static int message_fd, table_fd;
static struct selection selection;

/* What libntfs-3g forgets of a volume that it cannot mount is gone with the child. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libntfs-3g";
}

/* ---- what the child says ---- */

struct told {
	struct disk_message disk;
	struct volume_report volume;
	struct map_move *moves;
	size_t move_count;
	struct redo_overlay *changes;
	bool ended;
};

static void take_message(struct told *told, const struct message_header *header, const uint8_t *payload)
{
	switch (header->type) {
	case MESSAGE_DISK:
		memcpy(&told->disk, payload, sizeof(told->disk));
		break;
	case MESSAGE_VOLUME:
		memcpy(&told->volume, payload, sizeof(told->volume));
		break;
	case MESSAGE_MOVES:
		told->moves = reallocarray(told->moves, 1, told->move_count * sizeof(*told->moves) + header->size);
		CHECK(told->moves);
		memcpy(told->moves + told->move_count, payload, header->size);
		told->move_count += header->size / sizeof(*told->moves);
		break;
	case MESSAGE_REDO:
		CHECK_IS(redo_overlay_add(told->changes, payload, header->size), 0);
		break;
	case MESSAGE_END:
		told->ended = true;
	}
}

static void hear(struct told *told)
{
	off_t size = lseek(message_fd, 0, SEEK_CUR);
	uint8_t *bytes = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, message_fd, 0);
	CHECK(bytes != MAP_FAILED);
	*told = (struct told){0};
	CHECK_IS(redo_overlay_new(&told->changes), 0);
	for (size_t at = 0; at < (size_t)size;) {
		struct message_header header;
		memcpy(&header, bytes + at, sizeof(header));
		at += sizeof(header);
		take_message(told, &header, bytes + at);
		at += header.size;
	}
	CHECK_IS(redo_overlay_seal(told->changes), 0);
	munmap(bytes, (size_t)size);
}

static void forget(struct told *told)
{
	free(told->moves);
	redo_overlay_free(told->changes);
}

/* ---- what becomes of the volume ---- */

/* The image as the guest would find it. lcns[i] is where cluster i was before. */
static uint8_t *carry_out(const struct told *told, const struct image_map *map, const struct volume_look *before,
                          uint64_t *lcns)
{
	struct image_map *new_map;
	uint8_t *after = malloc(base->size);
	CHECK(after);
	CHECK_IS(image_map_permute(map, told->moves, told->move_count, &new_map), 0);
	for (size_t i = 0; i < image_map_count(new_map); i++) {
		struct extent extent = image_map_get(new_map, i);
		uint8_t *to = after + extent.guest_off;
		memcpy(to, image_bytes + extent.host_off, extent.length);
		redo_overlay_patch(told->changes, extent.host_off, to, extent.length);
	}
	for (uint64_t i = 0; i < before->clusters; i++) {
		struct extent extent;
		image_map_lookup(new_map, i * before->cluster_size, before->cluster_size, &extent);
		CHECK_IS(extent.length, before->cluster_size);
		CHECK_IS(extent.host_off % before->cluster_size, 0);
		lcns[i] = extent.host_off / before->cluster_size;
	}
	image_map_unref(new_map);
	return after;
}

static bool is_list(const struct cluster_owner *owner)
{
	return owner->type == 0x20;
}

static void check_same_mapping(const struct volume_look *before, const struct volume_look *after, const uint64_t *lcns)
{
	uint64_t owned_before = 0, owned_after = 0;
	CHECK_IS(after->clusters, before->clusters);
	for (uint64_t i = 0; i < after->clusters; i++) {
		const struct cluster_owner *then = &before->owners[lcns[i]], *now = &after->owners[i];
		owned_before += then->stream && !is_list(then);
		owned_after += now->stream && !is_list(now);
		if (now->stream)
			CHECK(now->stream == then->stream && now->vcn == then->vcn);
	}
	CHECK_IS(owned_after, owned_before); /* only attribute lists may go */
}

static void check_only_metadata(const struct volume_look *before, const struct told *told)
{
	uint8_t *bytes = malloc(before->cluster_size);
	CHECK(bytes);
	for (uint64_t i = 0; i < before->clusters; i++) {
		const struct cluster_owner *owner = &before->owners[i];
		if (owner->stream && (owner->base == 0 || owner->base == 1 || owner->base == 6 || is_list(owner)))
			continue;
		memcpy(bytes, image_bytes + i * before->cluster_size, before->cluster_size);
		redo_overlay_patch(told->changes, i * before->cluster_size, bytes, before->cluster_size);
		CHECK(!memcmp(bytes, image_bytes + i * before->cluster_size, before->cluster_size));
	}
	free(bytes);
}

static void check_change(const struct told *told, const struct image_map *map, const struct volume_look *before)
{
	struct volume_look look;
	uint64_t *lcns = calloc(before->clusters, sizeof(*lcns));
	CHECK(lcns);
	uint8_t *after = carry_out(told, map, before, lcns);
	volume_look(after, base->size, &look);
	if (look.wrong)
		check_context("after the change: %s", look.wrong);
	CHECK(!look.wrong);
	check_same_mapping(before, &look, lcns);
	check_only_metadata(before, told);
	volume_look_free(&look);
	free(after);
	free(lcns);
}

static void judge(const struct told *told, const struct image_map *map)
{
	struct volume_look before;
	check_context("%s%s", told->disk.cause, told->volume.cause);
	CHECK(told->ended && told->disk.result != VOLUME_FAILED && told->volume.result != VOLUME_FAILED);
	if (told->disk.result != VOLUME_DONE || told->volume.result != VOLUME_DONE)
		return;
	volume_look(image_bytes, base->size, &before);
	if (before.wrong)
		check_context("accepted, though %s", before.wrong);
	CHECK(!before.wrong);
	if (told->move_count)
		check_change(told, map, &before);
	volume_look_free(&before);
}

/* ---- the target ---- */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	populate_tool = getenv("NTFS_POPULATE");
	scatter_tool = getenv("NTFS_SCATTER");
	check_tool = getenv("NTFS_CHECK");
	if (!populate_tool || !scatter_tool || !check_tool) {
		fprintf(stderr, "NTFS_POPULATE, NTFS_SCATTER and NTFS_CHECK must name these tools\n");
		exit(1);
	}
	work_fd = scratch_directory();
	for (unsigned int i = 0; i < BASES; i++)
		make_base(&bases[i]);
	CHECK_IS(selection_add_pattern(&selection, &selection.only, "*[0-4]"), 0);
	CHECK_IS(selection_add_file(&selection, "no such file"), 0);
	message_fd = memfd_create("messages", MFD_CLOEXEC);
	table_fd = memfd_create("partition-table", MFD_CLOEXEC);
	CHECK(message_fd >= 0 && table_fd >= 0);
	return 0;
}

/* image_bytes becomes the base that the input is about; outside of an input it is nothing but that. */
static void select_base(uint8_t number)
{
	const struct base *wanted = &bases[number % BASES];
	if (base != wanted)
		memcpy(image_bytes, wanted->bytes, wanted->size);
	base = wanted;
}

static void run_child(uint8_t flags)
{
	const struct pass_options options = {.pack = flags & 1,
	                                     .analyze = (flags & 6) == 6,
	                                     .verify_data = flags & 8,
	                                     .cluster_maps = flags & 16,
	                                     .selection = flags & 32 ? &selection : NULL};
	const struct memory_image memory = {.bytes = image_bytes, .size = base->size};
	struct image image = {.io = &memory_io, .data_fd = -1};
	struct told told;
	memory_image_view(&memory, &image.map);
	lseek(message_fd, 0, SEEK_SET);
	CHECK_IS(worker_run(&image, &options, message_fd, table_fd), 0);
	hear(&told);
	judge(&told, image.map);
	forget(&told);
	image_map_unref(image.map);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < HEADER)
		return 0;
	struct input patches = input_of(data + HEADER, size - HEADER);
	select_base(data[0]);
	patches_apply(patches, image_bytes, base->size);
	run_child(data[1]);
	patches_revert(patches, image_bytes, base->bytes, base->size);
	return 0;
}

/* The input, damaged further, as patches. */
static size_t damage_input(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	char text[16];
	struct input patches = input_of(data + HEADER, size - HEADER);
	snprintf(text, sizeof(text), "%u", seed);
	setenv("SEED", text, 1);
	random_start();
	for (unsigned int i = 0; i < 8; i++)
		random_u64();
	select_base(data[0]);
	if (random_below(16) == 0) /* for these the volume must still be sound */
		attacks[random_below(attack_count)].make();
	patches_apply(patches, image_bytes, base->size);
	damage_more();
	size_t used = patches_between(base->bytes, image_bytes, base->size, data + HEADER, max_size - HEADER);
	memcpy(image_bytes, base->bytes, base->size);
	return HEADER + used;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	if (seed % 3 == 0 || size < HEADER || max_size < 64)
		return LLVMFuzzerMutate(data, size, max_size);
	return damage_input(data, size, max_size, seed);
}
