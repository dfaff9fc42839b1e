/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "defrag/boot.h"
#include "defrag/cluster_map.h"
#include "defrag/figures.h"
#include "defrag/fragmented.h"
#include "defrag/free_space.h"
#include "defrag/layout.h"
#include "defrag/message.h"
#include "defrag/owner.h"
#include "defrag/preflight.h"
#include "defrag/rewrite.h"
#include "defrag/scan.h"
#include "defrag/verify.h"
#include "defrag/volumes.h"
#include "mapdb/cleanup.h"

#define ARRAY_BYTES_PER_MESSAGE (48u * 1024)

struct worker {
	const struct image *image;
	const struct pass_options *options;
	struct message_writer writer;
	struct pass_report found; /* volumes, and what is wrong with the disk */
	struct geometry *geometries;
	uint64_t *hiberfils; /* of each volume, see preflight_check */
	struct volume_report *current;
	enum pass_phase phase;
	struct timespec phase_started;
	struct end_message end;
};

/* ---- telling ---- */

static void enter_phase(struct worker *w, enum pass_phase phase)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	w->end.phase_seconds[w->phase] +=
	        (double)(now.tv_sec - w->phase_started.tv_sec) + (double)(now.tv_nsec - w->phase_started.tv_nsec) / 1e9;
	w->phase = phase;
	w->phase_started = now;
}

static int send_progress(void *context, uint64_t done, uint64_t total)
{
	struct worker *w = context;
	struct progress_message m = {
	        .volume = w->current ? w->current->number : 0,
	        .phase = w->phase,
	        .done = done,
	        .total = total,
	};
	int r = message_send(&w->writer, MESSAGE_PROGRESS, &m, sizeof(m), NULL, 0);
	return r < 0 ? r : message_flush(&w->writer);
}

static int send_volume(struct worker *w, const struct volume_report *volume)
{
	return message_send(&w->writer, MESSAGE_VOLUME, volume, sizeof(*volume), NULL, 0);
}

static int send_moved(void *context, const struct attr *head, const char *path, const char *stream,
                      const struct plan_object *object, const struct plan_target *target)
{
	struct worker *w = context;
	char text[8192];
	int length = snprintf(text, sizeof(text), "%s%s", path, stream);
	struct file_message m = {
	        .volume = w->current->number,
	        .record = head->base,
	        .type = head->type,
	        .path_length = (uint16_t)strlen(path),
	        .stream_length = (uint16_t)strlen(stream),
	        .bytes = object->length * w->current->cluster_size,
	        .fragments_before = object->run_count,
	        .fragments_after = target->piece_count,
	};
	w->current->attributes_moved++;
	return message_send(&w->writer, MESSAGE_FILE, &m, sizeof(m), text, (size_t)length);
}

static int send_fragmented(void *context, const struct attr *head, const struct stream_name *name,
                           const struct plan_object *object, uint64_t after, const char *reason)
{
	struct worker *w = context;
	char text[sizeof(name->path) + sizeof(name->stream) + 256];
	int length = snprintf(text, sizeof(text), "%s%s%s", name->path, name->stream, reason);
	struct file_message m = {
	        .volume = w->current->number,
	        .record = head->base,
	        .type = head->type,
	        .path_length = (uint16_t)strlen(name->path),
	        .stream_length = (uint16_t)strlen(name->stream),
	        .reason_length = (uint16_t)strlen(reason),
	        .data_bytes = name->data_bytes,
	        .bytes = object->length * w->current->cluster_size,
	        .fragments_before = object->run_count,
	        .fragments_after = after,
	};
	return message_send(&w->writer, MESSAGE_FRAGMENTED, &m, sizeof(m), text, (size_t)length);
}

static int send_array(struct worker *w, enum message_type type, const void *elements, size_t count, size_t size)
{
	size_t per_message = ARRAY_BYTES_PER_MESSAGE / size;
	for (size_t i = 0; i < count; i += per_message) {
		size_t here = count - i < per_message ? count - i : per_message;
		int r = message_send(&w->writer, type, (const uint8_t *)elements + i * size, here * size, NULL, 0);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Where the current volume is, or will be. */
static int send_cluster_map(struct worker *w, const struct scan *s, bool after)
{
	struct cluster_map *map;
	if (!w->options->cluster_maps)
		return 0;
	int r = cluster_map_of_scan(s, &map);
	if (r < 0)
		return r;
	struct cluster_map_message m = {.volume = w->current->number, .after = after, .clusters = map->clusters};
	r = message_send(&w->writer, MESSAGE_CLUSTER_MAP, &m, sizeof(m), map->counts, cluster_map_size(map));
	cluster_map_free(map);
	return r;
}

static int send_changes(struct worker *w, const struct changes *changes)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < changes->count; i++)
		r = message_send(&w->writer, MESSAGE_REDO, changes->blobs[i].data, changes->blobs[i].size, NULL, 0);
	return r;
}

