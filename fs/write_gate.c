/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/write_gate.h"

void write_gate_init(struct write_gate *gate)
{
	atomic_init(&gate->writes, 0);
	pthread_mutex_init(&gate->lock, NULL);
	pthread_cond_init(&gate->no_direct, NULL);
}

void write_gate_destroy(struct write_gate *gate)
{
	pthread_mutex_destroy(&gate->lock);
	pthread_cond_destroy(&gate->no_direct);
}

static bool has_direct(uint64_t writes)
{
	return writes % WRITE_GATE_CACHED > 0;
}

static bool has_cached(uint64_t writes)
{
	return writes >= WRITE_GATE_CACHED;
}

bool write_gate_begin_direct(struct write_gate *gate)
{
	uint64_t writes = atomic_load(&gate->writes);

	while (!has_cached(writes))
		if (atomic_compare_exchange_weak(&gate->writes, &writes, writes + 1))
			return true;
	return false;
}

void write_gate_end_direct(struct write_gate *gate)
{
	uint64_t writes = atomic_fetch_sub(&gate->writes, 1) - 1;

	if (has_direct(writes) || !has_cached(writes))
		return;
	pthread_mutex_lock(&gate->lock);
	pthread_cond_broadcast(&gate->no_direct);
	pthread_mutex_unlock(&gate->lock);
}

bool write_gate_begin_cached_now(struct write_gate *gate)
{
	uint64_t writes = atomic_load(&gate->writes);

	while (!has_direct(writes))
		if (atomic_compare_exchange_weak(&gate->writes, &writes, writes + WRITE_GATE_CACHED))
			return true;
	return false;
}

void write_gate_begin_cached(struct write_gate *gate)
{
	if (!has_direct(atomic_fetch_add(&gate->writes, WRITE_GATE_CACHED)))
		return;
	pthread_mutex_lock(&gate->lock);
	while (has_direct(atomic_load(&gate->writes)))
		pthread_cond_wait(&gate->no_direct, &gate->lock);
	pthread_mutex_unlock(&gate->lock);
}

void write_gate_end_cached(struct write_gate *gate)
{
	atomic_fetch_sub(&gate->writes, WRITE_GATE_CACHED);
}
