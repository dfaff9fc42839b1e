/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * guest_pass: zero-copy defragmentation of the NTFS volumes inside one image that nobody uses.
 *
 * The pass rewrites NTFS run lists and permutes the image map by the same permutation of clusters, so that the actual
 * mapping (file VCN -> host offset) stays what it was; no file data moves. Two processes: a sandboxed child finds the
 * volumes, parses, plans, rewrites in memory, verifies the result through the new map with the changes overlaid, and
 * sends moves and differences; the parent, which parses no guest metadata, validates them against the map's invariants
 * and the volumes' bounds and commits them in one transaction (mapdb/image.h).
 *
 * Refusals and damage are results, not errors: they are in the report. The functions return 0 or -errno for everything
 * that is not about the guest's volumes. They print nothing. A crash leaves the old state or the new one.
 */
#ifndef ZCFS_GUEST_PASS_H
#define ZCFS_GUEST_PASS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "defrag/cluster_map.h"
#include "defrag/selection.h"
#include "mapdb/image.h"

/* The exit codes of zcfs-defrag, by increasing gravity of what they say about a volume. */
enum volume_result {
	VOLUME_DONE = 0,    /* defragmented, or nothing to do */
	VOLUME_SKIPPED,     /* not NTFS, not selected, or in an image that is refused for something else: left alone */
	VOLUME_UNSUPPORTED, /* NTFS, but of a kind that is left alone (version, geometry); others are done. An image of
	                       nothing else is refused. */
	VOLUME_REFUSED,     /* its state forbids any change: the whole image is refused (exit 3) */
	VOLUME_DAMAGED,     /* inconsistent metadata: the whole image is refused (exit 5) */
	VOLUME_FAILED,      /* could not be read, or the result could not be proven: nothing changed (exit 1) */
};

#define REPORT_TEXT_MAX    512
#define REPORT_STAYS_MAX   64 /* reasons kept per volume; stay_count has the total */
#define REPORT_VOLUMES_MAX 256

/* Why something stays in more than one piece. */
struct stay {
	uint64_t record; /* base MFT record */
	uint64_t fragments;
	char path[256]; /* UTF-8, with the stream; "?" and its end if it is longer */
	char reason[160];
};

struct volume_report {
	enum volume_result result;
	unsigned int number;          /* from 1, in the order of the partition table */
	uint64_t off;                 /* bytes from the start of the image */
	uint64_t length;              /* bytes */
	char scheme[8];               /* "mbr", "gpt", "none" */
	char file_system[16];         /* "ntfs", "refs", "bitlocker", ... "unknown" */
	char label[136];              /* UTF-8 volume label, may be empty */
	char cause[REPORT_TEXT_MAX];  /* unless DONE: one line */
	char remedy[REPORT_TEXT_MAX]; /* unless DONE: one line, may be empty */

	uint32_t cluster_size;      /* bytes */
	uint64_t clusters;          /* of the volume */
	uint64_t clusters_free;     /* before the pass */
	uint64_t records_used;      /* MFT records in use */
	uint64_t files;             /* base records in use */
	uint64_t attributes;        /* non-resident attributes (streams, indexes, bitmaps, ...) */
	uint64_t fragmented_before; /* of those, the ones in more than one piece */
	uint64_t fragmented_after;
	uint64_t fragments_before; /* pieces of all of them */
	uint64_t fragments_after;
	uint64_t excess_before; /* pieces beyond the first one of each */
	uint64_t excess_after;
	uint64_t fragmented_files_before; /* files with an attribute in more than one piece */
	uint64_t fragmented_files_after;
	uint64_t selected_attributes; /* of the fragmented ones before, those that the selection is for */
	uint64_t selected_files;
	uint64_t selected_excess;
	uint64_t clusters_mapped;  /* of all attributes */
	uint64_t free_runs_before; /* pieces of free space */
	uint64_t free_runs_after;
	uint64_t largest_free_before; /* clusters */
	uint64_t largest_free_after;
	uint64_t files_mended;      /* all in one piece by the plan, and not before; also after an analysis */
	uint64_t attributes_mended; /* the same of attributes */
	uint64_t attributes_moved;  /* also after an analysis: as planned */
	uint64_t clusters_moved;    /* cluster renamings; no data; also after an analysis: as planned */
	uint64_t records_freed;     /* extension records no longer needed */
	bool laid_out_anew;         /* everything was placed anew, not only the fragmented attributes */
	size_t stay_count;
	struct stay stays[REPORT_STAYS_MAX];
};

/* A volume for who draws it: NULL where it was not looked at; after: NULL also if nothing moves. */
struct volume_picture {
	struct cluster_map *before, *after;
};

enum pass_phase {
	PHASE_READ,
	PHASE_SCAN,
	PHASE_PLAN,
	PHASE_REWRITE,
	PHASE_VERIFY,
	PHASE_COMMIT,
	PHASE_APPLY,
	PHASE_COUNT
};
const char *pass_phase_name(enum pass_phase phase);

#define REPORT_NO_FILE SIZE_MAX