static int send_found(struct worker *w, const uint8_t *found, size_t count)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < count; i++) {
		struct found_message m = {.file = i};
		if (found[i])
			r = message_send(&w->writer, MESSAGE_FOUND, &m, sizeof(m), NULL, 0);
	}
	return r;
}

/* ---- whose a byte is ---- */

static int send_owner(struct worker *w, size_t query, const struct owner *owner)
{
	char path[sizeof(owner->name.path) + sizeof(owner->name.stream)];
	int length = snprintf(path, sizeof(path), "%s%s", owner->name.path, owner->name.stream);
	struct owner_message m = {
	        .query = (uint32_t)query,
	        .kind = owner->kind,
	        .volume = w->current->number,
	        .type = owner->type,
	        .record = owner->record,
	        .vcn = owner->vcn,
	};
	return message_send(&w->writer, MESSAGE_OWNER, &m, sizeof(m), path, (size_t)length);
}

static int answer_queries(struct worker *w, const struct scan *s)
{
	struct owner owner;
	int r = 0;
	for (size_t i = 0; r == 0 && i < w->options->owner_count; i++) {
		uint64_t guest_off = w->options->owners[i].guest_off;
		if (guest_off < w->current->off || guest_off - w->current->off >= w->current->length)
			continue;
		r = owner_find(s, guest_off - w->current->off, &owner);
		if (r == 0)
			r = send_owner(w, i, &owner);
	}
	return r;
}

/* ---- one volume ---- */

static struct view volume_view(const struct worker *w, const struct volume_report *volume)
{
	return (struct view){
	        .io = w->image->io,
	        .data_fd = w->image->data_fd,
	        .map = w->image->map,
	        .pending = w->image->overlay,
	        .off = volume->off,
	        .length = volume->length,
	};
}

/* What was made of a disk that could not be read is nothing: it is no damage of the guest's. */
static int unless_unread(const struct view *view, int r)
{
	return view->error < 0 ? view->error : r;
}

/* Cluster moves on the volume become byte moves in the image. */
static int moves_in_image(const struct plan_permutation *p, const struct volume_report *volume, struct map_move **out)
{
	struct map_move *moves = malloc((p->count + 1) * sizeof(*moves));
	if (!moves)
		return -ENOMEM;
	for (size_t i = 0; i < p->count; i++)
		moves[i] = (struct map_move){
		        .new_off = volume->off + p->moves[i].new_lcn * volume->cluster_size,
		        .old_off = volume->off + p->moves[i].old_lcn * volume->cluster_size,
		        .length = p->moves[i].length * volume->cluster_size,
		};
	*out = moves;
	return 0;
}

static uint64_t clusters_in(const struct plan_permutation *p)
{
	uint64_t clusters = 0;
	for (size_t i = 0; i < p->count; i++)
		clusters += p->moves[i].length;
	return clusters;
}

/* Everything is sent before it is proven: the parent takes it in meanwhile, and commits only what MESSAGE_END follows.
 * An analysis wants to know only what it takes. The layout and the moves are consumed: they make room for the second
 * scan. */
static int send_and_prove(struct worker *w, const struct scan *s, struct layout *l, const struct changes *changes,
                          uint64_t records_freed)
{
	cleanup_free struct map_move *moves = NULL;
	struct image_map *new_map = NULL;
	struct scan *after = NULL;
	size_t count = l->permutation.count;
	struct verify_expectation expected = {
	        .records_freed = records_freed,
	        .streams_moved = w->current->attributes_moved,
	        .all_data = w->options->verify_data,
	};
	int r = moves_in_image(&l->permutation, w->current, &moves);
	layout_free(l);
	if (r == 0)
		r = send_array(w, MESSAGE_MOVES, moves, count, sizeof(*moves));
	if (r == 0)
		r = send_changes(w, changes);
	if (r == 0)
		r = message_flush(&w->writer);
	if (r < 0 || w->options->analyze)
		return r;
	enter_phase(w, PHASE_VERIFY);
	r = image_map_permute(w->image->map, moves, count, &new_map);
	free(steal_pointer(&moves));
	if (r == 0)
		r = verify_volume(s, new_map, changes, &expected, w->current, send_progress, w, &after);
	image_map_unref(new_map);
	if (r == 0) {
		figures_after(after, w->current);
		r = send_cluster_map(w, after, true);
	}
	scan_free(after);
	return r;
}

