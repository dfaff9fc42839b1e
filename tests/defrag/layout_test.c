/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: what of a volume may move, in what rank, and what is never to be in more pieces than it is, follows from the
 * file that it belongs to.
 */
#include "defrag/layout.h"
#include "tests/mapdb/check.h"

#define RECORDS 40u

static const struct expectation {
	uint32_t base, type;
	uint8_t kind; /* of the record */
	uint8_t plan_kind, rank;
	bool never_more;
} expected[] = {
        {FILE_MFT, 0x80, 0, PLAN_ANCHORED, 0, true},
        {FILE_MFTMirr, 0x80, 0, PLAN_PINNED, 0, true},
        {FILE_root, 0xa0, RECORD_DIRECTORY, PLAN_MOVABLE, 0, true},
        {30, 0x80, RECORD_BOOT_FILE, PLAN_LEFT, 1, true},
        {31, 0x80, RECORD_BOOT_DATA, PLAN_MOVABLE, 3, true},
        {32, 0x80, RECORD_SHADOWS, PLAN_PINNED, 3, false},
        {33, 0xa0, RECORD_DIRECTORY, PLAN_MOVABLE, 2, false},
        {34, 0x80, 0, PLAN_MOVABLE, 3, false},
};
#define STREAMS (sizeof(expected) / sizeof(*expected))

int main(void)
{
	struct attr attrs[STREAMS];
	uint8_t kinds[RECORDS] = {0};
	struct scan scan = {.geometry = {.cluster_size = 4096, .record_size = 1024, .clusters = 10 * STREAMS},
	                    .record_count = RECORDS,
	                    .kind = kinds,
	                    .attrs = attrs,
	                    .attr_count = STREAMS};
	const struct pass_options options = {0};
	struct layout layout;
	for (size_t i = 0; i < STREAMS; i++) {
		kinds[expected[i].base] = RECORD_USED | expected[i].kind;
		attrs[i] = (struct attr){.record = expected[i].base,
		                         .base = expected[i].base,
		                         .type = expected[i].type,
		                         .run_count = 1,
		                         .first_run = i,
		                         .room = 64};
		CHECK_IS(run_list_push(&scan.runs, 10 * i, 10), 0);
	}
	CHECK_IS(layout_make(&scan, &options, NULL, &layout), 0);
	CHECK_IS(layout.count, STREAMS);
	for (size_t i = 0; i < STREAMS; i++) {
		check_context("record %u", expected[i].base);
		CHECK_IS(layout.objects[i].kind, expected[i].plan_kind);
		CHECK_IS(layout.objects[i].rank, expected[i].rank);
		CHECK_IS(layout.objects[i].never_more, expected[i].never_more);
		CHECK(!layout_moves(&layout, i));
	}
	layout_free(&layout);
	run_list_free(&scan.runs);
	return 0;
}
