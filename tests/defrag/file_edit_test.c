/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: whatever room the extents of a stream have, its new runs are all there afterwards, in order; the extent with
 * VCN 0 stays, for it has the sizes; no run list outgrows its room; of $MFT each extension record can be found by
 * what comes before it; extents of what is made of compression units keep their borders or become one.
 */
#include <stdlib.h>
#include <string.h>

#include "defrag/file_edit.h"
#include "tests/mapdb/check.h"

#define ROUNDS          20000
#define EXTENTS_MAX     5u
#define PIECES_MAX      6u
#define RECORD_SIZE     1024u
#define CLUSTERS        (UINT64_C(1) << 40) /* of the volume */
#define FILE_BASE       100u
#define FIRST_EXTENSION 40u

static struct attr extents[EXTENTS_MAX];
static struct scan scan;
static struct plan_target target;
static struct layout layout;
static struct file_edit edit;

static uint64_t length_of(const struct run *runs, size_t count)
{
	uint64_t length = 0;
	for (size_t i = 0; i < count; i++)
		length += runs[i].length;
	return length;
}

static void start(void)
{
	scan = (struct scan){.geometry = {.cluster_size = 1024, .record_size = RECORD_SIZE, .clusters = CLUSTERS},
	                     .attrs = extents};
	layout = (struct layout){.plan = {.targets = &target}};
	edit = (struct file_edit){.scan = &scan, .has_list = true};
	edit.records = calloc(EXTENTS_MAX, sizeof(*edit.records));
	edit.list.entries = calloc(EXTENTS_MAX, sizeof(*edit.list.entries));
	CHECK(edit.records && edit.list.entries);
}

static void end(void)
{
	file_edit_free(&edit);
	run_list_free(&scan.runs);
	run_list_free(&layout.plan.pieces);
}

/* A record with one attribute, which fills it but for what its run list may grow by. */
static void make_record(const struct attr *extent, const struct run *run)
{
	struct edited_record *record = &edit.records[edit.count++];
	*record = (struct edited_record){.number = extent->record, .after = calloc(1, RECORD_SIZE)};
	CHECK(record->after);
	MFT_RECORD *m = mft_record(record->after);
	ATTR_RECORD *attr = (ATTR_RECORD *)(record->after + 56);
	uint32_t length = 64u + (extent->room & ~7u), used = 56 + length + 8;
	m->magic = magic_FILE;
	m->attrs_offset = cpu_to_le16(56);
	m->bytes_in_use = m->bytes_allocated = cpu_to_le32(used);
	attr->type = AT_DATA;
	attr->length = cpu_to_le32(length);
	attr->non_resident = 1;
	attr->instance = cpu_to_le16(extent->instance);
	attr->mapping_pairs_offset = cpu_to_le16(64);
	attr->lowest_vcn = cpu_to_sle64((int64_t)extent->lowest_vcn);
	attr->highest_vcn = cpu_to_sle64((int64_t)(extent->lowest_vcn + run->length) - 1);
	*(le32 *)(record->after + used - 8) = AT_END;
}

/* The next extent: its record, the bytes that its run list may take, and the one run that it has. */
static void add_extent(uint32_t base, uint32_t record, uint16_t room, struct run run)
{
	size_t index = scan.attr_count++;
	extents[index] = (struct attr){.record = record,
	                               .base = base,
	                               .type = le32_to_cpu(AT_DATA),
	                               .run_count = 1,
	                               .first_run = index,
	                               .lowest_vcn = length_of(scan.runs.runs, scan.runs.count),
	                               .instance = (uint16_t)(7 + index),
	                               .room = room};
	CHECK_IS(run_list_push(&scan.runs, run.lcn, run.length), 0);
	make_record(&extents[index], &run);
	edit.list.entries[edit.list.count++] = (struct list_entry){.type = le32_to_cpu(AT_DATA),
	                                                           .record = record,
	                                                           .instance = extents[index].instance,
	                                                           .lowest_vcn = extents[index].lowest_vcn};
}

static void add_piece(uint64_t lcn, uint64_t length)
{
	CHECK_IS(run_list_push_merged(&layout.plan.pieces, 0, lcn, length), 0);
	target.piece_count = (uint32_t)layout.plan.pieces.count;
}

static struct list_entry *entry_of(const struct attr *extent)
{
	for (size_t i = 0; i < edit.list.count; i++)
		if (edit.list.entries[i].instance == extent->instance)
			return &edit.list.entries[i];
	return NULL;
}

/* Reads the stream back by its attribute list. Returns in how many extents it is. */
static size_t check_stream(void)
{
	struct run_list found = {0};
	uint64_t vcn = 0, vcns;
	size_t left = 0;
	for (size_t i = 0; i < scan.attr_count; i++) {
		const struct list_entry *entry = entry_of(&extents[i]);
		const ATTR_RECORD *attr = file_edit_find(&edit, &extents[i], NULL);
		CHECK_IS(attr != NULL, entry != NULL);
		CHECK(attr || i);
		if (!attr)
			continue;
		CHECK_IS(sle64_to_cpu(attr->lowest_vcn), vcn);
		CHECK_IS(entry->lowest_vcn, vcn);
		CHECK(attr_pairs_room(attr) <= extents[i].room);
		if (extents[i].base == FILE_MFT && extents[i].record != FILE_MFT)
			CHECK((extents[i].record + 1ul) * RECORD_SIZE <= vcn * scan.geometry.cluster_size);
		CHECK_IS(mapping_pairs_decode((const uint8_t *)attr + attr_pairs_off(attr), attr_pairs_room(attr),
		                              CLUSTERS, &found, &vcns),
		         0);
		vcn += vcns;
		CHECK_IS(sle64_to_cpu(attr->highest_vcn), vcn - 1);
		left++;
	}
	struct run_list whole = {0};
	for (size_t i = 0; i < found.count; i++)
		CHECK_IS(run_list_push_merged(&whole, 0, found.runs[i].lcn, found.runs[i].length), 0);
	CHECK_IS(whole.count, layout.plan.pieces.count);
	CHECK(!memcmp(whole.runs, layout.plan.pieces.runs, whole.count * sizeof(*whole.runs)));
	run_list_free(&whole);
	run_list_free(&found);
	return left;
}

