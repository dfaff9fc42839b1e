/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: run lists come back from their encoding as they were; libntfs-3g reads what is written here, and the
 * reverse; no sequence of bytes makes the decoder leave its buffer or the volume.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <ntfs-3g/types.h>

#include <ntfs-3g/layout.h>
#include <ntfs-3g/runlist.h>
#include <ntfs-3g/volume.h>

#include "defrag/run_list.h"
#include "tests/mapdb/check.h"

#define ROUNDS    4000
#define FUZZ      200000
#define RUNS_MAX  60u
#define PAIRS_MAX 2048u

/* ---- bytes made by hand, from the description of the format ---- */

static void check_bytes(const uint8_t *bytes, size_t size, const struct run *runs, size_t count)
{
	struct run_list list = {0};
	uint8_t encoded[64];
	uint64_t vcns, total = 0;
	size_t used;
	CHECK_IS(mapping_pairs_decode(bytes, size, UINT64_C(1) << 40, &list, &vcns), 0);
	CHECK_IS(list.count, count);
	for (size_t i = 0; i < count; i++) {
		CHECK_IS(list.runs[i].lcn, runs[i].lcn);
		CHECK_IS(list.runs[i].length, runs[i].length);
		total += runs[i].length;
	}
	CHECK_IS(vcns, total);
	CHECK_IS(mapping_pairs_size(runs, count), size);
	CHECK_IS(mapping_pairs_encode(runs, count, encoded, sizeof(encoded), &used), count);
	CHECK_IS(used, size);
	CHECK(!memcmp(encoded, bytes, size));
	run_list_free(&list);
}

#define CHECK_BYTES(runs, ...)                                                                                         \
	check_bytes((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), (runs),                    \
	            sizeof(runs) / sizeof(*(runs)))

static void check_known_bytes(void)
{
	static const struct run one[] = {{0x5634, 0x18}};
	static const struct run three[] = {{0x342573, 0x38}, {0x363758, 0x114}, {0x393802, 0x42}};
	static const struct run sparse[] = {{0x20, 0x30}, {RUN_HOLE, 0x60}, {0x50, 0x10}};
	static const struct run backwards[] = {{0x40, 10}, {0x20, 5}, {0, 1}};
	/* 0x80 and 0x8000 need a byte more than they seem to: the highest bit is a sign. */
	static const struct run signs[] = {{0x80, 0x7f}, {0x8080, 0x80}, {0x8000, 0x8000}};
	static const struct run far[] = {{0xffffffff, 1}, {RUN_HOLE, UINT64_C(0x123456789a)}};
	CHECK_BYTES(one, 0x21, 0x18, 0x34, 0x56, 0);
	CHECK_BYTES(three, 0x31, 0x38, 0x73, 0x25, 0x34, 0x32, 0x14, 0x01, 0xe5, 0x11, 0x02, 0x31, 0x42, 0xaa, 0x00,
	            0x03, 0);
	CHECK_BYTES(sparse, 0x11, 0x30, 0x20, 0x01, 0x60, 0x11, 0x10, 0x30, 0);
	CHECK_BYTES(backwards, 0x11, 0x0a, 0x40, 0x11, 0x05, 0xe0, 0x11, 0x01, 0xe0, 0);
	CHECK_BYTES(signs, 0x21, 0x7f, 0x80, 0x00, 0x32, 0x80, 0x00, 0x00, 0x80, 0x00, 0x13, 0x00, 0x80, 0x00, 0x80, 0);
	CHECK_BYTES(far, 0x51, 0x01, 0xff, 0xff, 0xff, 0xff, 0x00, 0x05, 0x9a, 0x78, 0x56, 0x34, 0x12, 0);
	static const uint8_t empty[] = {0};
	check_bytes(empty, 1, NULL, 0);
}

static int decode(const uint8_t *bytes, size_t size, uint64_t clusters)
{
	struct run_list list = {0};
	uint64_t vcns;
	int r = mapping_pairs_decode(bytes, size, clusters, &list, &vcns);
	run_list_free(&list);
	return r;
}

