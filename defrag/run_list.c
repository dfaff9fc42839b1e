/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/run_list.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/cleanup.h"

void run_list_free(struct run_list *list)
{
	free(list->runs);
	*list = (struct run_list){0};
}

int run_list_push(struct run_list *list, uint64_t lcn, uint64_t length)
{
	if (list->count == list->capacity) {
		size_t capacity = list->capacity < 64 ? 64 : list->capacity + list->capacity / 2;
		struct run *runs = reallocarray(list->runs, capacity, sizeof(*runs));
		if (!runs)
			return -ENOMEM;
		list->runs = runs;
		list->capacity = capacity;
	}
	list->runs[list->count++] = (struct run){.lcn = lcn, .length = length};
	return 0;
}

int run_list_push_merged(struct run_list *list, size_t from, uint64_t lcn, uint64_t length)
{
	if (list->count > from) {
		struct run *last = &list->runs[list->count - 1];
		bool continues = last->lcn == RUN_HOLE ? lcn == RUN_HOLE : lcn == last->lcn + last->length;
		if (continues) {
			last->length += length;
			return 0;
		}
	}
	return run_list_push(list, lcn, length);
}

/* Least significant digit first; a digit that all keys share costs only the counting. */
int run_list_sort(struct run_list *list)
{
	enum { DIGIT_BITS = 11, DIGITS = 6, RADIX = 1 << DIGIT_BITS };
	size_t n = list->count;
	if (n < 2)
		return 0;
	cleanup_free size_t *counts = calloc((size_t)DIGITS * RADIX, sizeof(*counts));
	cleanup_free struct run *spare = malloc(n * sizeof(*spare));
	if (!counts || !spare)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		for (unsigned int d = 0; d < DIGITS; d++)
			counts[d * RADIX + ((list->runs[i].lcn >> (d * DIGIT_BITS)) & (RADIX - 1))]++;
	struct run *from = list->runs, *to = spare;
	for (unsigned int d = 0; d < DIGITS; d++) {
		size_t *count = counts + (size_t)d * RADIX, sum = 0;
		unsigned int shift = d * DIGIT_BITS;
		if (count[(from[0].lcn >> shift) & (RADIX - 1)] == n)
			continue;
		for (size_t v = 0; v < RADIX; v++) {
			size_t here = count[v];
			count[v] = sum;
			sum += here;
		}
		for (size_t i = 0; i < n; i++)
			to[count[(from[i].lcn >> shift) & (RADIX - 1)]++] = from[i];
		struct run *swap = from;
		from = to;
		to = swap;
	}
	if (from != list->runs)
		memcpy(list->runs, from, n * sizeof(*from));
	return 0;
}

uint64_t run_list_merge(struct run_list *list)
{
	size_t merged = 0;
	for (size_t i = 0; i < list->count; i++) {
		struct run *last = merged ? &list->runs[merged - 1] : NULL, here = list->runs[i];
		if (last && here.lcn < last->lcn + last->length)
			return here.lcn;
		if (last && here.lcn == last->lcn + last->length)
			last->length += here.length;
		else
			list->runs[merged++] = here;
	}
	list->count = merged;
	return RUN_HOLE;
}

static uint64_t read_unsigned(const uint8_t *p, unsigned int size)
{
	uint64_t value = 0;
	for (unsigned int i = 0; i < size; i++)
		value |= (uint64_t)p[i] << (8 * i);
	return value;
}

static int64_t read_signed(const uint8_t *p, unsigned int size)
{
	uint64_t value = read_unsigned(p, size);
	if (size < 8 && (p[size - 1] & 0x80))
		value |= ~UINT64_C(0) << (8 * size);
	return (int64_t)value;
}

