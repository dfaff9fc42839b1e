/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * settle: the settle pass (mapdb/settle.h) over an image that is served, while its guest goes on.
 *
 * A tool asks for it step by step, with an ioctl on the image (mapdb/settle_ioctl.h). Each step has a thread of its own,
 * which holds image->change for as long as the step takes: nobody else changes the map meanwhile. Who wants to (a guest that
 * truncates, say) makes the step end at the next piece.
 */
#ifndef ZCFS_SETTLE_FS_H
#define ZCFS_SETTLE_FS_H

/* What is kept of a pass between its steps; under image->change. */
struct settle_session;
void settle_session_free(struct settle_session *session); /* NULL is allowed */

/* Ends all steps soon, waits for them, and lets nobody begin another. */
void settle_stop(void);

#endif
