/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: every search in the gaps finds what a search through a plain array finds, however much was taken from them
 * before.
 */
#include <string.h>

#include "defrag/gaps.h"
#include "tests/mapdb/check.h"

#define ROUNDS   400
#define GAPS_MAX 600u

static struct run model[GAPS_MAX];
static size_t count;

static size_t model_first_fit(uint64_t length)
{
	for (size_t i = 0; i < count; i++)
		if (model[i].length >= length)
			return i;
	return GAP_NONE;
}

static uint64_t model_longest(void)
{
	uint64_t longest = 0;
	for (size_t i = 0; i < count; i++)
		if (model[i].length > longest)
			longest = model[i].length;
	return longest;
}

/* The length of the tightest short gap, or 0. */
static uint64_t model_tightest(uint64_t length)
{
	uint64_t tightest = 0;
	for (size_t i = 0; i < count; i++)
		if (model[i].length >= length && model[i].length < GAP_SHORT &&
		    (!tightest || model[i].length < tightest))
			tightest = model[i].length;
	return tightest;
}

static void make_gaps(struct gaps *gaps)
{
	struct run_list list = {0};
	uint64_t lcn = random_below(5), most = random_below(2) ? 12 : 2 * GAP_SHORT;
	count = random_below(random_below(2) ? 5 : GAPS_MAX);
	for (size_t i = 0; i < count; i++) {
		model[i] = (struct run){.lcn = lcn, .length = 1 + random_below(most)};
		CHECK_IS(run_list_push(&list, model[i].lcn, model[i].length), 0);
		lcn += model[i].length + 1 + random_below(3);
	}
	CHECK_IS(gaps_build(gaps, &list), 0);
	CHECK(!list.runs && !list.count);
}

static void check_searches(const struct gaps *gaps, uint64_t length)
{
	uint64_t tightest = model_tightest(length), longest = model_longest();
	size_t found = gaps_best_fit(gaps, length);
	CHECK_IS(gaps_first_fit(gaps, length), model_first_fit(length));
	if (tightest)
		CHECK(found < count && model[found].length == tightest);
	else
		CHECK_IS(found, model_first_fit(length));
	found = gaps_find_longest(gaps);
	CHECK(longest ? found < count && model[found].length == longest : found == GAP_NONE);
}

static void take(struct gaps *gaps, size_t index, uint64_t length)
{
	CHECK_IS(gaps_take(gaps, index, length), model[index].lcn);
	model[index].lcn += length;
	model[index].length -= length;
	CHECK_IS(gaps->runs.runs[index].length, model[index].length);
	CHECK(!model[index].length || gaps->runs.runs[index].lcn == model[index].lcn);
}

static void check_round(void)
{
	struct gaps gaps;
	make_gaps(&gaps);
	for (unsigned int i = 0; i < 2 * count + 3; i++) {
		uint64_t length = 1 + random_below(random_below(3) ? 14 : 2 * GAP_SHORT + 3);
		check_searches(&gaps, length);
		size_t gap = random_below(2) ? gaps_best_fit(&gaps, length) : gaps_first_fit(&gaps, length);
		if (random_below(4) == 0) {
			gap = gaps_find_longest(&gaps);
			length = gap == GAP_NONE ? 0 : 1 + random_below(model[gap].length);
		}
		if (gap != GAP_NONE)
			take(&gaps, gap, length);
	}
	gaps_free(&gaps);
}

int main(void)
{
	random_start();
	for (unsigned int round = 0; round < ROUNDS; round++) {
		check_context("round %u", round);
		check_round();
	}
	return 0;
}
