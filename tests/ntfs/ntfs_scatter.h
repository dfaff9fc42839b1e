// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Internals of ntfs-scatter: the volume in memory ($MFT without fixups, both bitmaps), the attributes to be scattered,
 * their pieces, and the rewriting of records. Single-threaded; errors end the program; nothing is written to the
 * image before the new metadata is complete in memory.
 */
#ifndef NTFS_SCATTER_H
#define NTFS_SCATTER_H

#include "ntfs_format.h"

enum what {
	W_DATA = 1,
	W_STREAMS = 2,
	W_DIRS = 4,
	W_MFT = 8,
	W_MFTBMP = 16,
	W_BITMAP = 32,
	W_SECURE = 64,
	W_LISTS = 128,
	W_OTHER = 256,
};

struct options {
	const char *image;
	uint64_t offset, seed, fragments, min_run, max_run, free_pieces, only;
	unsigned what;
	bool poison, quiet;
};

#define NO_ONLY UINT64_MAX

struct piece {
	uint64_t vcn, old_lcn, len;
	uint32_t target;
	uint32_t subs; /* head of its list in struct volume.subs, UINT32_MAX is the end */
};

/* Where (a part of) a piece goes; the parts of a piece are linked in order. */
struct sub {
	uint64_t lcn, len;
	uint32_t next;
};

/* An attribute that is scattered. */
struct target {
	uint64_t base;
	uint32_t type;
	const uint8_t *name; /* UTF-16, in arena memory */
	uint8_t name_len;
	bool multi;                /* the base record has an attribute list */
	uint32_t attr_ofs;         /* in the base record, if not multi */
	uint8_t *header;           /* copy of the first extent's header without name and mapping pairs */
	size_t first_run, nr_runs; /* old runs, in struct volume.runs */
	size_t first_piece, nr_pieces;
	struct ntfs_run *new_runs;
	size_t nr_new;
};

struct vec {
	void *p;
	size_t nr, cap, item;
};

struct volume {
	int fd;
	uint8_t *image; /* the whole file */
	uint64_t image_size, offset;
	struct ntfs_boot boot;
	uint8_t *mft;
	bool *dirty; /* records to write */
	uint64_t nr_recs;
	uint64_t *ext_base; /* sorted pairs: base, extension record */
	size_t nr_ext;
	uint8_t *bitmap, *mft_bitmap;
	uint64_t bitmap_len, mft_bitmap_len;
	struct vec targets, runs, pieces, subs, gaps;
	struct vec mft_runs, bitmap_runs, mft_bitmap_runs; /* as they are on disk now */
	uint64_t next_free_rec, new_records, list_records;
	bool scatter_lists;
	uint64_t rng;
};

static inline bool bit(const uint8_t *bits, uint64_t no)
{
	return bits[no / 8] >> (no % 8) & 1;
}

static inline void put_bit(uint8_t *bits, uint64_t no, bool set)
{
	if (set)
		bits[no / 8] |= (uint8_t)(1u << (no % 8));
	else
		bits[no / 8] &= (uint8_t) ~(1u << (no % 8));
}

/* scatter_volume.c */
_Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void *xalloc(size_t nr, size_t item); /* zeroed */
void *vec_add(struct vec *v, size_t nr);
uint64_t random_next(struct volume *v);
uint64_t random_below(struct volume *v, uint64_t n);
uint8_t *record(struct volume *v, uint64_t no);
uint8_t *cluster(struct volume *v, uint64_t lcn);
/* The attribute of a record, or NULL. Records are consistent: the tool wants a volume that ntfs-check accepts. */
uint8_t *find_attr(uint8_t *r, uint32_t type, uint8_t name_len);
void decode(struct volume *v, const uint8_t *a, struct vec *runs); /* adds the runs of an extent to @runs */
void load_volume(struct volume *v, const struct options *o);
void unload_volume(struct volume *v);
void write_metadata(struct volume *v);
void poison_free(struct volume *v);

/* scatter_choose.c */
void find_targets(struct volume *v, const struct options *o);
void cut_targets(struct volume *v, const struct options *o);
uint64_t pinned(struct volume *v, const struct target *t); /* clusters at the head of a target that stay */

/* scatter_place.c */
void place_pieces(struct volume *v, const struct options *o);
void make_runs(struct volume *v, struct target *t);     /* the new run list of a target */
uint64_t take_cluster(struct volume *v, bool anywhere); /* a free one, marked as used; dies if there is none */
void give_cluster(struct volume *v, uint64_t lcn);

/* scatter_move.c */
void move_clusters(struct volume *v);

/* scatter_records.c */
/* Writes the new runs of all targets of one base record into its records, with an attribute list where it takes one. */
void rewrite_file(struct volume *v, struct target *targets, size_t nr);
/* An upper bound of the new extension records that a target with @nr_runs runs needs. */
uint64_t records_needed(struct volume *v, const struct target *t, size_t nr_runs);

#endif