static void check_borders(void)
{
	for (size_t i = 0; i < scan.attr_count; i++)
		CHECK_IS(entry_of(&extents[i])->lowest_vcn, extents[i].lowest_vcn);
}

static void move_stream(void)
{
	CHECK_IS(length_of(layout.plan.pieces.runs, layout.plan.pieces.count),
	         length_of(scan.runs.runs, scan.runs.count));
	CHECK_IS(file_edit_move_stream(&edit, &layout, 0, 0, scan.attr_count), 0);
}

/* The first extent's own clusters fit into it at their new place; all of them together take one byte of length more
 * than there is. */
static void check_tight_first_extent(void)
{
	check_context("a first extent without room for a longer run");
	start();
	add_extent(FILE_BASE, FILE_BASE, 8, (struct run){5000, 100});
	add_extent(FILE_BASE, FIRST_EXTENSION, 64, (struct run){900, 1000000});
	add_piece(0x10000000, 1000100);
	move_stream();
	CHECK_IS(check_stream(), 2);
	end();
}

static void check_roomy_first_extent(void)
{
	check_context("a first extent with room for everything");
	start();
	add_extent(FILE_BASE, FILE_BASE, 16, (struct run){5000, 100});
	add_extent(FILE_BASE, FIRST_EXTENSION, 64, (struct run){900, 1000000});
	add_piece(0x10000000, 1000100);
	move_stream();
	CHECK_IS(check_stream(), 1);
	end();
}

/* The first extent would keep 5 of its 100 clusters. Any other file may have that. */
static void check_shrinking_first_extent(uint32_t base, size_t left)
{
	check_context("a first extent that becomes shorter, of record %u", base);
	start();
	add_extent(base, base, 16, (struct run){5000, 100});
	add_extent(base, FIRST_EXTENSION, 64, (struct run){900, 8});
	add_extent(base, FIRST_EXTENSION + 1, 64, (struct run){100000, 10000000});
	add_piece(0x10000000, 5);
	add_piece(UINT64_C(0x7000000000), 10000103);
	move_stream();
	CHECK_IS(check_stream(), left);
	end();
}

/* ---- at random ---- */

static uint64_t random_length(void)
{
	return 1 + random_below(UINT64_C(1) << (1 + random_below(30)));
}

static bool slices_fit(void)
{
	struct run_list slice = {0};
	uint64_t cluster = 0;
	bool fit = true;
	for (size_t i = 0; i < scan.attr_count; i++) {
		slice.count = 0;
		CHECK_IS(layout_new_runs(&scan, &layout, 0, &extents[i], &cluster, &slice), 0);
		fit &= mapping_pairs_size(slice.runs, slice.count) <= (extents[i].room & ~7u);
	}
	run_list_free(&slice);
	return fit;
}

static void make_random(void)
{
	uint32_t base = random_below(2) ? FILE_BASE : FILE_MFT;
	uint8_t unit = base == FILE_BASE && random_below(4) == 0 ? 4 : 0;
	size_t count = 2 + random_below(EXTENTS_MAX - 1), pieces = 1 + random_below(PIECES_MAX);
	for (size_t i = 0; i < count; i++) {
		uint64_t least = base == FILE_MFT && !i ? FIRST_EXTENSION + EXTENTS_MAX : 0;
		add_extent(base, i ? FIRST_EXTENSION + (uint32_t)i : base, (uint16_t)(8 + 8 * random_below(5)),
		           (struct run){random_below(CLUSTERS / 2), least + random_length()});
		extents[i].compression_unit = unit;
	}
	uint64_t rest = length_of(scan.runs.runs, scan.runs.count);
	for (uint64_t lcn = random_length(); rest; pieces--) {
		uint64_t length = pieces > 1 ? random_length() : rest;
		length = length < rest ? length : rest;
		add_piece(lcn, length);
		rest -= length;
		lcn += length + 1 + random_below(UINT64_C(1) << (8 + random_below(24)));
	}
}

static void check_random(void)
{
	unsigned int done = 0;
	random_start();
	for (unsigned int round = 0; round < ROUNDS; round++) {
		check_context("round %u", round);
		start();
		make_random();
		if (slices_fit()) { /* else the plan would not be */
			move_stream();
			if (check_stream() > 1 && extents[0].compression_unit)
				check_borders();
			done++;
		}
		end();
	}
	CHECK(done > ROUNDS / 20);
}

int main(void)
{
	check_tight_first_extent();
	check_roomy_first_extent();
	check_shrinking_first_extent(FILE_BASE, 2);
	check_shrinking_first_extent(FILE_MFT, 3);
	check_random();
	return 0;
}
