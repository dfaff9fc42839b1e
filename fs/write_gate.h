/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * write_gate: sees to it that of two kinds of writes to one file only one is on its way at a time: those through the
 * host's page cache, and those past it.
 *
 * The kernel does not order them. A write past the cache that meets one through it in the same page, perhaps of other
 * sectors, may be lost: the page was read before it and is written back after it. Apart from each other they are
 * coherent: a direct write has the cache write out the page first and then forget it.
 *
 * Any number of one kind may be on their way. Direct writes never wait: while there is a cached one they go through the
 * cache, too. Cached writes wait for the direct ones that are there already; no new ones come in meanwhile.
 */
#ifndef ZCFS_WRITE_GATE_H
#define ZCFS_WRITE_GATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct write_gate {
	_Atomic(uint64_t) writes; /* direct ones; and, times WRITE_GATE_CACHED, cached ones, also those that wait */
	pthread_mutex_t lock;
	pthread_cond_t no_direct;
};
#define WRITE_GATE_CACHED (UINT64_C(1) << 32)

void write_gate_init(struct write_gate *gate);
void write_gate_destroy(struct write_gate *gate);

/* False: the write must go through the cache. May be ended by another thread. */
bool write_gate_begin_direct(struct write_gate *gate);
void write_gate_end_direct(struct write_gate *gate);

/* The latter waits, for the disk only; the former returns false instead. */
bool write_gate_begin_cached_now(struct write_gate *gate);
void write_gate_begin_cached(struct write_gate *gate);
void write_gate_end_cached(struct write_gate *gate);

#endif