#define DECODE(clusters, ...) decode((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), (clusters))

static void check_bad_bytes(void)
{
	CHECK_IS(DECODE(100, 0x11, 0x01, 0x63, 0), 0);
	CHECK_IS(DECODE(100, 0x11, 0x02, 0x63, 0), -EUCLEAN);                   /* one past the end */
	CHECK_IS(DECODE(100, 0x11, 0x01, 0x64, 0), -EUCLEAN);                   /* at the end */
	CHECK_IS(DECODE(100, 0x11, 0x01, 0xff, 0), -EUCLEAN);                   /* the -1 of old versions' holes */
	CHECK_IS(DECODE(100, 0x11, 0x00, 0x10, 0), -EUCLEAN);                   /* nothing */
	CHECK_IS(DECODE(100, 0x11, 0xff, 0x10, 0), -EUCLEAN);                   /* less than nothing */
	CHECK_IS(DECODE(100, 0x10, 0x10, 0), -EUCLEAN);                         /* no length */
	CHECK_IS(DECODE(100, 0x11, 0x01, 0x10), -EUCLEAN);                      /* no end */
	CHECK_IS(DECODE(100, 0x19, 1, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0), -EUCLEAN); /* nine bytes of length */
	CHECK_IS(DECODE(100, 0x91, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0), -EUCLEAN);
	/* Sums that overflow: of LCNs, of VCNs. */
	CHECK_IS(DECODE(UINT64_MAX, 0x81, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x11, 1, 1, 0), -EUCLEAN);
	CHECK_IS(DECODE(UINT64_MAX, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x01, 1, 0), -EUCLEAN);
	CHECK_IS(decode(NULL, 0, 100), -EUCLEAN);
}

/* ---- there and back ---- */

static uint64_t random_magnitude(unsigned int bits)
{
	return random_u64() >> (64 - 1 - random_below(bits));
}

/* A merged list of runs on a volume of that many clusters; they may overlap, which is not the encoding's business. */
static size_t make_runs(struct run *runs, uint64_t clusters, unsigned int hole_bits)
{
	size_t count = random_below(RUNS_MAX + 1);
	uint64_t next = RUN_HOLE;
	bool hole = false;
	for (size_t i = 0; i < count; i++) {
		hole = !hole && random_below(4) == 0;
		uint64_t lcn = random_below(2) ? random_magnitude(63) % clusters : (random_u64() >> 1) % clusters;
		uint64_t length = 1 + random_magnitude(40) % (clusters - lcn);
		if (hole) {
			runs[i] = (struct run){.lcn = RUN_HOLE, .length = 1 + random_magnitude(hole_bits)};
			continue;
		}
		if (lcn == next && i && runs[i - 1].lcn != RUN_HOLE) { /* would be merged */
			lcn = lcn ? lcn - 1 : lcn + 1;
			length = 1;
		}
		runs[i] = (struct run){.lcn = lcn, .length = length};
		next = lcn + length;
	}
	return count;
}

static void check_same(const struct run_list *list, const struct run *runs, size_t count)
{
	CHECK_IS(list->count, count);
	CHECK(!count || !memcmp(list->runs, runs, count * sizeof(*runs)));
}

/* In any room, as many runs go in as fit with the terminator. */
static void check_rooms(const struct run *runs, size_t count, size_t size)
{
	static uint8_t pairs[PAIRS_MAX];
	for (size_t room = 1; room <= size + 2; room += 1 + random_below(5)) {
		size_t used, done = mapping_pairs_encode(runs, count, pairs, room, &used);
		struct run_list list = {0};
		uint64_t vcns;
		CHECK(used <= room && used == mapping_pairs_size(runs, done));
		CHECK(done == count || mapping_pairs_size(runs, done + 1) > room);
		CHECK_IS(mapping_pairs_decode(pairs, used, UINT64_MAX, &list, &vcns), 0);
		check_same(&list, runs, done);
		run_list_free(&list);
	}
}

