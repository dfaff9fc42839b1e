/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * privileges: what a daemon that was started by root keeps of root's once it has mounted.
 */
#ifndef ZCFS_PRIVILEGES_H
#define ZCFS_PRIVILEGES_H

/* Gives up, for good, all capabilities that serving does not use, and whatever an executed program could bring. Of the
 * calling thread and those that it starts: call it before there are others. Without privileges there is nothing to give
 * up, and fusermount3, which unmounts for ordinary users, must be able to bring some. 0 or -errno. */
int privileges_reduce(void);

#endif
