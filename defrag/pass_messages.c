/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the child of a guest pass says. It may have taken orders from the guest: nothing is believed that cannot be.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "defrag/names.h"
#include "defrag/pass_internal.h"
#include "mapdb/cleanup.h"

#define FILE_TEXT_MAX 4096u /* bytes of a path or of a stream name */
#define SECONDS_MAX   1e9   /* that a phase may claim to have taken */

static bool text_is_terminated(const char *text, size_t size)
{
	return memchr(text, 0, size) != NULL;
}

static bool volume_is_sane(const struct pass *p, const struct volume_report *volume)
{
	uint64_t size = image_map_size(p->image->map);
	return volume->number >= 1 && volume->number <= REPORT_VOLUMES_MAX && volume->result <= VOLUME_FAILED &&
	       (volume->result >= VOLUME_SKIPPED || (volume->off <= size && volume->length <= size - volume->off)) &&
	       text_is_terminated(volume->scheme, sizeof(volume->scheme)) &&
	       text_is_terminated(volume->file_system, sizeof(volume->file_system)) &&
	       text_is_terminated(volume->label, sizeof(volume->label)) &&
	       text_is_terminated(volume->cause, sizeof(volume->cause)) &&
	       text_is_terminated(volume->remedy, sizeof(volume->remedy));
}

static int take_volume(struct pass *p, const uint8_t *payload, size_t size)
{
	struct pass_report *report = p->report;
	cleanup_free struct volume_report *volume = malloc(sizeof(*volume));
	if (!volume)
		return -ENOMEM;
	if (size != sizeof(*volume))
		return -EBADMSG;
	memcpy(volume, payload, size);
	for (size_t i = 0; i < REPORT_STAYS_MAX; i++) {
		volume->stays[i].path[sizeof(volume->stays[i].path) - 1] = 0;
		volume->stays[i].reason[sizeof(volume->stays[i].reason) - 1] = 0;
	}
	if (!volume_is_sane(p, volume) || volume->number > report->volume_count + 1)
		return -EBADMSG;
	struct volume_report *known =
	        volume->number <= report->volume_count ? &report->volumes[volume->number - 1] : NULL;
	if (!known) {
		void *grown = reallocarray(report->volumes, report->volume_count + 1, sizeof(*volume));
		if (!grown)
			return -ENOMEM;
		report->volumes = grown;
		known = &report->volumes[report->volume_count++];
	} else if (known->off != volume->off || known->length != volume->length) {
		return -EBADMSG; /* bounds do not change in the middle of a pass */
	}
	*known = *volume;
	return 0;
}

static int take_disk(struct pass *p, const uint8_t *payload, size_t size)
{
	struct disk_message m;
	if (size != sizeof(m))
		return -EBADMSG;
	memcpy(&m, payload, size);
	if (m.result > VOLUME_FAILED || !text_is_terminated(m.cause, sizeof(m.cause)) ||
	    !text_is_terminated(m.remedy, sizeof(m.remedy)))
		return -EBADMSG;
	p->report->result = (enum volume_result)m.result;
	memcpy(p->report->cause, m.cause, sizeof(m.cause));
	memcpy(p->report->remedy, m.remedy, sizeof(m.remedy));
	return 0;
}

/* Checks the sizes; *text is behind the message. */
static int parse_file(const uint8_t *payload, size_t size, struct file_message *m, const char **text)
{
	if (size < sizeof(*m))
		return -EBADMSG;
	memcpy(m, payload, sizeof(*m));
	if (size != sizeof(*m) + m->path_length + m->stream_length + m->reason_length ||
	    m->path_length > FILE_TEXT_MAX || m->stream_length > FILE_TEXT_MAX || m->reason_length > REPORT_TEXT_MAX)
		return -EBADMSG;
	*text = (const char *)payload + sizeof(*m);
	return 0;
}

/* No more of them than were asked for, and than an image has units. */
static int take_fragmented(struct pass *p, const uint8_t *payload, size_t size)
{
	struct file_message m;
	const char *text;
	char path[FILE_TEXT_MAX + 1], stream[FILE_TEXT_MAX + 1], reason[REPORT_TEXT_MAX + 1];
	uint64_t limit = image_map_size(p->image->map) / IMAGE_MAP_UNIT;
	if (limit > p->options->fragmented_max)
		limit = p->options->fragmented_max;
	int r = parse_file(payload, size, &m, &text);
	if (r < 0)
		return r;
	if (!p->options->fragmented || m.volume < 1 || m.volume > p->report->volume_count ||
	    ++p->fragmented_told > limit * p->report->volume_count)
		return -EBADMSG;
	snprintf(path, sizeof(path), "%.*s", m.path_length, text);
	snprintf(stream, sizeof(stream), "%.*s", m.stream_length, text + m.path_length);
	snprintf(reason, sizeof(reason), "%.*s", m.reason_length, text + m.path_length + m.stream_length);
	const struct fragmented fragmented = {
	        .volume = m.volume,
	        .record = m.record,
	        .path = path,
	        .stream = stream,
	        .data_bytes = m.data_bytes,
	        .bytes = m.bytes,
	        .fragments_before = m.fragments_before,
	        .fragments_after = m.fragments_after,
	        .reason = reason,
	};
	return p->options->fragmented(p->options->fragmented_context, &fragmented);
}

