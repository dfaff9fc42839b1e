/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * sandbox: what is left to the process that parses the guest's metadata: its memory, reading the data file, writing to
 * one pipe.
 */
#ifndef ZCFS_SANDBOX_H
#define ZCFS_SANDBOX_H

/* Takes everything else from the calling process, for good: no new files, no sockets, no other processes; write() only
 * to write_fd, pwrite() and ftruncate() only to scratch_fd (a file in memory). System calls that are not allowed fail
 * with EPERM. 0 or -errno. */
int sandbox_enter(int write_fd, int scratch_fd);

#endif
