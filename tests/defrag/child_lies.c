/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/defrag/child_lies.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "defrag/cluster_map.h"
#include "tests/defrag/child_says.h"
#include "tests/mapdb/check.h"

#define FALSE_OWNERS 7u

unsigned int lie_variant;

static void say_nothing(void)
{
}

static void no_end(void)
{
	tell_volume();
	tell_exchange();
	tell_redo(VOLUME_OFF + 4096, 100);
}

static void crash(void)
{
	no_end();
	__builtin_trap();
}

static void wait_for_ever(void)
{
	for (;;)
		sched_yield();
}

static void hang(void)
{
	no_end();
	wait_for_ever();
}

static void hang_in_a_message(void)
{
	struct message_header header = {.type = MESSAGE_MOVES, .size = sizeof(struct map_move)};
	tell_raw(&header, sizeof(header));
	wait_for_ever();
}

static void end_and_hang(void)
{
	tell_volume();
	tell_end();
	wait_for_ever();
}

void flood_of_progress(void)
{
	struct progress_message m = {.total = 1};
	for (;;)
		tell(MESSAGE_PROGRESS, &m, sizeof(m));
}

static void flood_of_empty_moves(void)
{
	tell_volume();
	for (;;)
		tell_moves(VOLUME_OFF, VOLUME_OFF, 0, VOLUME_OFF, VOLUME_OFF, 0);
}

static void flood_of_moves(void)
{
	tell_volume();
	for (;;)
		tell_exchange();
}

static void flood_of_redo(void)
{
	tell_volume();
	for (;;)
		tell_entry(VOLUME_OFF, VOLUME_END - VOLUME_OFF, 0);
}

int lie_scratch_fd;

/* More than the parent can look at in one go, and then says nothing any more. */
static void flood_of_scratch(void)
{
	static uint8_t bytes[1 << 16];
	tell_volume();
	for (off_t off = 0; off < 128 << 20; off += sizeof(bytes))
		if (pwrite(lie_scratch_fd, bytes, sizeof(bytes), off) < 0)
			break;
	wait_for_ever();
}

static void garbage(void)
{
	uint8_t bytes[4096];
	random_bytes(bytes, sizeof(bytes));
	tell_raw(bytes, sizeof(bytes));
}

static void garbage_later(void)
{
	tell_volume();
	garbage();
}

static void half_a_header(void)
{
	tell_raw("\1\0\0", 3);
}

static void half_a_message(void)
{
	struct message_header header = {.type = MESSAGE_END, .size = sizeof(struct end_message)};
	no_end();
	tell_raw(&header, sizeof(header));
	tell_raw("almost", 6);
}

static void oversized(void)
{
	struct message_header header = {.type = MESSAGE_REDO, .size = MESSAGE_SIZE_MAX + 1};
	tell_volume();
	tell_raw(&header, sizeof(header));
}

static void unknown_type(void)
{
	tell((enum message_type)77, "x", 1);
	tell_end();
}

/* Every kind of message, one byte too short and one too long; which one by the number. */
static void wrong_size(void)
{
	static const size_t sizes[] = {
	        sizeof(struct progress_message), sizeof(struct volume_report),       sizeof(struct disk_message),
	        sizeof(struct file_message),     3 * sizeof(struct map_move),        REDO_ENTRY_HEADER_SIZE + 1,
	        sizeof(struct end_message),      sizeof(struct cluster_map_message), sizeof(struct owner_message),
	        sizeof(struct file_message),     sizeof(struct found_message),       sizeof(struct guest_range)};
	static uint8_t zeros[sizeof(struct volume_report) + 1];
	tell_volume();
	tell((enum message_type)(1 + lie_variant / 2), zeros, sizes[lie_variant / 2] - 1 + lie_variant % 2 * 2);
	tell_end();
}
#define WRONG_SIZES 24u