static int take_file(struct pass *p, const uint8_t *payload, size_t size)
{
	struct file_message m;
	const char *text;
	char path[MESSAGE_SIZE_MAX];
	int r = parse_file(payload, size, &m, &text);
	if (r < 0)
		return r;
	/* An attribute that moves has at least one unit of the image. */
	if (++p->attributes_moved > image_map_size(p->image->map) / IMAGE_MAP_UNIT)
		return -EBADMSG;
	if (pass_only_looks(p))
		return 0;
	snprintf(path, sizeof(path), "%.*s%s%.*s", m.path_length, text, m.stream_length ? ":" : "", m.stream_length,
	         text + m.path_length);
	struct file_record file = {
	        .volume = m.volume,
	        .record = m.record,
	        .path = path,
	        .attribute = attr_type_name(m.type),
	        .bytes = m.bytes,
	        .fragments_before = m.fragments_before,
	        .fragments_after = m.fragments_after,
	};
	r = pass_begin(p);
	return r < 0 ? r : map_db_put_file(p->image->db, &file);
}

static int take_owner(struct pass *p, const uint8_t *payload, size_t size)
{
	struct owner_message m;
	if (size < sizeof(m))
		return -EBADMSG;
	memcpy(&m, payload, sizeof(m));
	if (size - sizeof(m) > 2 * FILE_TEXT_MAX || m.query >= p->options->owner_count || m.kind > OWNER_STREAM ||
	    m.volume < 1 || m.volume > p->report->volume_count)
		return -EBADMSG;
	struct owner_query *query = &p->options->owners[m.query];
	if (query->kind != OWNER_UNKNOWN || query->path) /* told already */
		return -EBADMSG;
	query->path = strndup((const char *)payload + sizeof(m), size - sizeof(m));
	query->kind = (enum owner_kind)m.kind;
	query->volume = m.volume;
	query->record = m.record;
	query->vcn = m.vcn;
	query->attribute = attr_type_name(m.type);
	return query->path ? 0 : -ENOMEM;
}

/* Of a volume that was told of, with no more clusters than its bytes make: so many cells, each with what adds up. */
static int take_cluster_map(struct pass *p, const uint8_t *payload, size_t size)
{
	struct pass_report *report = p->report;
	struct cluster_map_message m;
	struct cluster_map *map;
	if (!report->pictures || size < sizeof(m))
		return -EBADMSG;
	memcpy(&m, payload, sizeof(m));
	if (m.volume < 1 || m.volume > report->volume_count || m.after > 1 || !m.clusters ||
	    m.clusters > report->volumes[m.volume - 1].length / IMAGE_MAP_UNIT)
		return -EBADMSG;
	int r = cluster_map_new(m.clusters, &map);
	if (r < 0)
		return r;
	bool fits = size - sizeof(m) == cluster_map_size(map);
	if (fits)
		memcpy(map->counts, payload + sizeof(m), cluster_map_size(map));
	if (!fits || !cluster_map_is_sane(map)) {
		cluster_map_free(map);
		return -EBADMSG;
	}
	struct volume_picture *picture = &report->pictures[m.volume - 1];
	struct cluster_map **place = m.after ? &picture->after : &picture->before;
	cluster_map_free(*place);
	*place = map;
	return 0;
}

static int take_found(struct pass *p, const uint8_t *payload, size_t size)
{
	struct found_message m;
	if (size != sizeof(m))
		return -EBADMSG;
	memcpy(&m, payload, size);
	if (m.file >= selected_files(p))
		return -EBADMSG;
	p->found[m.file] = 1;
	return 0;
}

static int take_end(struct pass *p, const uint8_t *payload, size_t size)
{
	struct end_message m;
	if (size != sizeof(m))
		return -EBADMSG;
	memcpy(&m, payload, size);
	p->report->child_peak_kib = m.peak_kib;
	for (int i = 0; i < PHASE_COUNT; i++)
		if (m.phase_seconds[i] >= 0 && m.phase_seconds[i] < SECONDS_MAX)
			p->report->phase_seconds[i] += m.phase_seconds[i];
	p->ended = true;
	return 0;
}

static int take_progress(struct pass *p, const uint8_t *payload, size_t size)
{
	struct progress_message m;
	if (size != sizeof(m))
		return -EBADMSG;
	memcpy(&m, payload, size);
	return m.phase < PHASE_COUNT ? tell_progress(p, m.volume, (enum pass_phase)m.phase, m.done, m.total) : -EBADMSG;
}

int take_message(struct pass *p, const struct message_header *header, const uint8_t *payload)
{
	switch (header->type) {
	case MESSAGE_PROGRESS:
		return take_progress(p, payload, header->size);
	case MESSAGE_VOLUME:
		return take_volume(p, payload, header->size);
	case MESSAGE_DISK:
		return take_disk(p, payload, header->size);
	case MESSAGE_FILE:
		return take_file(p, payload, header->size);
	case MESSAGE_FRAGMENTED:
		return take_fragmented(p, payload, header->size);
	case MESSAGE_MOVES:
		return take_moves(p, payload, header->size);
	case MESSAGE_REDO:
		return take_redo(p, payload, header->size);
	case MESSAGE_FREE:
		return take_free(p, payload, header->size);
	case MESSAGE_OWNER:
		return take_owner(p, payload, header->size);
	case MESSAGE_FOUND:
		return take_found(p, payload, header->size);
	case MESSAGE_END:
		return take_end(p, payload, header->size);
	case MESSAGE_CLUSTER_MAP:
		return take_cluster_map(p, payload, header->size);
	default:
		return -EBADMSG;
	}
}
