/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: mapping pairs. Byte 0 is the binary logarithm of the volume's clusters, the rest is a run list as on disk.
 *
 * Promise: what is decoded lies inside the volume; encoded and decoded again it is the same, in no more bytes than are
 * announced and, if there is less room, as much of it as fits; its index finds every run again; sorting sorts.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "defrag/run_list.h"
#include "tests/fuzz/fuzz.h"
#include "tests/mapdb/check.h"

static void check_inside(const struct run_list *list, uint64_t clusters, uint64_t vcns)
{
	uint64_t total = 0;
	for (size_t i = 0; i < list->count; i++) {
		const struct run *run = &list->runs[i];
		CHECK(run->length);
		CHECK(run->lcn == RUN_HOLE || (run->lcn < clusters && run->length <= clusters - run->lcn));
		total += run->length;
	}
	CHECK(total == vcns && vcns <= INT64_MAX);
}

static void check_again(const struct run_list *list, uint64_t clusters, uint64_t vcns, size_t room)
{
	size_t size = mapping_pairs_size(list->runs, list->count), used;
	uint8_t *pairs = malloc(size);
	struct run_list again = {0};
	uint64_t vcns_again;
	CHECK(pairs);
	CHECK_IS(mapping_pairs_encode(list->runs, list->count, pairs, size, &used), list->count);
	CHECK_IS(used, size);
	CHECK_IS(mapping_pairs_decode(pairs, size, clusters, &again, &vcns_again), 0);
	CHECK(vcns_again == vcns && again.count == list->count);
	CHECK(!list->count || !memcmp(again.runs, list->runs, list->count * sizeof(*list->runs)));
	again.count = 0;
	if (room > 0 && room < size) {
		size_t fits = mapping_pairs_encode(list->runs, list->count, pairs, room, &used);
		CHECK(used <= room && fits < list->count);
		CHECK_IS(mapping_pairs_decode(pairs, used, clusters, &again, &vcns_again), 0);
		CHECK(again.count == fits && mapping_pairs_size(list->runs, fits) == used);
	}
	run_list_free(&again);
	free(pairs);
}

static void check_index(const struct run_list *list, uint64_t vcns)
{
	struct run_index index;
	uint64_t vcn = 0;
	CHECK_IS(run_index_build(&index, list->runs, list->count), 0);
	CHECK(run_index_clusters(&index) == vcns);
	for (size_t i = 0; i < list->count; i++) {
		const struct run *run = &list->runs[i];
		struct run last = run_index_lookup(&index, vcn + run->length - 1);
		CHECK(run_index_lookup(&index, vcn).lcn == run->lcn && last.length == 1);
		CHECK(last.lcn == (run->lcn == RUN_HOLE ? RUN_HOLE : run->lcn + run->length - 1));
		vcn += run->length;
	}
	run_index_free(&index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = input_of(data, size);
	uint64_t clusters = UINT64_C(1) << take(&input, 1) % 64, vcns = 0;
	struct run_list list = {0};
	int r = mapping_pairs_decode(input.at, input_left(&input), clusters, &list, &vcns);
	CHECK(r == 0 || r == -EUCLEAN);
	if (r == 0) {
		check_inside(&list, clusters, vcns);
		check_again(&list, clusters, vcns, size / 2);
		check_index(&list, vcns);
		CHECK_IS(run_list_sort(&list), 0);
		for (size_t i = 1; i < list.count; i++)
			CHECK(list.runs[i - 1].lcn <= list.runs[i].lcn);
	}
	run_list_free(&list);
	return 0;
}
