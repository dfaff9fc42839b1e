/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * preflight: may this volume be changed at all? Dirty flag, log, hibernation, shadow copies, version.
 *
 * Uses libntfs-3g on a device of our own that reads through a view and refuses every write, so it also serves as a
 * second opinion: a volume that libntfs-3g cannot open is not touched, and a result that it cannot open is not
 * committed.
 */
#ifndef ZCFS_PREFLIGHT_H
#define ZCFS_PREFLIGHT_H

#include "defrag/guest_pass.h"
#include "defrag/view.h"

/* Of a volume whose boot sector can be used; if it is refused already, only the label is looked for. 0 and the report's
 * result (VOLUME_DONE: go on; label filled in if the volume can be opened); -errno only for what is not about the
 * volume. Opening fails with VOLUME_DAMAGED and what libntfs-3g says of it. *hiberfil becomes the MFT record of the
 * file that says whether Windows is hibernated, or 0 if there was none to be found: the scan, which does not need the
 * directory's index, may know better. */
int preflight_check(struct view *view, struct volume_report *report, uint64_t *hiberfil);

/* Whether libntfs-3g finds all clusters of the runs free by $Bitmap, which it reads by itself. 1: not; 0; -errno. */
int preflight_are_free(struct view *view, const struct run_list *runs);

/* Opens and closes the volume: 0, or -errno as libntfs-3g says. */
int preflight_can_mount(struct view *view);

#endif