struct pass_report {
	size_t volume_count;
	struct volume_report *volumes; /* malloc'ed, freed by pass_report_free */
	char cause[REPORT_TEXT_MAX]; /* about the image as a whole (dynamic disk, damaged partition table), or empty */
	char remedy[REPORT_TEXT_MAX];
	enum volume_result result; /* the gravest of all volumes and of the image as a whole; unless DONE, no volume is
	                              DONE, and there are no figures of a change */
	size_t missing_file;     /* index of the first of the selection's files that no volume has; or REPORT_NO_FILE */
	bool changed;            /* a change was committed */
	bool redo_pending;       /* committed, but the last step could not be done: the next open does it */
	uint64_t extents_before; /* of the image map */
	bool cost_known;         /* the next three are what the pass has taken, or will take if nothing changes before
	                            it; false: an analysis that did not ask, or of what would be refused */
	uint64_t extents_after;
	uint64_t metadata_bytes;    /* of the guest that change */
	uint64_t redo_bytes;        /* the same as redo, in the map database until it was applied */
	uint64_t data_bytes_copied; /* always 0: it is reported because it is the point */
	uint64_t child_peak_kib;    /* peak resident memory of the child */
	double phase_seconds[PHASE_COUNT];

	/* What nobody uses, if asked for and the result is VOLUME_DONE: ascending, apart, inside the volumes. */
	struct guest_range *free;
	size_t free_count;

	/* For who draws it, if asked for; else NULL. */
	struct volume_picture *pictures;          /* of each volume */
	struct image_map *map_before, *map_after; /* references; after: NULL if nothing moves */
};
void pass_report_free(struct pass_report *report); /* frees what it points to, not the struct */

/* Whose one byte of the guest's disk is. */
enum owner_kind {
	OWNER_UNKNOWN, /* in no volume, or in one that could not be looked at: its report says why */
	OWNER_FREE,    /* by $Bitmap */
	OWNER_NOBODY,  /* marked in $Bitmap, but no file's */
	OWNER_BEYOND,  /* behind the volume's last cluster, where NTFS keeps the copy of its boot sector */
	OWNER_STREAM,  /* an attribute's */
};

struct owner_query {
	uint64_t guest_off; /* in: bytes */
	enum owner_kind kind;
	unsigned int volume;   /* unless UNKNOWN */
	uint64_t record, vcn;  /* STREAM: base MFT record; which cluster of the attribute's */
	const char *attribute; /* STREAM: "$DATA" ... */
	char *path; /* STREAM: as Windows shows it, with the stream's name behind it; UTF-8. malloc'ed, the caller's */
};

/* An attribute in more than one piece. Texts are UTF-8, the guest's, and valid during the call. */
struct fragmented {
	unsigned int volume;
	uint64_t record;     /* base MFT record */
	const char *path;    /* "\Users\x\big.vhd" */
	const char *stream;  /* what Windows appends: mostly empty; ":Zone.Identifier", ":$I30:$INDEX_ALLOCATION" */
	uint64_t data_bytes; /* its length */
	uint64_t bytes;      /* of its clusters */
	uint64_t fragments_before; /* now, and by the plan */
	uint64_t fragments_after;
	const char *reason; /* why that is more than one, if anything is known; else empty */
};

/* Of the files, when a volume is packed; system files and directories lie before them in any case. */
enum pack_order { ORDER_MFT, ORDER_PATH, ORDER_SIZE, ORDER_CREATED, ORDER_MODIFIED, ORDER_ACCESSED };

struct pass_options {
	bool analyze;   /* scan and plan only; allowed on an image opened IMAGE_UNLOCKED */
	bool cost;      /* with analyze, of an image that nobody writes to: rewrite too, for what that will take */
	bool in_use;    /* with analyze: it may change meanwhile; what looks like damage of a volume is a refusal */
	bool dry_run;   /* plan, rewrite and verify as for real, commit nothing */
	bool find_free; /* scan, and prove what is free; nothing is planned or changed, but refused as for a change */
	bool pack;      /* lay everything out anew: directories and metadata first, one free extent at the end */
	enum pack_order order; /* with pack */
	bool descending;       /* the last of that order first */
	bool verify_data;      /* read and compare the ends of every moved stream, not only of a few hundred */
	bool cluster_maps;     /* fill in the pictures */
	unsigned int volume;   /* 0: all */
	const struct selection *selection; /* what to make contiguous; the rest stays as it is. NULL: everything */
	const char *options_text;          /* for the history; may be NULL */
	struct owner_query *owners;        /* with analyze: what else is asked; may be NULL */
	size_t owner_count;
	/* Called from the calling thread, often; done and total in units of the phase. NULL: none.
	 * Returning non-zero stops the pass: nothing changed, -ECANCELED. */
	int (*progress)(void *context, unsigned int volume, enum pass_phase phase, uint64_t done, uint64_t total);
	void *progress_context;
	/* Called from the calling thread for at most fragmented_max fragmented attributes of each volume, those in most
	 * pieces first, as soon as there is a plan. NULL: none. Non-zero (-errno) stops the pass; nothing is changed
	 * then. */
	int (*fragmented)(void *context, const struct fragmented *fragmented);
	void *fragmented_context;
	uint64_t fragmented_max;
};

/* One pass over an open image. For anything but analyze, dry_run and find_free the image is open IMAGE_EXCLUSIVE and
 * not read-only. The report is filled in as far as the pass came, also when the result is an error. -ECHILD: the child
 * died or sent something that breaks an invariant (nothing changed); -ENOMEM, -ETIME: it was refused more memory or
 * time (nothing changed); -EBUSY: somebody opened the image meanwhile (nothing changed); -ENOENT: one of the selected
 * files is nowhere, see the report (nothing changed); -ENOSPC; -ECANCELED; -EINPROGRESS: the host has failed, and it
 * cannot be found out whether the change was committed; what else image_begin/commit return. */
int guest_pass_run(struct image *image, const struct pass_options *options, struct pass_report *report);

#endif
