/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: the planner's. Byte 0: 1 packs, 2 leaves in place. Then the objects, 6 bytes each, as many as byte 1 says,
 * which also tells which one is anchored; then one or two bytes for each stretch of the volume: whose it is, how long
 * it is.
 *
 * Promise: what must hold for every plan (plan_check.h), and a plan does not undo what another one did.
 */
#include <string.h>

#include "tests/defrag/plan_check.h"
#include "tests/fuzz/fuzz.h"
#include "tests/mapdb/check.h"

#define OWNERS 126u /* objects at most */

static struct volume volume;

struct stretches {
	struct run runs[CLUSTERS_MAX];
	uint16_t owner[CLUSTERS_MAX]; /* from 0: free, nobody's, the objects */
	size_t count;
};

static struct plan_object take_object(struct input *input)
{
	struct plan_object object = {
	        .kind = (uint8_t)(take(input, 1) % PLAN_ANCHORED), /* of that kind there may be one, see below */
	        .rank = (uint8_t)take(input, 1),
	        .max_pieces = (uint16_t)take(input, 2),
	};
	uint16_t start = (uint16_t)take(input, 2);
	object.max_start = start == 0 ? UINT64_MAX : start - 1u;
	object.max_pieces += object.max_pieces == 0;
	object.never_more = object.rank & 1;
	return object;
}

static void take_stretches(struct input *input, size_t objects, struct stretches *s)
{
	s->count = 0;
	volume.clusters = 0;
	while (input_left(input) && volume.clusters < CLUSTERS_MAX) {
		uint64_t owner = take(input, 1), length = 1 + (owner & 0x80 ? take(input, 1) : 0);
		if (length > CLUSTERS_MAX - volume.clusters)
			length = CLUSTERS_MAX - volume.clusters;
		s->owner[s->count] = (uint16_t)((owner & 0x7f) % (objects + 2));
		s->runs[s->count++] = (struct run){.lcn = volume.clusters, .length = length};
		for (uint64_t i = 0; i < length; i++)
			volume.owner[volume.clusters++] = s->owner[s->count - 1] ? LOST : FREE;
	}
}

/* The second half of the stretches belongs to the object before the first one: pieces need not be in order. */
static size_t pieces_of(const struct stretches *s, size_t object, struct run *pieces)
{
	size_t found = 0;
	for (size_t i = 0; i < s->count; i++) {
		size_t k = (i + s->count / 2) % s->count;
		if (s->owner[k] == object + 2)
			pieces[found++] = s->runs[k];
	}
	return found;
}

static void take_volume(struct input *input)
{
	static struct stretches stretches;
	static struct run pieces[CLUSTERS_MAX];
	struct plan_object objects[OWNERS];
	uint64_t flags = take(input, 1);
	size_t count = take(input, 1), anchored = count;
	volume.count = volume.runs.count = 0;
	if (count & 0x80)
		anchored = count % 7;
	count = 1 + count % OWNERS;
	for (size_t i = 0; i < count; i++)
		objects[i] = take_object(input);
	take_stretches(input, count, &stretches);
	for (size_t i = 0; i < count; i++) {
		size_t found = pieces_of(&stretches, i, pieces);
		if (i == anchored)
			objects[i].kind = PLAN_ANCHORED;
		if (found)
			volume_add_object(&volume, objects[i], pieces, found);
	}
	volume_fill_input(&volume, flags & 1);
	volume.input.in_place = flags & 2;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = input_of(data, size);
	struct plan plan;
	take_volume(&input);
	CHECK_IS(plan_make(&volume.input, &plan), 0);
	check_plan(&volume, &plan);
	if (!volume.input.pack) {
		CHECK(volume_pieces(&volume, &plan) <= volume_pieces(&volume, NULL));
		check_plan_settles(&volume, &plan);
		check_nothing_left(&volume, &plan);
	}
	plan_free(&plan);
	return 0;
}
