/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An outcome as JSON, for a program. Fields are added, never renamed or removed. Strings are UTF-8; bytes of the guest
 * or of a path that are none appear as \xNN.
 */
#include "tools/json_text.h"
#include "tools/outcome.h"
#include "tools/score.h"

static json_t *json_count(uint64_t value)
{
	return json_integer((json_int_t)value);
}

static const char *result_name(enum volume_result result)
{
	static const char *const names[] = {"done", "skipped", "unsupported", "refused", "damaged", "failed"};
	return names[result];
}

/* json_object_set_new takes the reference, and refuses NULL: one check at the end is enough. */
struct object {
	json_t *json;
	int failed;
};

static void put(struct object *object, const char *name, json_t *value)
{
	object->failed |= json_object_set_new(object->json, name, value);
}

static struct object object_new(void)
{
	return (struct object){.json = json_object()};
}

static json_t *object_finish(struct object *object)
{
	if (!object->failed)
		return object->json;
	json_decref(object->json);
	return NULL;
}

static json_t *stays_json(const struct volume_report *volume)
{
	json_t *list = json_array();
	for (size_t i = 0; i < volume->stay_count && i < REPORT_STAYS_MAX; i++) {
		const struct stay *stay = &volume->stays[i];
		struct object object = object_new();
		put(&object, "record", json_count(stay->record));
		put(&object, "fragments", json_count(stay->fragments));
		put(&object, "path", json_text(stay->path));
		put(&object, "reason", json_text(stay->reason));
		json_array_append_new(list, object_finish(&object));
	}
	return list;
}

static void put_pair(struct object *object, const char *name, uint64_t before, uint64_t after, bool with_after)
{
	struct object pair = object_new();
	put(&pair, "before", json_count(before));
	if (with_after)
		put(&pair, "after", json_count(after));
	put(object, name, object_finish(&pair));
}

static json_t *worst_json(const struct file_list *files, unsigned int volume)
{
	json_t *list = json_array();
	for (size_t i = 0; i < files->count && json_array_size(list) < WORST_FILES; i++) {
		const struct fragmented *row = &files->rows[i];
		struct object object = object_new();
		if (row->volume != volume) {
			json_decref(object.json);
			continue;
		}
		put(&object, "path", json_text(row->path));
		put(&object, "stream", json_text(row->stream));
		put(&object, "record", json_count(row->record));
		put(&object, "bytes", json_count(row->data_bytes));
		put(&object, "allocated_bytes", json_count(row->bytes));
		put_pair(&object, "fragments", row->fragments_before, row->fragments_after, true);
		put(&object, "reason", json_text(row->reason));
		json_array_append_new(list, object_finish(&object));
	}
	return list;
}

static json_t *selected_json(const struct volume_report *volume)
{
	struct object selected = object_new();
	put(&selected, "files", json_count(volume->selected_files));
	put(&selected, "attributes", json_count(volume->selected_attributes));
	put(&selected, "excess_fragments", json_count(volume->selected_excess));
	return object_finish(&selected);
}

static void put_volume_figures(struct object *object, const struct volume_report *volume, bool with_after)
{
	uint64_t clusters = volume->clusters_mapped;
	put_pair(object, "score", fragmentation_score(volume->excess_before, clusters),
	         fragmentation_score(volume->excess_after, clusters), with_after);
	put(object, "cluster_size", json_count(volume->cluster_size));
	put(object, "clusters", json_count(volume->clusters));
	put(object, "clusters_free", json_count(volume->clusters_free));
	put(object, "records_used", json_count(volume->records_used));
	put(object, "files", json_count(volume->files));
	put(object, "attributes", json_count(volume->attributes));
	put(object, "clusters_mapped", json_count(clusters));
	put_pair(object, "fragments", volume->fragments_before, volume->fragments_after, with_after);
	put_pair(object, "excess_fragments", volume->excess_before, volume->excess_after, with_after);
	put_pair(object, "fragmented_files", volume->fragmented_files_before, volume->fragmented_files_after,
	         with_after);
	put_pair(object, "fragmented_attributes", volume->fragmented_before, volume->fragmented_after, with_after);
	put_pair(object, "free_runs", volume->free_runs_before, volume->free_runs_after, with_after);
	put_pair(object, "largest_free_clusters", volume->largest_free_before, volume->largest_free_after, with_after);
	put(object, "selected", selected_json(volume));
	put(object, "files_mended", json_count(volume->files_mended));
	put(object, "attributes_mended", json_count(volume->attributes_mended));
	put(object, "attributes_moved", json_count(volume->attributes_moved));
	put(object, "clusters_moved", json_count(volume->clusters_moved));
	if (with_after)
		put(object, "records_freed", json_count(volume->records_freed));
	put(object, "laid_out_anew", json_boolean(volume->laid_out_anew));
	put(object, "stay_count", json_count(volume->stay_count));
	put(object, "stays", stays_json(volume));
}

/* Whether there are figures of afterwards. */
static bool plans_all(enum defrag_mode mode)
{
	return mode != MODE_ANALYZE && mode != MODE_DISCARD;
}

