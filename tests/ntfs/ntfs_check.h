// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Internals of ntfs-check: what the first pass over $MFT collects, and the checks that follow it.
 *
 * The first pass streams $MFT once and keeps flat arrays: a few bytes a record, one struct extent for each
 * non-resident attribute record, its runs, and copies of the few resident values that later checks need. Everything
 * after works on these and reads only index blocks, attribute lists and bitmaps. Findings are printed as they are
 * made. Single-threaded; memory is bounded by the size of $MFT, never by the volume.
 */
#ifndef NTFS_CHECK_H
#define NTFS_CHECK_H

#include "ntfs_format.h"

enum record_state {
	RS_NONE, /* no FILE signature */
	RS_TORN, /* fixups do not match */
	RS_FREE, /* not in use */
	RS_BASE, /* in use */
	RS_EXTENSION,
};

struct record {
	uint64_t base_ref;
	uint64_t parent; /* of one of its names */
	uint32_t security_id;
	uint16_t seq, links, names, dos_names;
	uint8_t state;
	bool directory : 1, view_index : 1, has_list : 1, has_root : 1, has_si : 1, referenced : 1, has_data : 1;
	bool has_object_id : 1, has_reparse : 1, id_indexed : 1, reparse_indexed : 1;
};

/* One non-resident attribute record. */
struct extent {
	uint64_t base, rec;
	uint32_t type, name;
	uint16_t flags, instance;
	uint8_t unit;
	int64_t lowest, highest;
	uint64_t alloc, data, init, comp; /* valid if lowest is 0 */
	size_t first_run, nr_runs;
	bool broken; /* already reported: do not report what follows from it */
};

/* All extents of one attribute: order[first .. first + nr). */
struct group {
	uint64_t base;
	uint32_t type, name;
	size_t first, nr;
};

/* An attribute record which an attribute list must name (of base records with a list, and of extension records). */
struct listed {
	uint64_t base, rec;
	uint32_t type, name;
	int64_t lowest;
	uint16_t instance;
	bool seen;
};

/* A resident value kept for later: $INDEX_ROOT, $BITMAP, $ATTRIBUTE_LIST, $VOLUME_INFORMATION. */
struct value {
	uint64_t base;
	uint32_t type, name;
	size_t pos, len; /* in the pool */
};

/* An entry of an index that is no directory: what fits of its key and its data. */
struct view {
	uint64_t base;
	uint32_t name, key_len, data_len;
	uint8_t key[16], data[20];
};

struct name {
	size_t pos;
	uint32_t len; /* UTF-16 units */
};

struct file_name {
	uint64_t hash;
	uint64_t rec; /* top bit: found in its directory */
};

struct vec {
	void *p;
	size_t nr, cap, item;
};

struct check {
	int fd;
	uint64_t offset, image_size;
	struct ntfs_boot boot;
	bool json, quiet_stdout;
	size_t errors, warnings, max_findings, printed;
	struct record *recs;
	uint64_t nr_recs;
	uint64_t cur; /* record being parsed, or whose index is being walked */
	struct vec extents, runs, values, listed, names, pool, views;
	uint32_t *name_table; /* interning */
	size_t name_slots;
	struct group *groups;
	size_t nr_groups;
	uint32_t *order;
	struct file_name *fns;
	size_t fn_slots, nr_fns;
	uint16_t *upcase;
	struct vec mft_runs;
};

#define NO_RECORD UINT64_MAX

/* ntfs_check.c */
void finding(struct check *c, uint64_t rec, const char *kind, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));
void warning(struct check *c, uint64_t rec, const char *kind, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));
_Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void *xrealloc(void *p, size_t nr, size_t item);
void *vec_add(struct vec *v, size_t nr); /* room for @nr more items; aborts the program without memory */
bool read_volume(struct check *c, uint64_t pos, void *buf, size_t len); /* false: beyond the end of the volume */
bool read_runs(struct check *c, const struct ntfs_run *runs, size_t nr, uint64_t pos, void *buf, size_t len);
const char *attr_label(struct check *c, uint32_t type, uint32_t name); /* static buffer */
char *name_text(struct check *c, uint32_t name, char *out, size_t size);

/* check_record.c: the first pass, one record at a time. @buf is as on disk and is changed. */
void check_record(struct check *c, uint64_t no, uint8_t *buf);
uint32_t intern_name(struct check *c, const uint8_t *utf16, uint32_t len);
uint64_t file_name_hash(uint64_t rec, const uint8_t *fn);
struct file_name *file_name_find(struct check *c, uint64_t hash, uint64_t rec);
int compare_names(struct check *c, const uint8_t *a, uint32_t alen, const uint8_t *b, uint32_t blen);

/* check_runs.c: attributes as wholes, cluster ownership, the two bitmaps. */
void build_groups(struct check *c);
struct group *find_group(struct check *c, uint64_t base, uint32_t type, uint32_t name);
struct value *find_value(struct check *c, uint64_t base, uint32_t type, uint32_t name);
struct extent *group_extent(struct check *c, const struct group *g, size_t i);
uint64_t group_clusters(struct check *c, const struct group *g);
bool read_group(struct check *c, const struct group *g, uint64_t pos, void *buf, size_t len);
void *load_attribute(struct check *c, uint64_t base, uint32_t type, uint32_t name, uint64_t max, uint64_t *len);
void check_groups(struct check *c);
void check_ownership(struct check *c);
void check_mft_bitmap(struct check *c);
void print_fragments(struct check *c);
void print_extents(struct check *c);

/* check_state.c */
void check_mirror(struct check *c);
void check_volume_info(struct check *c);
void check_logfile(struct check *c);

/* check_list.c */
void check_attribute_lists(struct check *c);

/* check_index.c */
void check_indexes(struct check *c);
void check_names_indexed(struct check *c);

/* check_view.c: what the other indexes say; after check_indexes */
void note_view_entry(struct check *c, uint64_t base, uint32_t name, const uint8_t *e);
void check_views(struct check *c);

#endif