int mapping_pairs_decode(const uint8_t *pairs, size_t size, uint64_t volume_clusters, struct run_list *list,
                         uint64_t *vcn_count)
{
	size_t first = list->count;
	uint64_t vcns = 0;
	int64_t lcn = 0;
	for (size_t pos = 0;;) {
		if (pos >= size)
			return -EUCLEAN;
		unsigned int length_size = pairs[pos] & 0x0f, lcn_size = pairs[pos] >> 4;
		if (pairs[pos] == 0)
			break;
		if (length_size == 0 || length_size > 8 || lcn_size > 8 || size - pos - 1 < length_size + lcn_size)
			return -EUCLEAN;
		int64_t length = read_signed(pairs + pos + 1, length_size);
		uint64_t where = RUN_HOLE;
		if (length <= 0 || __builtin_add_overflow(vcns, (uint64_t)length, &vcns) || vcns > INT64_MAX)
			return -EUCLEAN;
		if (lcn_size) {
			int64_t delta = read_signed(pairs + pos + 1 + length_size, lcn_size);
			if (__builtin_add_overflow(lcn, delta, &lcn) || lcn < 0 || (uint64_t)lcn >= volume_clusters ||
			    (uint64_t)length > volume_clusters - (uint64_t)lcn)
				return -EUCLEAN;
			where = (uint64_t)lcn;
		}
		int r = run_list_push_merged(list, first, where, (uint64_t)length);
		if (r < 0)
			return r;
		pos += 1 + length_size + lcn_size;
	}
	*vcn_count = vcns;
	return 0;
}

/* Bytes of the shortest two's complement form. */
static unsigned int signed_size(int64_t value)
{
	unsigned int size = 1;
	while (size < 8 && (value < -(INT64_C(1) << (8 * size - 1)) || value >= INT64_C(1) << (8 * size - 1)))
		size++;
	return size;
}

static size_t pair_size(const struct run *run, int64_t previous_lcn)
{
	size_t size = 1 + signed_size((int64_t)run->length);
	return run->lcn == RUN_HOLE ? size : size + signed_size((int64_t)run->lcn - previous_lcn);
}

size_t mapping_pairs_size(const struct run *runs, size_t count)
{
	size_t size = 1;
	int64_t previous = 0;
	for (size_t i = 0; i < count; i++) {
		size += pair_size(&runs[i], previous);
		if (runs[i].lcn != RUN_HOLE)
			previous = (int64_t)runs[i].lcn;
	}
	return size;
}

static uint8_t *put_signed(uint8_t *p, int64_t value, unsigned int size)
{
	for (unsigned int i = 0; i < size; i++)
		*p++ = (uint8_t)((uint64_t)value >> (8 * i));
	return p;
}

size_t mapping_pairs_encode(const struct run *runs, size_t count, uint8_t *pairs, size_t size, size_t *used)
{
	uint8_t *p = pairs;
	int64_t previous = 0;
	size_t i;
	assert(size > 0);
	for (i = 0; i < count; i++) {
		if (pair_size(&runs[i], previous) + 1 > size - (size_t)(p - pairs))
			break;
		unsigned int length_size = signed_size((int64_t)runs[i].length), lcn_size = 0;
		uint8_t *header = p++;
		p = put_signed(p, (int64_t)runs[i].length, length_size);
		if (runs[i].lcn != RUN_HOLE) {
			int64_t delta = (int64_t)runs[i].lcn - previous;
			lcn_size = signed_size(delta);
			p = put_signed(p, delta, lcn_size);
			previous = (int64_t)runs[i].lcn;
		}
		*header = (uint8_t)(length_size | lcn_size << 4);
	}
	*p++ = 0;
	*used = (size_t)(p - pairs);
	return i;
}

int run_index_build(struct run_index *index, const struct run *runs, size_t count)
{
	uint64_t vcn = 0, *first = malloc((count + 1) * sizeof(*first));
	*index = (struct run_index){0};
	if (!first)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		first[i] = vcn;
		vcn += runs[i].length;
	}
	first[count] = vcn;
	*index = (struct run_index){.runs = runs, .first_vcn = first, .count = count};
	return 0;
}

void run_index_free(struct run_index *index)
{
	free(index->first_vcn);
	*index = (struct run_index){0};
}

uint64_t run_index_clusters(const struct run_index *index)
{
	return index->first_vcn[index->count];
}

struct run run_index_lookup(const struct run_index *index, uint64_t vcn)
{
	size_t low = 0, high = index->count;
	assert(vcn < run_index_clusters(index));
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;
		if (index->first_vcn[middle] <= vcn)
			low = middle;
		else
			high = middle;
	}
	uint64_t skip = vcn - index->first_vcn[low];
	const struct run *run = &index->runs[low];
	return (struct run){.lcn = run->lcn == RUN_HOLE ? RUN_HOLE : run->lcn + skip, .length = run->length - skip};
}