/* What the plan is, for those who want to know before anything is rewritten. */
static int report_plan(struct worker *w, const struct scan *s, const struct layout *l)
{
	w->current->laid_out_anew = l->plan.anew && !w->options->pack;
	w->current->clusters_moved = clusters_in(&l->permutation);
	fragmented_count(s, l, w->current);
	int r = figures_stays(s, l, w->current);
	if (r == 0 && w->options->fragmented)
		r = fragmented_list(s, l, w->options->fragmented_max, send_fragmented, w);
	return r;
}

static int make_layout(struct worker *w, const struct scan *s, struct layout *l)
{
	size_t files = w->options->selection ? w->options->selection->files.count : 0;
	cleanup_free uint8_t *found = calloc(files + 1, 1);
	if (!found)
		return -ENOMEM;
	int r = layout_make(s, w->options, found, l);
	if (r < 0)
		return r;
	r = send_found(w, found, files);
	if (r < 0)
		layout_free(l);
	return r;
}

static uint64_t count_moved(const struct layout *l)
{
	uint64_t moved = 0;
	for (size_t i = 0; i < l->count; i++)
		moved += layout_moves(l, i);
	return moved;
}

/* rewrite: else only plan. */
static int change_volume(struct worker *w, const struct scan *s, bool rewrite)
{
	struct layout l;
	struct rewrite_result result = {0};
	cleanup_free struct changes *changes = calloc(1, sizeof(*changes));
	if (!changes)
		return -ENOMEM;
	enter_phase(w, PHASE_PLAN);
	int r = make_layout(w, s, &l);
	if (r < 0)
		return r;
	r = report_plan(w, s, &l);
	if (r == 0 && !rewrite)
		w->current->attributes_moved = count_moved(&l);
	if (r == 0 && rewrite && l.permutation.count) {
		enter_phase(w, PHASE_REWRITE);
		r = rewrite_volume(s, &l, changes, send_progress, send_moved, w, &result);
		w->current->records_freed = result.records_freed;
		if (r == 0)
			r = send_and_prove(w, s, &l, changes, result.records_freed);
	}
	run_list_free(&result.clusters_freed);
	changes_free(changes);
	layout_free(&l);
	return r;
}

static int find_free(struct worker *w, const struct scan *s)
{
	cleanup_free struct guest_range *ranges = NULL;
	size_t count = 0;
	int r = free_space_ranges(s, &ranges, &count);
	enter_phase(w, PHASE_VERIFY);
	if (r == 0)
		r = free_space_prove(s, ranges, count, w->current, send_progress, w);
	return r == 0 ? send_array(w, MESSAGE_FREE, ranges, count, sizeof(*ranges)) : r;
}

/* Preflight has only looked into the file that the root directory's index has led to. */
static void check_hiberfil(const struct scan *s, uint64_t known, struct volume_report *volume)
{
	if (s->hiberfil && s->hiberfil != known)
		report_result(volume, VOLUME_REFUSED, REMEDY_CHKDSK,
		              "the root directory's index does not lead to hiberfil.sys: Windows may be hibernated");
}

/* 0, -errno, or 1: the report says why not. */
static int work_on_volume(struct worker *w, size_t index)
{
	struct volume_report *volume = w->current = &w->found.volumes[index];
	struct volume_report finding = {.result = VOLUME_DONE};
	struct view view = volume_view(w, volume);
	struct scan *s = NULL;
	enter_phase(w, PHASE_SCAN);
	int r = scan_volume(&view, &w->geometries[index], &finding, send_progress, w, &s);
	/* What is refused stays so for the reason that a pass, which does not scan it, gives. */
	if (r == 1 && volume->result != VOLUME_REFUSED)
		report_result(volume, finding.result, finding.remedy, "%s", finding.cause);
	if (r == 0) {
		figures_before(s, volume);
		r = send_cluster_map(w, s, false);
	}
	if (r == 0 && volume->result == VOLUME_DONE)
		check_hiberfil(s, w->hiberfils[index], volume);
	if (r == 0)
		r = answer_queries(w, s);
	bool may_change = volume->result == VOLUME_DONE;
	if (r == 0 && w->options->find_free)
		r = may_change ? find_free(w, s) : 0;
	else if (r == 0 && (w->options->analyze || may_change))
		r = change_volume(w, s, may_change && (!w->options->analyze || w->options->cost));
	scan_free(s);
	r = unless_unread(&view, r);
	enter_phase(w, PHASE_READ);
	w->current = NULL;
	return r;
}

