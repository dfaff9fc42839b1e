/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * scramble: makes a bundle of an image whose map is not trivial.
 */
#ifndef ZCFS_TESTS_SCRAMBLE_H
#define ZCFS_TESTS_SCRAMBLE_H

#include <stdint.h>

/* Exchanges pieces of unit bytes of the first size bytes of a.img, which nobody has open, in the guest's view; shifted
 * by whole sectors as partitions of Windows XP are. At least one moves if there are two. */
void scramble(int dir_fd, uint64_t size, uint64_t unit, uint64_t shift);

#endif
