/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/order.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "mapdb/cleanup.h"

#define PATH_KEPT 4096u /* bytes of a path */

struct sorted {
	int64_t number; /* length or time; of a path where it begins in the text */
	uint32_t object;
};

struct sorter {
	enum pack_order key;
	bool descending;
	char *text; /* paths */
	size_t text_size, text_capacity;
};

static int compare_keys(const struct sorter *sorter, int64_t x, int64_t y)
{
	if (sorter->key == ORDER_PATH)
		return strcasecmp(sorter->text + x, sorter->text + y);
	return x < y ? -1 : x > y;
}

static int compare(const void *a, const void *b, void *context)
{
	const struct sorted *x = a, *y = b;
	const struct sorter *sorter = context;
	int order = compare_keys(sorter, x->number, y->number);
	if (order)
		return sorter->descending ? -order : order;
	return x->object < y->object ? -1 : x->object > y->object;
}

static int64_t time_of(const struct sorter *sorter, uint8_t *record)
{
	record_for_each(attr, record)
	{
		if (attr->type != AT_STANDARD_INFORMATION || attr->non_resident ||
		    le32_to_cpu(attr->value_length) < offsetof(STANDARD_INFORMATION, file_attributes))
			continue;
		const STANDARD_INFORMATION *information = (const STANDARD_INFORMATION *)attr_value(attr);
		switch (sorter->key) {
		case ORDER_CREATED:
			return sle64_to_cpu(information->creation_time);
		case ORDER_MODIFIED:
			return sle64_to_cpu(information->last_data_change_time);
		default:
			return sle64_to_cpu(information->last_access_time);
		}
	}
	return 0;
}

static int keep_path(struct sorter *sorter, const struct scan *s, uint8_t *record, int64_t *where)
{
	if (sorter->text_capacity - sorter->text_size < PATH_KEPT) {
		size_t capacity = sorter->text_capacity + sorter->text_capacity / 2 + 16 * PATH_KEPT;
		char *grown = realloc(sorter->text, capacity);
		if (!grown)
			return -ENOMEM;
		sorter->text = grown;
		sorter->text_capacity = capacity;
	}
	char *path = sorter->text + sorter->text_size;
	const FILE_NAME_ATTR *name = record_file_name(record);
	*where = (int64_t)sorter->text_size;
	path[0] = '\0';
	if (name)
		name_table_path(&s->names, name, path, PATH_KEPT);
	sorter->text_size += strlen(path) + 1;
	return 0;
}

static int find_key(struct sorter *sorter, const struct scan *s, uint32_t base, uint8_t *record, int64_t *number)
{
	int r = scan_read_record(s, base, record);
	if (r == 0 && sorter->key == ORDER_PATH)
		return keep_path(sorter, s, record, number);
	if (r == 0)
		*number = time_of(sorter, record);
	return r;
}

static int find_keys(struct sorter *sorter, const struct scan *s, const struct layout *l, struct sorted *sorted)
{
	cleanup_free uint8_t *record = malloc(s->geometry.record_size);
	uint64_t known = UINT64_MAX; /* the file that number is of */
	int64_t number = 0;
	if (!record)
		return -ENOMEM;
	for (size_t i = 0; i < l->count; i++) {
		uint32_t base = s->attrs[l->first_attr[i]].base;
		int r = 0;
		if (sorter->key == ORDER_SIZE)
			number = (int64_t)l->objects[i].length;
		else if (known != base)
			r = find_key(sorter, s, base, record, &number);
		if (r < 0)
			return r;
		known = base;
		sorted[i] = (struct sorted){.number = number, .object = (uint32_t)i};
	}
	return 0;
}

int order_objects(const struct scan *s, const struct layout *l, enum pack_order key, bool descending, uint32_t **order)
{
	struct sorter sorter = {.key = key, .descending = descending};
	cleanup_free struct sorted *sorted = malloc((l->count + 1) * sizeof(*sorted));
	*order = malloc((l->count + 1) * sizeof(**order));
	int r = sorted && *order ? find_keys(&sorter, s, l, sorted) : -ENOMEM;
	if (r == 0)
		qsort_r(sorted, l->count, sizeof(*sorted), compare, &sorter);
	for (size_t i = 0; r == 0 && i < l->count; i++)
		(*order)[sorted[i].object] = (uint32_t)i;
	free(sorter.text);
	return r;
}
