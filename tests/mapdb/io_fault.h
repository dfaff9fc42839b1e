/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * io_fault: a struct io that passes every call on to another one, except that the k-th fails. Counted are all calls but close.
 */
#ifndef ZCFS_TESTS_IO_FAULT_H
#define ZCFS_TESTS_IO_FAULT_H

#include <stdbool.h>

#include "mapdb/io.h"

enum fault_mode {
	FAULT_ONCE,  /* the k-th call fails, the others work */
	FAULT_DEAD,  /* so does every later one: a dead disk, or the process was killed there */
	FAULT_SHORT, /* the k-th call, if it is a write, writes half of what it should and says so; the next write fails */
};

struct io_fault {
	struct io io; /* first: a struct io is a struct io_fault */
	const struct io *base;
	size_t countdown; /* calls that still work */
	enum fault_mode mode;
	int error;    /* errno that is injected */
	bool happened; /* the k-th call has come */
};

/* k counts from 0. */
void io_fault_init(struct io_fault *fault, const struct io *base, size_t k, enum fault_mode mode, int error);

#endif