static void check_round_trip(uint64_t clusters, unsigned int hole_bits)
{
	struct run runs[RUNS_MAX];
	size_t count = make_runs(runs, clusters, hole_bits), used, size = mapping_pairs_size(runs, count);
	uint8_t *pairs = malloc(size);
	struct run_list list = {0};
	uint64_t vcns;
	CHECK(pairs && size <= PAIRS_MAX);
	CHECK_IS(mapping_pairs_encode(runs, count, pairs, size, &used), count);
	CHECK_IS(used, size);
	CHECK_IS(run_list_push(&list, 7, 1), 0); /* what is in the list already stays out of it */
	CHECK_IS(mapping_pairs_decode(pairs, size, clusters, &list, &vcns), 0);
	CHECK(list.runs[0].lcn == 7 && list.runs[0].length == 1);
	memmove(list.runs, list.runs + 1, --list.count * sizeof(*list.runs));
	check_same(&list, runs, count);
	for (size_t cut = 0; cut < size; cut++)
		CHECK_IS(decode(pairs, cut, clusters), -EUCLEAN);
	run_list_free(&list);
	free(pairs);
	check_rooms(runs, count, size);
}

/* ---- numbers around powers of two ---- */

/* Three runs around a border, one below it, one across, one above; backwards, too. */
static void check_border(uint64_t border)
{
	const struct run up[] = {{border - 3, 2}, {border, 3}, {RUN_HOLE, border}, {border + 5, 1}};
	const struct run down[] = {{border + 1, 1}, {border - 1, 1}, {0, border - 2}, {RUN_HOLE, border + 1}};
	const struct run *const lists[] = {up, down};
	for (size_t i = 0; i < 2; i++) {
		uint8_t pairs[64];
		struct run_list list = {0};
		uint64_t vcns, total = 0;
		size_t used, count = 4;
		CHECK_IS(mapping_pairs_encode(lists[i], count, pairs, sizeof(pairs), &used), count);
		CHECK_IS(used, mapping_pairs_size(lists[i], count));
		CHECK_IS(mapping_pairs_decode(pairs, used, border + 6, &list, &vcns), 0);
		check_same(&list, lists[i], count);
		for (size_t k = 0; k < count; k++)
			total += lists[i][k].length;
		CHECK_IS(vcns, total);
		run_list_free(&list);
		/* On a volume that is one cluster shorter than the highest run it is none. */
		CHECK_IS(decode(pairs, used, border + (i ? 2 : 6)), 0);
		CHECK_IS(decode(pairs, used, border + (i ? 1 : 5)), -EUCLEAN);
	}
}

static void put_hole(uint8_t *pairs, uint64_t length)
{
	pairs[0] = 0x08;
	memcpy(pairs + 1, &length, sizeof(length));
}

/* Sums of lengths and of LCN differences that are just not too large, and just are. */
static void check_sums(void)
{
	uint8_t holes[19] = {0};
	put_hole(holes, INT64_MAX - 5);
	put_hole(holes + 9, 5);
	CHECK_IS(decode(holes, sizeof(holes), 100), 0);
	put_hole(holes + 9, 6);
	CHECK_IS(decode(holes, sizeof(holes), 100), -EUCLEAN);
	put_hole(holes + 9, INT64_MAX);
	CHECK_IS(decode(holes, sizeof(holes), 100), -EUCLEAN);
	put_hole(holes, UINT64_C(1) << 63);
	CHECK_IS(decode(holes, sizeof(holes), 100), -EUCLEAN);
	/* 2^62 and 2^62 once more; up and down again; down from nothing. */
	CHECK_IS(DECODE(UINT64_MAX, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0x40, 0),
	         -EUCLEAN);
	CHECK_IS(DECODE(UINT64_MAX, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0), 0);
	CHECK_IS(DECODE(UINT64_MAX, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0x80, 0), -EUCLEAN);
	/* A run up to the last cluster of the largest volume, and one longer. */
	CHECK_IS(DECODE(UINT64_C(1) << 62, 0x88, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0x20, 0), 0);
	CHECK_IS(DECODE(UINT64_C(1) << 62, 0x88, 1, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0x20, 0), -EUCLEAN);
}

