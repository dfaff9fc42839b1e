/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * memory_fault: SQLite gets no memory when it asks for the k-th time. One thread only.
 */
#ifndef ZCFS_TESTS_MEMORY_FAULT_H
#define ZCFS_TESTS_MEMORY_FAULT_H

#include <stdbool.h>
#include <stddef.h>

/* Before SQLite is first used. */
void memory_fault_install(void);
/* k counts from 0. ever: nor does it get any later. */
void memory_fault_begin(size_t k, bool ever);
/* From now on there is memory. Whether the k-th request has come. */
bool memory_fault_end(void);

#endif