/* ---- the whole image ---- */

static int look_at_volume(struct worker *w, size_t index)
{
	struct volume_report *volume = &w->found.volumes[index];
	struct view view = volume_view(w, volume);
	if (volume->result != VOLUME_DONE)
		return 0;
	int r = boot_read(&view, &w->geometries[index], volume);
	bool refused = volume->result == VOLUME_REFUSED && w->geometries[index].clusters;
	if (r == 0 && (volume->result == VOLUME_DONE || refused))
		r = preflight_check(&view, volume, &w->hiberfils[index]);
	return unless_unread(&view, r);
}

static bool is_selected(const struct worker *w, const struct volume_report *volume)
{
	return !w->options->volume || w->options->volume == volume->number;
}

/* Volumes whose metadata can be looked at; for a change, only if no volume of the image forbids it. */
static bool is_workable(const struct worker *w, size_t index, bool forbidden)
{
	const struct volume_report *volume = &w->found.volumes[index];
	if (!is_selected(w, volume) || !w->geometries[index].clusters)
		return false;
	switch (volume->result) {
	case VOLUME_DONE:
		return w->options->analyze || !forbidden;
	case VOLUME_REFUSED:
		return w->options->analyze;
	default: /* Damage that libntfs-3g met is looked at more closely, to say where it is. */
		return volume->result == VOLUME_DAMAGED;
	}
}

static int look_at_disk(struct worker *w, int scratch_fd, bool *forbidden)
{
	struct view disk = {
	        .io = w->image->io,
	        .data_fd = w->image->data_fd,
	        .map = w->image->map,
	        .pending = w->image->overlay,
	        .length = image_map_size(w->image->map),
	};
	int r = unless_unread(&disk, volumes_find(&disk, scratch_fd, &w->found));
	if (r == 0) {
		w->geometries = calloc(w->found.volume_count + 1, sizeof(*w->geometries));
		w->hiberfils = calloc(w->found.volume_count + 1, sizeof(*w->hiberfils));
		r = w->geometries && w->hiberfils ? 0 : -ENOMEM;
	}
	*forbidden = w->found.result != VOLUME_DONE;
	for (size_t i = 0; r == 0 && i < w->found.volume_count; i++) {
		struct volume_report *volume = &w->found.volumes[i];
		r = look_at_volume(w, i);
		*forbidden |= volume->result >= VOLUME_REFUSED;
		if (!is_selected(w, volume) && volume->result == VOLUME_DONE)
			report_result(volume, VOLUME_SKIPPED, "", "not selected");
	}
	return r;
}

static int send_disk(struct worker *w)
{
	struct disk_message m = {.result = w->found.result};
	memcpy(m.cause, w->found.cause, sizeof(m.cause));
	memcpy(m.remedy, w->found.remedy, sizeof(m.remedy));
	return message_send(&w->writer, MESSAGE_DISK, &m, sizeof(m), NULL, 0);
}

static int send_end(struct worker *w)
{
	struct rusage usage;
	enter_phase(w, PHASE_READ);
	if (getrusage(RUSAGE_SELF, &usage) == 0)
		w->end.peak_kib = (uint64_t)usage.ru_maxrss;
	int r = message_send(&w->writer, MESSAGE_END, &w->end, sizeof(w->end), NULL, 0);
	return r < 0 ? r : message_flush(&w->writer);
}

static int run(struct worker *w, int scratch_fd)
{
	bool forbidden = false;
	int r = look_at_disk(w, scratch_fd, &forbidden);
	if (r == 0)
		r = send_disk(w);
	for (size_t i = 0; r == 0 && i < w->found.volume_count; i++)
		r = send_volume(w, &w->found.volumes[i]);
	for (size_t i = 0; r == 0 && i < w->found.volume_count; i++) {
		if (!is_workable(w, i, forbidden))
			continue;
		r = work_on_volume(w, i);
		forbidden |= w->found.volumes[i].result >= VOLUME_REFUSED;
		if (r >= 0)
			r = send_volume(w, &w->found.volumes[i]);
	}
	return r < 0 ? r : send_end(w);
}

int worker_run(const struct image *image, const struct pass_options *options, int write_fd, int scratch_fd)
{
	struct worker *w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->image = image;
	w->options = options;
	w->writer.fd = write_fd;
	clock_gettime(CLOCK_MONOTONIC, &w->phase_started);
	int r = run(w, scratch_fd);
	free(w->geometries);
	free(w->hiberfils);
	free(w->found.volumes);
	free(w);
	return r;
}