/* Numbers in more bytes than they need are the same numbers. */
static void check_wide_numbers(void)
{
	static const uint8_t wide[] = {0x44, 5,    0,    0,    0,    0x10, 0, 0, 0, 0x42, 3,
	                               0,    0xf8, 0xff, 0xff, 0xff, 0x03, 7, 0, 0, 0};
	static const struct run narrow[] = {{0x10, 5}, {8, 3}, {RUN_HOLE, 7}};
	struct run_list list = {0};
	uint64_t vcns;
	CHECK_IS(mapping_pairs_decode(wide, sizeof(wide), 100, &list, &vcns), 0);
	check_same(&list, narrow, 3);
	CHECK_IS(vcns, 15);
	CHECK_IS(mapping_pairs_size(list.runs, list.count), 9);
	run_list_free(&list);
}

/* VCNs and lengths, too, are found beyond 2^32 and 2^60. */
static void check_large_index(void)
{
	const struct run runs[] = {{RUN_HOLE, UINT64_C(1) << 60}, {5, UINT64_C(1) << 32}, {UINT64_C(1) << 40, 9}};
	struct run_index index;
	CHECK_IS(run_index_build(&index, runs, 3), 0);
	CHECK_IS(run_index_clusters(&index), (UINT64_C(1) << 60) + (UINT64_C(1) << 32) + 9);
	struct run found = run_index_lookup(&index, (UINT64_C(1) << 60) - 1);
	CHECK(found.lcn == RUN_HOLE && found.length == 1);
	found = run_index_lookup(&index, (UINT64_C(1) << 60) + (UINT64_C(1) << 32) - 1);
	CHECK(found.lcn == (UINT64_C(1) << 32) + 4 && found.length == 1);
	found = run_index_lookup(&index, (UINT64_C(1) << 60) + (UINT64_C(1) << 32) + 8);
	CHECK(found.lcn == (UINT64_C(1) << 40) + 8 && found.length == 1);
	run_index_free(&index);
}

static void check_large_numbers(void)
{
	for (unsigned int bits = 7; bits < 61; bits++) {
		check_context("around 2^%u", bits);
		check_border(UINT64_C(1) << bits);
	}
	check_context("sums");
	check_sums();
	check_wide_numbers();
	check_large_index();
}

/* ---- a second opinion ---- */

static ntfs_volume *fake_volume(void)
{
	ntfs_volume *volume = calloc(1, sizeof(*volume));
	CHECK(volume);
	volume->major_ver = 3;
	volume->minor_ver = 1;
	volume->cluster_size_bits = 12;
	volume->cluster_size = 4096;
	volume->nr_clusters = INT64_C(1) << 32;
	return volume;
}

static void compare_with_library(ntfs_volume *volume)
{
	_Alignas(8) uint8_t record[PAIRS_MAX + 72] = {0}, theirs[PAIRS_MAX];
	ATTR_RECORD *attr = (ATTR_RECORD *)record;
	struct run runs[RUNS_MAX];
	uint64_t clusters = UINT64_C(1) << 32, vcns = 0;
	size_t count = make_runs(runs, clusters, 40), used;
	for (size_t i = 0; i < count; i++)
		vcns += runs[i].length;
	attr->type = AT_DATA;
	attr->length = cpu_to_le32(sizeof(record));
	attr->non_resident = 1;
	attr->mapping_pairs_offset = cpu_to_le16(64);
	attr->highest_vcn = cpu_to_sle64((int64_t)vcns - 1);
	attr->allocated_size = cpu_to_sle64((int64_t)vcns << 12);
	CHECK_IS(mapping_pairs_encode(runs, count, record + 64, PAIRS_MAX, &used), count);
	runlist_element *list = ntfs_mapping_pairs_decompress(volume, attr, NULL);
	CHECK(list || !count);
	for (size_t i = 0; i < count; i++) {
		CHECK_IS(list[i].lcn, runs[i].lcn == RUN_HOLE ? LCN_HOLE : (LCN)runs[i].lcn);
		CHECK_IS(list[i].length, runs[i].length);
	}
	if (count) {
		CHECK_IS(ntfs_get_size_for_mapping_pairs(volume, list, 0, PAIRS_MAX), used);
		CHECK_IS(ntfs_mapping_pairs_build(volume, theirs, sizeof(theirs), list, 0, NULL), 0);
		CHECK(!memcmp(theirs, record + 64, used));
	}
	free(list);
}