static void tell_false_volume(void)
{
	struct volume_report v = volume();
	switch (lie_variant) {
	case 0:
		v.number = 0;
		break;
	case 1:
		v.number = 2; /* where is the first? */
		break;
	case 2:
		v.result = (enum volume_result)(VOLUME_FAILED + 1);
		break;
	case 3:
		v.off = IMAGE_SIZE + 512;
		break;
	case 4:
		v.length = IMAGE_SIZE;
		break;
	case 5:
		v.length = UINT64_MAX;
		break;
	case 6:
		v.off = UINT64_MAX - 511;
		v.length = 1024;
		break;
	case 7:
		memset(v.label, 'x', sizeof(v.label));
		break;
	case 8:
		memset(v.cause, 'x', sizeof(v.cause));
		break;
	case 9:
		memset(v.scheme, 'x', sizeof(v.scheme));
		break;
	default:
		v.result = (enum volume_result) - 1;
	}
	tell(MESSAGE_VOLUME, &v, sizeof(v));
	honest();
}
#define FALSE_VOLUMES 11u

/* The bounds grow after they were believed. */
static void bounds_change(void)
{
	struct volume_report v = volume();
	tell_volume();
	tell_exchange();
	v.length += lie_variant ? 512 : 0;
	v.off -= lie_variant ? 0 : 512;
	tell(MESSAGE_VOLUME, &v, sizeof(v));
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}

/* A volume that was out of bounds as long as it was refused. */
static void refusal_withdrawn(void)
{
	struct volume_report v = volume();
	v.off = lie_variant ? UINT64_MAX - 511 : 0;
	v.length = UINT64_MAX;
	v.result = VOLUME_REFUSED;
	tell(MESSAGE_VOLUME, &v, sizeof(v));
	v.result = VOLUME_DONE;
	tell(MESSAGE_VOLUME, &v, sizeof(v));
	tell_exchange();
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}

static void tell_false_moves(void)
{
	const uint64_t off = VOLUME_OFF, end = VOLUME_END;
	if (lie_variant)
		tell_volume(); /* 0: there is no volume to move anything in */
	switch (lie_variant) {
	case 1: /* both get the same */
		tell_moves(off, off + 512, 512, off + 512, off + 512, 512);
		break;
	case 2: /* one place gets both */
		tell_moves(off, off + 512, 512, off, off, 512);
		break;
	case 3: /* what is there is lost */
		tell_moves(off, off + 512, 512, off + 2048, off, 512);
		break;
	case 4: /* lengths that do not agree */
		tell_moves(off, off + 1024, 512, off + 1024, off, 1024);
		break;
	case 5: /* overlap */
		tell_moves(off, off + 512, 1024, off + 512, off, 1024);
		break;
	case 6: /* no multiple of a unit */
		tell_moves(off, off + 1000, 1000, off + 1000, off, 1000);
		break;
	case 7: /* the partition table for a boot sector */
		tell_moves(0, off, 512, off, 0, 512);
		break;
	case 8: /* into the next volume */
		tell_moves(end - 512, off, 1024, off, end - 512, 1024);
		break;
	case 9: /* out of the image */
		tell_moves(off, IMAGE_SIZE, 512, IMAGE_SIZE, off, 512);
		break;
	case 10: /* around the end of all numbers */
		tell_moves(off, off + 512, UINT64_MAX - 511, off + 512, off, 512);
		break;
	case 11:
		tell_moves(off, UINT64_MAX - 511, 1024, UINT64_MAX - 511, off, 1024);
		break;
	case 12: /* a gap between two */
		tell_moves(off, off + 512, 512, off + 1024, off, 512);
		break;
	case 13: /* an empty message before an honest one */
		tell(MESSAGE_MOVES, "", 0);
		tell_exchange();
		break;
	default:
		tell_exchange();
	}
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}
#define FALSE_MOVES 14u

static void moves_alone(void)
{
	tell_volume();
	tell_exchange();
	tell_end();
}

static void redo_alone(void)
{
	tell_volume();
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}

