/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * ring_place: on which processors the thread of a ring may run.
 *
 * libfuse binds it to the processor whose requests come by its ring. For clients that wait for each answer this is
 * best if they are answered at once: no idle processor has to be woken up. But
 *
 *   - a client with many requests on their way could go on with others while some are handled, and cannot while that is
 *     done on its processor;
 *   - where most requests are for the disk, its interrupts may come to another processor.
 *
 * So then the thread may run wherever a processor is idle, until it is not so any more, or all are busy. Where the kernel
 * does not tell how many are busy it stays.
 *
 * But for the first, all of it is of the thread that calls.
 */
#ifndef ZCFS_RING_PLACE_H
#define ZCFS_RING_PLACE_H

/* processors: how many threads can run at a time. Before the first request. */
void ring_places_init(unsigned int processors);

/* A ring's thread handles a read or a write. */
void ring_place_request(void);
/* For that it starts I/O and does not wait for it. */
void ring_place_transfer(void);
/* It has nothing more to handle, and waits now. */
void ring_place_wait(void);

#endif