/* ---- garbage ---- */

static void check_garbage(void)
{
	struct run_list list = {0};
	uint64_t vcns;
	for (unsigned int i = 0; i < FUZZ; i++) {
		size_t size = random_below(40);
		uint64_t total = 0, clusters = 1 + random_magnitude(62);
		uint8_t *bytes = malloc(size ? size : 1); /* exactly as long, for the sanitizer to see */
		CHECK(bytes);
		for (size_t k = 0; k < size; k++)
			bytes[k] = (uint8_t)(random_below(3) ? random_below(0x45) : random_below(256));
		list.count = 0;
		if (mapping_pairs_decode(bytes, size, clusters, &list, &vcns) == 0) {
			for (size_t k = 0; k < list.count; k++) {
				struct run run = list.runs[k];
				CHECK(run.length);
				CHECK(run.lcn == RUN_HOLE ||
				      (run.lcn < clusters && (run.length <= clusters - run.lcn)));
				total += run.length;
			}
			CHECK_IS(total, vcns);
		}
		free(bytes);
	}
	run_list_free(&list);
}

/* ---- sorting and looking up ---- */

static int compare_runs(const void *a, const void *b)
{
	uint64_t x = ((const struct run *)a)->lcn, y = ((const struct run *)b)->lcn;
	return x < y ? -1 : x > y;
}

static void check_sorting(void)
{
	size_t count = random_below(random_below(2) ? 5 : 3000);
	unsigned int bits = 1 + (unsigned int)random_below(63);
	struct run_list list = {0};
	struct run *sorted = malloc((count + 1) * sizeof(*sorted));
	CHECK(sorted);
	for (size_t i = 0; i < count; i++) {
		sorted[i] = (struct run){.lcn = random_magnitude(bits)};
		sorted[i].length = sorted[i].lcn ^ 0x5555; /* to see that the two stay together */
		CHECK_IS(run_list_push(&list, sorted[i].lcn, sorted[i].length), 0);
	}
	qsort(sorted, count, sizeof(*sorted), compare_runs);
	CHECK_IS(run_list_sort(&list), 0);
	check_same(&list, sorted, count);
	run_list_free(&list);
	free(sorted);
}

static void check_index(void)
{
	struct run runs[RUNS_MAX];
	struct run_index index;
	size_t count = make_runs(runs, UINT64_C(1) << 32, 40);
	uint64_t first = 0;
	CHECK_IS(run_index_build(&index, runs, count), 0);
	for (size_t i = 0; i < count; i++) {
		uint64_t within[] = {0, runs[i].length - 1, random_u64() % runs[i].length};
		for (size_t k = 0; k < 3; k++) {
			struct run found = run_index_lookup(&index, first + within[k]);
			CHECK_IS(found.lcn, runs[i].lcn == RUN_HOLE ? RUN_HOLE : runs[i].lcn + within[k]);
			CHECK_IS(found.length, runs[i].length - within[k]);
		}
		first += runs[i].length;
	}
	CHECK_IS(run_index_clusters(&index), first);
	run_index_free(&index);
}

int main(void)
{
	ntfs_volume *volume = fake_volume();
	random_start();
	check_known_bytes();
	check_bad_bytes();
	check_large_numbers();
	for (unsigned int round = 0; round < ROUNDS; round++) {
		check_context("round %u", round);
		check_round_trip(UINT64_C(1) << 32, 40);
		check_round_trip(UINT64_C(1) << random_below(63), 50);
		compare_with_library(volume);
		check_index();
		if (round % 8 == 0)
			check_sorting();
	}
	check_context("garbage");
	check_garbage();
	free(volume);
	return 0;
}