static void tell_false_redo(void)
{
	static const uint8_t blob[] = {0, 0, 1, 0, 0, 0, 0, 0, 200, 0, 0, 0, 255, 255, 255, 255, 'x'};
	tell_volume();
	tell_exchange();
	switch (lie_variant) {
	case 0: /* before the volume, behind it, across its borders */
		tell_redo(0, 512);
		break;
	case 1:
		tell_redo(VOLUME_OFF - 1, 1);
		break;
	case 2:
		tell_redo(VOLUME_OFF - 1, 2);
		break;
	case 3:
		tell_redo(VOLUME_END - 1, 2);
		break;
	case 4:
		tell_redo(VOLUME_END, 1);
		break;
	case 5: /* where the image has no bytes */
		tell_redo(3ul * IMAGE_SIZE, 1);
		break;
	case 6:
		tell_redo(UINT64_MAX - 3, 8);
		break;
	case 7:
		tell_entry(VOLUME_OFF, UINT32_MAX - 1, 0);
		break;
	case 8: /* nothing */
		tell_entry(VOLUME_OFF, 0, 0);
		break;
	case 9: /* a fill with no byte */
		tell_entry(VOLUME_OFF, 4, 256);
		break;
	case 10: /* a blob that ends too early */
		tell(MESSAGE_REDO, blob, sizeof(blob));
		break;
	case 11:
		tell(MESSAGE_REDO, blob, 7);
		break;
	default:
		break;
	}
	tell_end();
}
#define FALSE_REDO 12u

static void false_texts(void)
{
	struct disk_message disk = {.result = lie_variant ? VOLUME_DONE : VOLUME_FAILED + 1};
	if (lie_variant)
		memset(lie_variant == 1 ? disk.cause : disk.remedy, 'x', sizeof(disk.cause));
	tell(MESSAGE_DISK, &disk, sizeof(disk));
	honest();
}

static void false_file(void)
{
	struct file_message file = {
	        .volume = 1, .path_length = lie_variant ? UINT16_MAX : 1, .stream_length = UINT16_MAX};
	tell_volume();
	tell(MESSAGE_FILE, &file, sizeof(file));
	tell_exchange();
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}

static void tell_owner(uint32_t query, uint32_t kind, uint32_t number, size_t path_length)
{
	static const char path[1 << 15];
	struct owner_message owner = {.query = query, .kind = kind, .volume = number};
	message_send(&child_writer, MESSAGE_OWNER, &owner, sizeof(owner), path, path_length);
	message_flush(&child_writer);
}

static void false_owner(void)
{
	static const struct {
		uint32_t query, kind, number;
		size_t path_length;
	} owners[] = {
	        {QUERIES, OWNER_STREAM, 1, 1}, {UINT32_MAX, OWNER_STREAM, 1, 1}, {0, OWNER_STREAM + 1, 1, 1},
	        {0, OWNER_STREAM, 0, 1},       {0, OWNER_STREAM, 2, 1},          {0, OWNER_STREAM, 1, 1 << 15},
	};
	tell_volume();
	if (lie_variant == FALSE_OWNERS - 1) { /* the same twice */
		tell_owner(0, OWNER_FREE, 1, 1);
		tell_owner(0, OWNER_FREE, 1, 1);
	} else {
		tell_owner(owners[lie_variant].query, owners[lie_variant].kind, owners[lie_variant].number,
		           owners[lie_variant].path_length);
	}
	tell_exchange();
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}

static void false_progress(void)
{
	struct progress_message m = {.phase = lie_variant ? UINT32_MAX : PHASE_COUNT};
	tell_volume();
	tell(MESSAGE_PROGRESS, &m, sizeof(m));
	honest();
}

/* Not lies, but nothing may come of them either. */
static void refused_after_all(void)
{
	struct volume_report v = volume();
	no_end();
	v.result = (enum volume_result)(VOLUME_REFUSED + lie_variant);
	tell(MESSAGE_VOLUME, &v, sizeof(v));
	tell_end();
}

static void nothing_to_do(void)
{
	if (lie_variant)
		tell_volume();
	tell_end();
}