static json_t *volume_json(const struct outcome *outcome, const struct volume_report *volume, enum defrag_mode mode)
{
	struct object object = object_new();
	put(&object, "number", json_count(volume->number));
	put(&object, "result", json_string(result_name(volume->result)));
	put(&object, "off", json_count(volume->off));
	put(&object, "length", json_count(volume->length));
	put(&object, "scheme", json_text(volume->scheme));
	put(&object, "file_system", json_text(volume->file_system));
	put(&object, "label", json_text(volume->label));
	put(&object, "cause", json_text(volume->cause));
	put(&object, "remedy", json_text(volume->remedy));
	bool figures = outcome_has_figures(volume, mode);
	if (figures)
		put_volume_figures(&object, volume, plans_all(mode));
	if (figures && (mode == MODE_ANALYZE || mode == MODE_DRY_RUN))
		put(&object, "worst", worst_json(&outcome->files, volume->number));
	return object_finish(&object);
}

static void put_commit(struct object *object, bool changed, bool redo_pending)
{
	put(object, "changed", json_boolean(changed));
	put(object, "redo_pending", json_boolean(redo_pending));
}

static void put_report(struct object *object, const struct outcome *outcome, enum defrag_mode mode)
{
	const struct pass_report *report = &outcome->report;
	put(object, "result", json_string(result_name(report->result)));
	put_commit(object, report->changed, report->redo_pending);
	put_pair(object, "extents", report->extents_before, report->extents_after,
	         report->cost_known || plans_all(mode));
	put(object, "metadata_bytes", json_count(report->metadata_bytes));
	put(object, "redo_bytes", json_count(report->redo_bytes));
	put(object, "data_bytes_copied", json_count(report->data_bytes_copied));
	put(object, "child_peak_kib", json_count(report->child_peak_kib));
	struct object phases = object_new();
	for (int phase = 0; phase < PHASE_COUNT; phase++)
		put(&phases, pass_phase_name((enum pass_phase)phase), json_real(report->phase_seconds[phase]));
	put(object, "phase_seconds", object_finish(&phases));
	json_t *volumes = json_array();
	for (size_t i = 0; i < report->volume_count; i++)
		json_array_append_new(volumes, volume_json(outcome, &report->volumes[i], mode));
	put(object, "volumes", volumes);
}

static void put_plain(struct object *object, const struct outcome *outcome)
{
	struct object plain = object_new();
	put(&plain, "changed", json_boolean(!outcome->was_plain));
	put(&plain, "method", json_string(plain_method_name(outcome->plain.method)));
	put(&plain, "bytes_shared", json_count(outcome->plain.bytes_shared));
	put(&plain, "bytes_copied", json_count(outcome->plain.bytes_copied));
	put(object, "plain", object_finish(&plain));
}

static void put_settle(struct object *object, const struct settle_report *settle)
{
	struct object moved = object_new();
	put_pair(object, "extents", settle->extents_before, settle->extents_after, true);
	put(&moved, "plain", json_boolean(settle->plain));
	put(&moved, "finished", json_boolean(settle->finished));
	put(&moved, "bytes_moved", json_count(settle->bytes_moved));
	put(&moved, "bytes_left", json_count(settle->bytes_left));
	put(object, "settle", object_finish(&moved));
}

static void put_discard(struct object *object, const struct discard_report *discard)
{
	struct object given = object_new();
	put(&given, "free_bytes", json_count(discard->bytes_free));
	put_pair(&given, "allocated_bytes", discard->allocated_before, discard->allocated_after, true);
	put(&given, "finished", json_boolean(discard->finished));
	put(object, "discard", object_finish(&given));
}

static void put_user(struct object *object, const struct image_user *user)
{
	struct object who = object_new();
	put(&who, "kind", json_string(user_kind_name(user->kind)));
	put(&who, "id", json_count(user->id));
	put(&who, "name", json_text(user->name));
	if (user->kind == USER_DOMAIN)
		put(&who, "state", json_string(domain_state_name(user->state)));
	if (user->kind == USER_PROCESS)
		put(&who, "guest", json_text(user->guest));
	put(object, "user", object_finish(&who));
}

json_t *outcome_json(const struct outcome *outcome, const struct defrag_options *options)
{
	const struct pass_report *report = &outcome->report;
	bool whole = !outcome->cause[0] && outcome->reported; /* the cause is about the whole image */
	struct object object = object_new();
	put(&object, "image", json_text(outcome->image));
	put(&object, "exit_code", json_integer(outcome->exit_code));
	put(&object, "cause", json_text(whole ? report->cause : outcome->cause));
	put(&object, "remedy", json_text(whole ? report->remedy : outcome->remedy));
	put(&object, "in_use", json_boolean(outcome->in_use || outcome->exit_code == EXIT_IN_USE));
	if (outcome->user.kind != USER_NONE)
		put_user(&object, &outcome->user);
	put(&object, "seconds", json_real(outcome->seconds));
	if (options->mode == MODE_PLAIN && outcome->exit_code == EXIT_DONE)
		put_plain(&object, outcome);
	if (outcome->reported)
		put_report(&object, outcome, options->mode);
	if (outcome->undone)
		put_commit(&object, true, report->redo_pending);
	if (outcome->settled)
		put_settle(&object, &outcome->settle);
	if (outcome->discarded)
		put_discard(&object, &outcome->discard);
	return object_finish(&object);
}
