/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What zcfs-map says to programs. Fields are added, never renamed or removed. A million extents are written one by one,
 * never held as one document.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "mapdb/cleanup.h"
#include "tools/json_text.h"
#include "tools/map_answer.h"
#include "tools/text.h"

static json_t *extent_json(const struct extent *extent)
{
	json_t *json = json_pack("{s:I, s:I}", "guest_off", (json_int_t)extent->guest_off, "length",
	                         (json_int_t)extent->length);

	if (json && json_object_set_new(json, "host_off", json_integer((json_int_t)extent->host_off)) == 0)
		return json;
	json_decref(json);
	return NULL;
}

static json_t *owner_json(const struct owner_query *owner)
{
	static const char *const kinds[] = {
	        [OWNER_UNKNOWN] = "unknown", [OWNER_FREE] = "free",     [OWNER_NOBODY] = "nobody",
	        [OWNER_BEYOND] = "beyond",   [OWNER_STREAM] = "stream",
	};

	if (owner->kind != OWNER_STREAM)
		return json_pack("{s:s, s:i}", "kind", kinds[owner->kind], "volume", (int)owner->volume);
	return json_pack("{s:s, s:i, s:I, s:o, s:s, s:I}", "kind", kinds[owner->kind], "volume", (int)owner->volume,
	                 "record", (json_int_t)owner->record, "path", json_text(owner->path), "attribute",
	                 owner->attribute, "vcn", (json_int_t)owner->vcn);
}

/* null: it has none. */
static json_t *offset_json(bool known, uint64_t off)
{
	return known ? json_integer((json_int_t)off) : json_null();
}

static json_t *answer_json(const struct map_answer *answer)
{
	bool host = answer->question.host;

	return json_pack("{s:s, s:I, s:o, s:o, s:b, s:o, s:o}", "asked", host ? "host" : "guest", "off",
	                 (json_int_t)answer->question.off, "guest_off", offset_json(answer->mapped, answer->guest_off),
	                 "host_off", offset_json(answer->mapped, answer->host_off), "hole", answer->hole, "extent",
	                 answer->mapped ? extent_json(&answer->extent) : json_null(), "owner",
	                 answer->mapped ? owner_json(&answer->owner) : json_null());
}

static json_t *lengths_json(const struct map_figures *figures)
{
	json_t *lengths = json_array();

	for (size_t i = 0; i < MAP_LENGTH_CLASSES; i++) {
		const struct map_length_class *class = &figures->classes[i];

		json_array_append_new(lengths,
		                      json_pack("{s:s, s:I, s:I}", "length", class->name, "extents",
		                                (json_int_t) class->extents, "bytes", (json_int_t) class->bytes));
	}
	return lengths;
}

static json_t *image_json(const struct image *image, const char *path, const struct map_figures *figures)
{
	return json_pack("{s:s, s:i, s:o, s:s, s:I, s:I, s:I, s:I, s:b, s:b, s:I, s:o}", "zcfs", ZCFS_VERSION, "schema",
	                 1, "image", json_text(path), "kind", image->bundle_fd < 0 ? "plain" : "bundle", "size",
	                 (json_int_t)image_map_size(image->map), "allocated", (json_int_t)figures->allocated,
	                 "host_end", (json_int_t)image_map_host_end(image->map), "generation",
	                 (json_int_t)image->state.generation, "redo_pending", image->state.redo_pending, "identity",
	                 image_map_is_identity(image->map), "extent_count", (json_int_t)image_map_count(image->map),
	                 "lengths", lengths_json(figures));
}

/* Consumes the element. */
static int print_element(json_t *element, size_t index)
{
	if (!element)
		return -ENOMEM;
	fputs(index ? ",\n    " : "\n    ", stdout);
	json_dumpf(element, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
	json_decref(element);
	return 0;
}

static int print_list(const struct image *image, const struct map_options *options, const struct map_answer *answers)
{
	size_t count = options->question_count ? options->question_count : image_map_count(image->map);
	int error = 0;

	printf(",\n  \"%s\": [", options->question_count ? "answers" : "extents");
	for (size_t i = 0; i < count && !error && !ferror(stdout); i++) {
		struct extent extent = options->question_count ? answers[i].extent : image_map_get(image->map, i);

		error = print_element(options->question_count ? answer_json(&answers[i]) : extent_json(&extent), i);
	}
	fputs("\n  ]", stdout);
	return error;
}

int map_print_json(const struct image *image, const struct map_options *options, const struct map_figures *figures,
                   const struct map_answer *answers)
{
	json_t *head = image_json(image, options->image, figures);
	cleanup_free char *text = json_dumps(head, JSON_INDENT(2) | JSON_ENSURE_ASCII);
	int error = 0;

	json_decref(head);
	if (!text)
		return -ENOMEM;
	printf("%.*s", (int)(strlen(text) - strlen("\n}")), text); /* more is to come */
	if (!options->summary)
		error = print_list(image, options, answers);
	puts("\n}");
	return error;
}
