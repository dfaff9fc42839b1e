/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The inode number that a mount of zcfs shows. The mount is one device, but other file systems may be mounted in its
 * store, and their numbers begin again at the same place: with two files of one number, cp says that they are the same,
 * tar makes them hard links, and find takes a directory for one that it is in. So the upper half of what is on another
 * device than the store itself is mixed with that device. The lower half stays, and so do the bits by which fs/control.c
 * knows its own numbers.
 */
#ifndef ZCFS_SHOWN_INODE_H
#define ZCFS_SHOWN_INODE_H

#include <stdint.h>
#include <sys/stat.h>

#define SHOWN_INODE_KEPT UINT32_MAX

static inline ino_t shown_inode(const struct stat *status, dev_t store_dev)
{
	/* Any two small numbers differ in the upper bits of their products. */
	const uint64_t golden_ratio = UINT64_C(0x9e3779b97f4a7c15);
	uint64_t mixed = (status->st_dev * golden_ratio) >> 3;

	return status->st_dev == store_dev ? status->st_ino : status->st_ino ^ (mixed & ~(uint64_t)SHOWN_INODE_KEPT);
}

#endif
