/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * scan: everything about a volume that a defragmentation must know, from one pass over $MFT, checked as chkdsk would.
 *
 * The scan reads $MFT in large pieces, collects the runs of every non-resident attribute, and refuses (as damage) what
 * it cannot prove consistent: fixups, record headers, attribute lists, VCN borders, sizes, ownership of every cluster,
 * $Bitmap, $MFTMirr. It keeps 56 bytes an attribute and 16 a run; memory and time follow the number of records and
 * runs, never the volume's size. A fingerprint of each file covers all that a pass must not change.
 *
 * Functions return 0, -errno, or 1: the report says what is wrong with the volume.
 */
#ifndef ZCFS_SCAN_H
#define ZCFS_SCAN_H

#include <stddef.h>
#include <stdint.h>

#include "defrag/attr_list.h"
#include "defrag/boot.h"
#include "defrag/names.h"
#include "defrag/record.h"
#include "defrag/run_list.h"
#include "defrag/view.h"

#define RESERVED_RECORDS 24u /* NTFS keeps these for itself; their flags and bitmap bits may disagree */
#define HIBERFIL_SEVERAL UINT64_MAX

/* One non-resident attribute, or one extent of it (the part of its run list that one MFT record holds). */
struct attr {
	uint32_t record; /* that holds it */
	uint32_t base;   /* base record of the file */
	uint32_t type;
	uint32_t run_count;
	size_t first_run; /* in scan.runs */
	uint64_t name_hash;
	uint64_t lowest_vcn;
	uint64_t allocated_vcns; /* clusters by its allocated size; only where lowest_vcn is 0 */
	uint16_t instance;
	uint16_t flags;
	uint16_t room; /* bytes that its run list may take in its record, whatever happens to the record's other
	                  attributes */
	uint8_t compression_unit; /* as in the attribute: 0 or the binary logarithm of its clusters */
};

enum record_kind {
	RECORD_USED = 1,
	RECORD_EXTENSION = 2,
	RECORD_HAS_LIST = 4, /* a base record with an $ATTRIBUTE_LIST */
	RECORD_DIRECTORY = 8,
	RECORD_BOOT_FILE = 16,  /* something a boot loader may find by its place */
	RECORD_LISTED = 32,     /* an attribute list names this record */
	RECORD_SHADOWS = 64,    /* the catalog of shadow copies, or a store of theirs: found by its place */
	RECORD_BOOT_DATA = 128, /* by its name: what a boot loader reads by its path */
};

struct scan {
	struct view *view;
	struct geometry geometry;

	struct run_list mft_runs;
	struct run_index mft;
	uint64_t record_count; /* initialised records of $MFT, used or not */
	uint8_t *kind;         /* of each record, enum record_kind */
	uint8_t *attr_counts;  /* attributes in each record */
	uint16_t *sequence;    /* of each record */
	uint64_t *fingerprint; /* of each file, at its base record */

	struct attr *attrs; /* by base, type, name, lowest VCN */
	size_t attr_count, attr_capacity;
	struct run_list runs;

	uint8_t *mft_bitmap;      /* contents of $MFT:$BITMAP, one bit for each of the records */
	uint64_t mft_bitmap_size; /* bytes that it has */
	bool mft_bitmap_seen, mft_bitmap_resident;
	uint64_t bitmap_size; /* bytes that $Bitmap has */

	struct run_list free; /* sorted; by $Bitmap */
	struct run_list lost; /* marked in $Bitmap but nobody's: something may know them, they stay */
	uint64_t clusters_free;

	uint64_t hiberfil; /* base record of the root directory's hiberfil.sys; 0: none; HIBERFIL_SEVERAL */
	struct name_table names;
	uint64_t records_used, files;
};

/* Called now and then; non-zero stops the scan with -ECANCELED. */
typedef int (*scan_progress)(void *context, uint64_t done, uint64_t total);

int scan_volume(struct view *view, const struct geometry *geometry, struct volume_report *report,
                scan_progress progress, void *context, struct scan **out);
void scan_free(struct scan *scan);

/* A stream: all extents of one attribute (one base, type, name). They are neighbours in scan.attrs.
 * Returns the index behind the stream that begins at first. */
size_t scan_stream_end(const struct scan *scan, size_t first);
/* In how many pieces its clusters lie; a hole between two adjacent ones separates nothing. */
uint64_t scan_stream_pieces(const struct scan *scan, size_t first, size_t end);

/* Appends the runs of the stream of that base record and type that has no name. -ENOENT: there is none; -ENOMEM. */
int scan_stream_runs(const struct scan *scan, uint32_t base, uint32_t type, struct run_list *runs);

/* Reads one MFT record, unprotected and checked. 0, -errno, -EUCLEAN. */
int scan_read_record(const struct scan *scan, uint64_t number, uint8_t *record);

/* Reads the attribute list of a base record (in memory) that has one. *attr becomes the list's attribute. */
int scan_read_list(struct view *view, const struct geometry *geometry, uint8_t *record, ATTR_RECORD **attr,
                   struct attr_list *list);

/* Finds an attribute in a record by what an attribute list says of it. NULL if it is not there. */
ATTR_RECORD *record_find_entry(uint8_t *record, const struct list_entry *entry);
/* The same by what a scan has found. */
ATTR_RECORD *record_find_attr(uint8_t *record, const struct attr *attr);

#endif
