/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * sandbox: what is left to the process that parses the guest's metadata: its memory, reading the data file, writing to
 * one pipe and to one file in memory.
 *
 * Two walls, each of which is meant to hold alone. The first is rights: descriptors closed, no capabilities and no way
 * to gain privileges, Landlock where the kernel has it (since 5.13), limits of memory and time. The second is the system
 * calls, by a seccomp filter: those that are not allowed fail with EPERM.
 *
 * Under valgrind a pass fails: the filter hits valgrind's own calls, too, and it needs its descriptors. What runs in the
 * sandbox runs without one in tests/fuzz.
 */
#ifndef ZCFS_SANDBOX_H
#define ZCFS_SANDBOX_H

#include <stdint.h>

struct sandbox {
	int read_fd;    /* the data file: not written, although its descriptor may allow it */
	int write_fd;   /* the pipe to the parent */
	int scratch_fd; /* a file in memory, see memfd_create(2) */
	/* More than it has already. Whoever takes more gets ENOMEM; what the scratch file takes is not counted, that is the
	 * parent's to watch. */
	uint64_t memory_bytes;
	unsigned int cpu_seconds; /* then SIGXCPU ends the process */
};

/* Takes everything else from the calling process, for good. It has one thread. 0 or -errno; after an error part of it
 * may be gone: the process should end. */
int sandbox_enter(const struct sandbox *sandbox);

/* The two walls, for the test that tries each. */
int sandbox_drop_rights(const struct sandbox *sandbox);
int sandbox_filter_calls(const struct sandbox *sandbox);

#endif
