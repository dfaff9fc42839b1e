/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * run_list: which clusters of the volume hold the clusters of an attribute, in VCN order.
 *
 * On disk a run list is encoded as "mapping pairs" (a header byte with two nibble sizes, a length, a signed LCN
 * difference; no difference at all is a hole); source of the format: ntfs-3g's layout.h and runlist.c, NTFS 3.0 and
 * later. Decoding trusts nothing; encoding merges nothing (give it a merged list). Pure, any thread, 0 or -errno.
 */
#ifndef ZCFS_RUN_LIST_H
#define ZCFS_RUN_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RUN_HOLE UINT64_MAX

struct run {
	uint64_t lcn;    /* first cluster on the volume, or RUN_HOLE */
	uint64_t length; /* clusters, never 0 */
};

/* A growing array of runs. Zero-initialised is empty; free with run_list_free. */
struct run_list {
	struct run *runs;
	size_t count;
	size_t capacity;
};

void run_list_free(struct run_list *list);
/* Adds a run. -ENOMEM. */
int run_list_push(struct run_list *list, uint64_t lcn, uint64_t length);
/* Adds a run, or extends the last one at index >= from if the new one continues it (both holes, or adjacent clusters).
 */
int run_list_push_merged(struct run_list *list, size_t from, uint64_t lcn, uint64_t length);
/* Sorts by LCN in time linear in the count. -ENOMEM. */
int run_list_sort(struct run_list *list);
/* Joins the adjacent runs of a sorted list without holes. RUN_HOLE; or the first cluster of a run that overlaps the one before it, and
 * the list is of no more use. */
uint64_t run_list_merge(struct run_list *list);

/* Appends the runs encoded in [pairs, pairs + size) to *list, merged among themselves. *vcn_count becomes the number of
 * clusters that they span, holes included. -EUCLEAN: not a run list of a volume of that many clusters; -ENOMEM. */
int mapping_pairs_decode(const uint8_t *pairs, size_t size, uint64_t volume_clusters, struct run_list *list,
                         uint64_t *vcn_count);

/* Bytes that the encoding takes, terminator included. */
size_t mapping_pairs_size(const struct run *runs, size_t count);
/* Encodes as many of the runs as fit into size bytes, and the terminator. Returns how many runs went in; *used is the
 * number of bytes written. */
size_t mapping_pairs_encode(const struct run *runs, size_t count, uint8_t *pairs, size_t size, size_t *used);

/* A seekable view of runs as a stream of clusters: VCN -> LCN in O(log n). Does not own the runs. One that could not be
 * built is empty, and may be freed. */
struct run_index {
	const struct run *runs;
	uint64_t *first_vcn; /* of each run, and one more: the end */
	size_t count;
};
int run_index_build(struct run_index *index, const struct run *runs, size_t count);
void run_index_free(struct run_index *index);
uint64_t run_index_clusters(const struct run_index *index);
/* The run piece that begins at vcn (which is below the end): its LCN or RUN_HOLE, and how many clusters it goes on. */
struct run run_index_lookup(const struct run_index *index, uint64_t vcn);

#endif