static void false_cluster_map(void)
{
	struct cluster_map_message m = {.volume = 1, .clusters = CLUSTERS};
	struct cluster_map *map;
	CHECK_IS(cluster_map_new(CLUSTERS, &map), 0);
	size_t size = cluster_map_size(map);
	uint64_t *cell = map->counts[lie_variant % map->cells];
	tell_volume();
	switch (lie_variant) {
	case 0:
		m.volume = 0;
		break;
	case 1:
		m.volume = 2;
		break;
	case 2:
		m.after = 2;
		break;
	case 3:
		m.clusters = 0;
		break;
	case 4: /* as many cells, but more than the volume has bytes for */
		m.clusters = CLUSTERS + 1;
		map->counts[map->cells - 1][CLUSTER_FREE]++;
		break;
	case 5:
		size -= sizeof(*map->counts);
		break;
	case 6:
		cell[CLUSTER_FILE]++;
		break;
	case 7:
		cell[CLUSTER_FREE]--;
		break;
	case 8: /* adds up, modulo 2^64 */
		cell[CLUSTER_FILE] = UINT64_MAX;
		cell[CLUSTER_FREE]++;
		break;
	default:
		size = 0;
	}
	message_send(&child_writer, MESSAGE_CLUSTER_MAP, &m, sizeof(m), map->counts, size);
	message_flush(&child_writer);
	cluster_map_free(map);
	tell_exchange();
	tell_redo(VOLUME_OFF + 4096, 100);
	tell_end();
}
#define FALSE_CLUSTER_MAPS 10u

/* Nobody asked for a file. */
static void find_what_is_not_wanted(void)
{
	struct found_message m = {.file = lie_variant ? UINT64_MAX : 0};
	tell_volume();
	tell(MESSAGE_FOUND, &m, sizeof(m));
	tell_end();
}

const struct lie lies[] = {
        {"says nothing", say_nothing, 1, -ECHILD},
        {"does not come to an end", no_end, 1, -ECHILD},
        {"crashes", crash, 1, -ECHILD},
        {"hangs", hang, 1, -ECANCELED},
        {"hangs in a message", hang_in_a_message, 1, -ECANCELED},
        {"tells progress for ever", flood_of_progress, 1, -ECANCELED},
        {"moves nothing for ever", flood_of_empty_moves, 1, -ECHILD},
        {"moves for ever", flood_of_moves, 1, -ECHILD},
        {"changes bytes for ever", flood_of_redo, 1, -ECHILD},
        {"fills memory by its file there", flood_of_scratch, 1, -ECHILD},
        {"sends garbage", garbage, 20, -ECHILD},
        {"sends garbage later", garbage_later, 20, -ECHILD},
        {"sends half a header", half_a_header, 1, -ECHILD},
        {"sends half a message", half_a_message, 1, -ECHILD},
        {"sends too long a message", oversized, 1, -ECHILD},
        {"sends a message of no type", unknown_type, 1, -ECHILD},
        {"sends messages of the wrong size", wrong_size, WRONG_SIZES, -ECHILD},
        {"invents volumes", tell_false_volume, FALSE_VOLUMES, -ECHILD},
        {"changes a volume's bounds", bounds_change, 2, -ECHILD},
        {"withdraws a refusal", refusal_withdrawn, 2, -ECHILD},
        {"moves what it must not", tell_false_moves, FALSE_MOVES, -ECHILD},
        {"moves without changes", moves_alone, 1, -ECHILD},
        {"changes without moves", redo_alone, 1, -ECHILD},
        {"changes what it must not", tell_false_redo, FALSE_REDO, -ECHILD},
        {"sends texts without an end", false_texts, 3, -ECHILD},
        {"sends paths without an end", false_file, 2, -ECHILD},
        {"draws what cannot be", false_cluster_map, FALSE_CLUSTER_MAPS, -ECHILD},
        {"knows whose what is that nobody asked for", false_owner, FALSE_OWNERS, -ECHILD},
        {"finds what is not wanted", find_what_is_not_wanted, 2, -ECHILD},
        {"is in no phase", false_progress, 2, -ECHILD},
        {"hangs after the end", end_and_hang, 1, 0},
        {"refuses after all", refused_after_all, 3, 0},
        {"finds nothing to do", nothing_to_do, 2, 0},
};

const size_t lie_count = sizeof(lies) / sizeof(*lies);
