/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/mirror.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct mirror {
	pthread_mutex_t lock; /* held for a few instructions */
	pthread_cond_t released;
	struct mirror_hold *held;
	struct mirror_hold copy; /* the piece that is being copied; start == end: none */
	bool copy_holds;         /* it is in the list of those who hold */
	bool copy_written;
	bool must_succeed;
	int error; /* of the first change that the new place has not followed */
	size_t count;
	struct extent windows[];
};

struct mirror *mirror_new(const struct extent *windows, size_t count)
{
	struct mirror *mirror = calloc(1, sizeof(*mirror) + count * sizeof(*windows));

	if (!mirror)
		return NULL;
	pthread_mutex_init(&mirror->lock, NULL);
	pthread_cond_init(&mirror->released, NULL);
	mirror->count = count;
	memcpy(mirror->windows, windows, count * sizeof(*windows));
	return mirror;
}

void mirror_free(struct mirror *mirror)
{
	if (!mirror)
		return;
	pthread_mutex_destroy(&mirror->lock);
	pthread_cond_destroy(&mirror->released);
	free(mirror);
}

/* The first window that ends past guest_off. */
static size_t find_window(const struct mirror *mirror, uint64_t guest_off)
{
	size_t low = 0, high = mirror->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (mirror->windows[middle].guest_off + mirror->windows[middle].length <= guest_off)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

bool mirror_covers(const struct mirror *mirror, uint64_t guest_off, uint64_t length)
{
	size_t i = find_window(mirror, guest_off);

	return i < mirror->count && mirror->windows[i].guest_off < guest_off + length;
}

static bool overlap(const struct mirror_hold *a, const struct mirror_hold *b)
{
	return a->start < b->end && b->start < a->end;
}

/* Under the lock, which it gives up while it waits. */
static void take(struct mirror *mirror, struct mirror_hold *hold)
{
	const struct mirror_hold *other = mirror->held;

	while (other) {
		if (overlap(other, hold)) {
			pthread_cond_wait(&mirror->released, &mirror->lock);
			other = mirror->held;
		} else {
			other = other->next;
		}
	}
	hold->next = mirror->held;
	mirror->held = hold;
}

static void give(struct mirror *mirror, struct mirror_hold *hold)
{
	struct mirror_hold **link = &mirror->held;

	while (*link != hold)
		link = &(*link)->next;
	*link = hold->next;
	pthread_cond_broadcast(&mirror->released);
}

static bool others_hold(const struct mirror *mirror, const struct mirror_hold *hold)
{
	for (const struct mirror_hold *other = mirror->held; other; other = other->next)
		if (other != hold && overlap(other, hold))
			return true;
	return false;
}

/* As take(), but nobody new gets in before it, so it waits for those only who are there already, however many come. */
static void take_next(struct mirror *mirror, struct mirror_hold *hold)
{
	hold->next = mirror->held;
	mirror->held = hold;
	while (others_hold(mirror, hold))
		pthread_cond_wait(&mirror->released, &mirror->lock);
}

void mirror_hold(struct mirror *mirror, struct mirror_hold *hold, uint64_t guest_off, uint64_t length)
{
	*hold = (struct mirror_hold){.start = guest_off, .end = guest_off + length};
	pthread_mutex_lock(&mirror->lock);
	take(mirror, hold);
	if (!mirror->copy_holds && overlap(&mirror->copy, hold))
		mirror->copy_written = true;
	pthread_mutex_unlock(&mirror->lock);
}

void mirror_release(struct mirror *mirror, struct mirror_hold *hold)
{
	pthread_mutex_lock(&mirror->lock);
	give(mirror, hold);
	pthread_mutex_unlock(&mirror->lock);
}

void mirror_fail(struct mirror *mirror, int error)
{
	pthread_mutex_lock(&mirror->lock);
	if (mirror->error == 0)
		mirror->error = error;
	pthread_mutex_unlock(&mirror->lock);
}

int mirror_repeat(struct mirror *mirror, const struct mirror_hold *hold,
                  int (*change)(void *context, uint64_t guest_off, uint64_t host_off, uint64_t length), void *context)
{
	bool must_succeed;
	int ret = 0;

	for (size_t i = find_window(mirror, hold->start); i < mirror->count && ret == 0; i++) {
		const struct extent *window = &mirror->windows[i];
		uint64_t start = window->guest_off, end = start + window->length;

		if (start >= hold->end)
			break;
		start = start > hold->start ? start : hold->start;
		end = end < hold->end ? end : hold->end;
		ret = change(context, start, window->host_off + (start - window->guest_off), end - start);
	}
	if (ret == 0)
		return 0;
	mirror_fail(mirror, ret);
	pthread_mutex_lock(&mirror->lock);
	must_succeed = mirror->must_succeed;
	pthread_mutex_unlock(&mirror->lock);
	return must_succeed ? ret : 0;
}

void mirror_copy_begin(struct mirror *mirror, uint64_t guest_off, uint64_t length, bool exclusive)
{
	pthread_mutex_lock(&mirror->lock);
	mirror->copy = (struct mirror_hold){.start = guest_off, .end = guest_off + length};
	mirror->copy_written = false;
	/* Either way those who are writing to it now come to an end first. */
	mirror->copy_holds = true;
	take_next(mirror, &mirror->copy);
	mirror->copy_holds = exclusive;
	if (!exclusive)
		give(mirror, &mirror->copy);
	pthread_mutex_unlock(&mirror->lock);
}

int mirror_copy_end(struct mirror *mirror)
{
	int ret;

	pthread_mutex_lock(&mirror->lock);
	/* Whoever has begun to write meanwhile may not be through, but has left his mark. */
	if (mirror->copy_holds)
		give(mirror, &mirror->copy);
	ret = mirror->error ? mirror->error : mirror->copy_written;
	mirror->copy_holds = false;
	mirror->copy = (struct mirror_hold){0};
	pthread_mutex_unlock(&mirror->lock);
	return ret;
}

int mirror_must_succeed(struct mirror *mirror)
{
	int error;

	pthread_mutex_lock(&mirror->lock);
	error = mirror->error;
	mirror->must_succeed = error == 0;
	pthread_mutex_unlock(&mirror->lock);
	return error;
}
