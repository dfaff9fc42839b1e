/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * child_says: what an honest child of a guest pass would say of an image with one volume, to be put together otherwise.
 */
#ifndef ZCFS_CHILD_SAYS_H
#define ZCFS_CHILD_SAYS_H

#include "defrag/message.h"

#define IMAGE_SIZE (4u << 20)
#define VOLUME_OFF (63u * 512)
#define VOLUME_END (3u << 20)
#define CLUSTERS   ((VOLUME_END - VOLUME_OFF) / 512)

extern struct message_writer child_writer; /* to the parent */

void tell(enum message_type type, const void *payload, size_t size);
void tell_raw(const void *bytes, size_t size);
struct volume_report volume(void);
void tell_volume(void);
void tell_moves(uint64_t new_1, uint64_t old_1, uint64_t length_1, uint64_t new_2, uint64_t old_2, uint64_t length_2);
void tell_exchange(void);
void tell_redo(uint64_t host_off, size_t length);
void tell_entry(uint64_t host_off, uint32_t length, uint32_t fill);
void tell_cluster_map(void);
void tell_end(void);
void honest(void);

#endif
