/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * boot: the boot sector of an NTFS volume, and what else can be told from the first sectors of a partition.
 *
 * Source of the format: ntfs-3g's layout.h and bootsect.c; signatures of other systems as their boot sectors show them.
 */
#ifndef ZCFS_BOOT_H
#define ZCFS_BOOT_H

#include <stdbool.h>
#include <stdint.h>

#include "defrag/guest_pass.h"
#include "defrag/view.h"

struct geometry {
	uint32_t sector_size;  /* bytes */
	uint32_t cluster_size; /* bytes */
	uint32_t record_size;  /* of an MFT record, bytes */
	uint64_t sectors;      /* of the volume, without the backup boot sector */
	uint64_t clusters;     /* whole clusters; the sectors left over are no cluster */
	uint64_t mft_lcn;
	uint64_t mirror_lcn;
};

/* Looks at the boot sector and its backup. Returns 0 or -errno for what is not about the volume's state; else fills in
 * report's result, file_system, cause and remedy. VOLUME_DONE means: NTFS that can be looked at further, *geometry is
 * valid. */
int boot_read(struct view *view, struct geometry *geometry, struct volume_report *report);

#define REMEDY_CHKDSK "run chkdsk /f on it in the guest, then shut the guest down fully and try again"

/* Fills in the three of a report that belong together. cause is a printf format. */
void report_result(struct volume_report *report, enum volume_result result, const char *remedy, const char *cause, ...)
        __attribute__((format(printf, 4, 5)));

/* Says what is damaged; 1, as the functions of a scan return then. */
#define report_damage(report, ...) (report_result((report), VOLUME_DAMAGED, REMEDY_CHKDSK, __VA_ARGS__), 1)

#endif
