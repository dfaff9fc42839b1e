/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The parent's side of a guest pass. It parses no guest metadata. Whatever the child sends is checked against the image
 * map and the volumes' bounds, goes into one transaction, and is committed only after the child has proven its work.
 */
#include "defrag/guest_pass.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "defrag/message.h"
#include "defrag/names.h"
#include "defrag/sandbox.h"
#include "defrag/worker.h"
#include "mapdb/cleanup.h"

#define WINDOW_SIZE   (256u * 1024) /* bytes of the data file read at once for undo */
#define UNDO_PIECE    16384u        /* bytes of one change that are handled together; fits a blob with room to spare */
#define POLL_MS       100
#define FILE_TEXT_MAX 4096u /* bytes of a path or of a stream name */
#define SECONDS_MAX   1e9   /* that a phase may claim to have taken */

/* What a child may take; see child_memory() for the rest. The largest volumes need minutes of the one, and 2 MiB of the
 * other. */
#define CHILD_CPU_SECONDS 3600u
#define SCRATCH_BYTES_MAX (64 << 20)

#define CHILD_FAILED    1 /* its exit statuses */
#define CHILD_NO_MEMORY 2
#define CHILD_NO_INPUT  3

struct pass {
	struct image *image;
	const struct pass_options *options;
	struct pass_report *report;
	struct message_reader *reader;
	int scratch_fd; /* the child's file in memory */
	bool begun;     /* the image's change was begun: roll back unless committed */
	bool ended;     /* the child has sent everything */
	struct timespec started;
	int64_t started_unix_s;
	struct map_move *moves;
	size_t move_count, move_capacity;
	uint64_t bytes_moved;          /* by them */
	struct host_index *host_index; /* of the map before the pass */
	uint8_t *window;               /* of the data file, for undo */
	uint64_t window_off, window_length;
	struct redo_blob redo, undo;
	uint64_t attributes_moved;
	uint64_t fragmented_told;
	uint8_t *found; /* of each of the selection's files: a volume has it */
};

const char *pass_phase_name(enum pass_phase phase)
{
	static const char *const names[] = {"read", "scan", "plan", "rewrite", "verify", "commit", "apply"};
	return phase < PHASE_COUNT ? names[phase] : "";
}

void pass_report_free(struct pass_report *report)
{
	for (size_t i = 0; report->pictures && i < REPORT_VOLUMES_MAX; i++) {
		cluster_map_free(report->pictures[i].before);
		cluster_map_free(report->pictures[i].after);
	}
	free(report->pictures);
	report->pictures = NULL;
	image_map_unref(report->map_before);
	image_map_unref(report->map_after);
	report->map_before = report->map_after = NULL;
	free(report->volumes);
	report->volumes = NULL;
	report->volume_count = 0;
}

static double seconds_since(const struct timespec *start)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

/* ---- the child ---- */

/* Enough for any volume that this machine can work on, and not so much that the rest of it suffers. */
static uint64_t child_memory(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) / 4 * 3 * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void run_child(struct pass *p, int write_fd, pid_t parent)
{
	/* A killed parent takes its child along; the parent may be gone already. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(CHILD_FAILED);
	signal(SIGINT, SIG_IGN); /* the parent decides */
	signal(SIGUSR1, SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);
	signal(SIGXCPU, SIG_DFL);
	const struct sandbox sandbox = {
	        .read_fd = p->image->data_fd,
	        .write_fd = write_fd,
	        .scratch_fd = p->scratch_fd,
	        .memory_bytes = child_memory(),
	        .cpu_seconds = CHILD_CPU_SECONDS,
	};
	int r = sandbox_enter(&sandbox);
	if (r == 0)
		r = worker_run(p->image, p->options, write_fd, p->scratch_fd);
	_exit(r == 0 ? 0 : r == -ENOMEM ? CHILD_NO_MEMORY : r == -EIO ? CHILD_NO_INPUT : CHILD_FAILED);
}

static int start_child(struct pass *p, pid_t *pid)
{
	int ends[2];
	p->scratch_fd = memfd_create("partition-table", MFD_CLOEXEC);
	if (p->scratch_fd < 0 || pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	fcntl(ends[0], F_SETPIPE_SZ, 1 << 20);
	pid_t parent = getpid();
	*pid = fork();
	if (*pid == 0)
		run_child(p, ends[1], parent);
	int r = *pid < 0 ? -errno : 0;
	close(ends[1]);
	if (r < 0)
		close(ends[0]);
	else
		p->reader->fd = ends[0];
	return r;
}

/* Also after MESSAGE_END, when it has nothing left to do or to say: it is not trusted to end by itself. */
static int stop_child(pid_t pid, int *status)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

/* Why a child that has not come to an end has ended: its limits and the host's disk are no defects. */
static int child_error(int status)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_NO_MEMORY)
		return -ENOMEM;
	if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_NO_INPUT)
		return -EIO;
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU ? -ETIME : -ECHILD;
}

/* What a file in memory takes is in no limit of the child's. */
static bool scratch_is_small(const struct pass *p)
{
	struct stat status;
	return fstat(p->scratch_fd, &status) == 0 && status.st_blocks <= SCRATCH_BYTES_MAX / 512;
}

/* ---- history ---- */

static int64_t duration_ms(const struct pass *p)
{
	return (int64_t)(seconds_since(&p->started) * 1000);
}

static struct run_record run_record_of(const struct pass *p)
{
	struct run_record run = {
	        .operation = "defrag",
	        .options = p->options->options_text ? p->options->options_text : "",
	        .started_unix_s = p->started_unix_s,
	        .duration_ms = duration_ms(p),
	        .files_moved = p->attributes_moved,
	        .extents_before = p->report->extents_before,
	        .extents_after = p->report->extents_after,
	        .metadata_bytes = p->report->metadata_bytes,
	};
	for (size_t i = 0; i < p->report->volume_count; i++) {
		const struct volume_report *volume = &p->report->volumes[i];
		run.volumes += volume->attributes_moved != 0;
		run.fragments_before += volume->fragments_before;
		run.fragments_after += volume->fragments_after;
	}
	return run;
}

/* The transaction begins with the first thing that belongs into it. */
static int begin(struct pass *p)
{
	if (p->begun || p->options->dry_run)
		return 0;
	int r = image_begin(p->image);
	if (r < 0)
		return r;
	p->begun = true;
	struct run_record run = run_record_of(p);
	return map_db_put_run(p->image->db, &run);
}

/* ---- messages ---- */

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
	if (p->options->dry_run)
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
	r = begin(p);
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

/* True if [off, off + length) lies in one of the volumes that may be changed. */
static bool in_a_volume(const struct pass *p, uint64_t off, uint64_t length)
{
	for (size_t i = 0; i < p->report->volume_count; i++) {
		const struct volume_report *volume = &p->report->volumes[i];
		if (volume->result == VOLUME_DONE && off >= volume->off && off - volume->off <= volume->length &&
		    length <= volume->length - (off - volume->off))
			return true;
	}
	return false;
}

static int take_moves(struct pass *p, const uint8_t *payload, size_t size)
{
	size_t count = size / sizeof(struct map_move);
	if (!count || size % sizeof(struct map_move))
		return -EBADMSG;
	if (p->move_capacity - p->move_count < count) {
		size_t capacity = p->move_capacity + p->move_capacity / 2 + count;
		void *grown = reallocarray(p->moves, capacity, sizeof(*p->moves));
		if (!grown)
			return -ENOMEM;
		p->moves = grown;
		p->move_capacity = capacity;
	}
	memcpy(p->moves + p->move_count, payload, size);
	for (size_t i = 0; i < count; i++, p->move_count++) {
		const struct map_move *move = &p->moves[p->move_count];
		if (!in_a_volume(p, move->new_off, move->length) || !in_a_volume(p, move->old_off, move->length))
			return -EBADMSG;
		/* No byte moves twice, so an endless stream of moves is noticed before it fills the memory. */
		p->bytes_moved += move->length;
		if (move->length < IMAGE_MAP_UNIT || p->bytes_moved > image_map_size(p->image->map))
			return -EBADMSG;
	}
	return begin(p);
}

/* ---- redo and undo ---- */

static int flush_redo(struct pass *p)
{
	int r = p->redo.size ? map_db_put_redo(p->image->db, &p->redo, &p->undo) : 0;
	p->redo.size = p->undo.size = 0;
	return r;
}

/* What is at [off, off + length) of the data file now. */
static int read_old(struct pass *p, uint64_t off, size_t length, const uint8_t **bytes)
{
	if (off < p->window_off || off + length > p->window_off + p->window_length) {
		p->window_off = off & ~(uint64_t)4095;
		p->window_length = WINDOW_SIZE;
		int r = io_pread_full(p->image->io, p->image->data_fd, p->window, WINDOW_SIZE, p->window_off);
		if (r < 0) {
			p->window_length = 0;
			return r;
		}
	}
	*bytes = p->window + (off - p->window_off);
	return 0;
}

static bool is_uniform(const uint8_t *bytes, size_t length)
{
	return length > 1 && !memcmp(bytes, bytes + 1, length - 1);
}

/* One piece of a change and what it replaces; both blobs are handed on when either is nearly full. */
static int put_change(struct pass *p, uint64_t host_off, const uint8_t *bytes, uint8_t fill, size_t length)
{
	const uint8_t *old;
	int r = read_old(p, host_off, length, &old);
	if (r == 0 && (p->redo.size + REDO_ENTRY_HEADER_SIZE + length > REDO_BLOB_SIZE_MAX ||
	               p->undo.size + REDO_ENTRY_HEADER_SIZE + length > REDO_BLOB_SIZE_MAX))
		r = flush_redo(p);
	if (r < 0)
		return r;
	bool uniform = is_uniform(old, length);
	size_t done = redo_blob_put(&p->redo, host_off, bytes, fill, length);
	size_t kept = redo_blob_put(&p->undo, host_off, uniform ? NULL : old, old[0], length);
	return done == length && kept == length ? 0 : -EBADMSG;
}

/* Every byte of the entry is mapped, and by the map lies in a volume that may be changed. */
static bool entry_is_allowed(const struct pass *p, const struct redo_entry *entry)
{
	uint64_t off = entry->host_off, length = entry->length;
	while (length) {
		struct extent extent;
		if (!host_index_lookup(p->host_index, off, &extent))
			return false;
		uint64_t here = extent.length < length ? extent.length : length;
		if (!in_a_volume(p, extent.guest_off, here))
			return false;
		off += here;
		length -= here;
	}
	return true;
}

static int take_redo(struct pass *p, const uint8_t *payload, size_t size)
{
	struct redo_entry entry;
	size_t pos = 0;
	int r = begin(p);
	if (r == 0 && !p->host_index)
		r = host_index_new(p->image->map, &p->host_index);
	while (r == 0 && (r = redo_next(payload, size, &pos, &entry)) == 1) {
		r = entry_is_allowed(p, &entry) ? 0 : -EBADMSG;
		p->report->metadata_bytes += entry.length;
		if (r == 0 && p->report->metadata_bytes > image_map_size(p->image->map))
			r = -EBADMSG;
		for (uint32_t done = 0; r == 0 && !p->options->dry_run && done < entry.length;) {
			uint32_t here = entry.length - done < UNDO_PIECE ? entry.length - done : UNDO_PIECE;
			r = put_change(p, entry.host_off + done, entry.bytes ? entry.bytes + done : NULL,
			               (uint8_t)entry.fill, here);
			done += here;
		}
	}
	return r == -EUCLEAN ? -EBADMSG : r;
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

static size_t selected_files(const struct pass *p)
{
	return p->options->selection ? p->options->selection->files.count : 0;
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

static int tell_progress(struct pass *p, unsigned int volume, enum pass_phase phase, uint64_t done, uint64_t total)
{
	if (!p->options->progress)
		return 0;
	return p->options->progress(p->options->progress_context, volume, phase, done, total) ? -ECANCELED : 0;
}

static int take_progress(struct pass *p, const uint8_t *payload, size_t size)
{
	struct progress_message m;
	if (size != sizeof(m))
		return -EBADMSG;
	memcpy(&m, payload, size);
	return m.phase < PHASE_COUNT ? tell_progress(p, m.volume, (enum pass_phase)m.phase, m.done, m.total) : -EBADMSG;
}

static int take_message(struct pass *p, const struct message_header *header, const uint8_t *payload)
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

static int listen_to_child(struct pass *p)
{
	while (!p->ended) {
		struct message_header header;
		const uint8_t *payload;
		int r = message_receive(p->reader, POLL_MS, &header, &payload);
		if (r >= 0 && !scratch_is_small(p))
			r = -ECHILD;
		if (r == 0)
			r = tell_progress(p, 0, PHASE_READ, 0, 0);
		else if (r == 1)
			r = take_message(p, &header, payload);
		if (r < 0)
			return r == -EPIPE || r == -EBADMSG ? -ECHILD : r;
	}
	return 0;
}

/* ---- the end ---- */

/* NTFS that is left alone stands in nobody's way; but if there is nothing else in the image, nothing could be done, and
 * that is a refusal. */
static void gather_result(struct pass_report *report)
{
	bool any_done = false;
	for (size_t i = 0; i < report->volume_count; i++) {
		any_done |= report->volumes[i].result == VOLUME_DONE;
		if (report->volumes[i].result > report->result)
			report->result = report->volumes[i].result;
	}
	if (report->result == VOLUME_SKIPPED || (report->result == VOLUME_UNSUPPORTED && any_done))
		report->result = VOLUME_DONE;
	else if (report->result == VOLUME_UNSUPPORTED)
		report->result = VOLUME_REFUSED;
}

static int compare_moves(const void *a, const void *b)
{
	uint64_t x = ((const struct map_move *)a)->new_off, y = ((const struct map_move *)b)->new_off;
	return x < y ? -1 : x > y;
}

/* Volumes need not be in the order of their numbers. */
static void sort_moves(struct pass *p)
{
	for (size_t i = 1; i < p->move_count; i++) {
		if (p->moves[i].new_off < p->moves[i - 1].new_off) {
			qsort(p->moves, p->move_count, sizeof(*p->moves), compare_moves);
			return;
		}
	}
}

static int commit(struct pass *p)
{
	struct image_map *map = NULL;
	struct timespec commit_started;
	clock_gettime(CLOCK_MONOTONIC, &commit_started);
	sort_moves(p);
	int r = image_map_permute(p->image->map, p->moves, p->move_count, &map);
	if (r < 0)
		return r == -EINVAL ? -ECHILD : r;
	p->report->extents_after = image_map_count(map);
	if (!p->options->dry_run) {
		struct run_record run = run_record_of(p);
		r = flush_redo(p);
		if (r == 0)
			r = map_db_put_map(p->image->db, map);
		if (r == 0)
			r = map_db_update_run(p->image->db, &run);
		if (r == 0)
			r = tell_progress(p, 0, PHASE_COMMIT, 0, 1);
		if (r == 0)
			r = image_commit(p->image);
		p->begun = r < 0 && r != -EINPROGRESS;
		p->report->changed = !p->begun;
		p->report->redo_pending = r == -EINPROGRESS;
	}
	if (p->options->cluster_maps)
		p->report->map_after = image_map_ref(map);
	image_map_unref(map);
	p->report->phase_seconds[PHASE_COMMIT] += seconds_since(&commit_started);
	return r == -EINPROGRESS ? 0 : r;
}

/* Who misspells one of several names does not want the others done. */
static int look_for_missing(struct pass *p)
{
	for (size_t i = 0; i < selected_files(p); i++) {
		if (p->found[i])
			continue;
		p->report->missing_file = i;
		return -ENOENT;
	}
	return 0;
}

static int run_pass(struct pass *p)
{
	pid_t pid = -1;
	int status = 0;
	int r = start_child(p, &pid);
	if (r < 0)
		return r;
	r = listen_to_child(p);
	int stopped = stop_child(pid, &status);
	close(p->reader->fd);
	if (r == 0)
		r = stopped;
	else if (r == -ECHILD)
		r = child_error(status);
	gather_result(p->report);
	if (r == 0 && p->report->result == VOLUME_DONE && !p->options->analyze)
		r = look_for_missing(p);
	/* Moves without changes of run lists, and changes without moves, make no sense. */
	if (r == 0 && p->report->result == VOLUME_DONE && p->move_count && p->report->metadata_bytes)
		r = commit(p);
	else if (r == 0 && p->report->result == VOLUME_DONE && (p->move_count || p->report->metadata_bytes))
		r = -ECHILD;
	return r;
}

int guest_pass_run(struct image *image, const struct pass_options *options, struct pass_report *report)
{
	struct pass *p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	*report = (struct pass_report){.result = VOLUME_DONE, .missing_file = REPORT_NO_FILE};
	report->extents_before = report->extents_after = image_map_count(image->map);
	p->image = image;
	p->options = options;
	p->report = report;
	p->scratch_fd = -1;
	p->started_unix_s = time(NULL);
	clock_gettime(CLOCK_MONOTONIC, &p->started);
	if (options->cluster_maps) {
		report->pictures = calloc(REPORT_VOLUMES_MAX, sizeof(*report->pictures));
		report->map_before = image_map_ref(image->map);
	}
	p->reader = calloc(1, sizeof(*p->reader));
	p->window = malloc(WINDOW_SIZE);
	p->found = calloc(selected_files(p) + 1, 1);
	bool ready = p->reader && p->window && p->found && (report->pictures || !options->cluster_maps);
	int r = ready ? run_pass(p) : -ENOMEM;
	if (p->begun)
		image_rollback(image);
	if (p->scratch_fd >= 0)
		close(p->scratch_fd);
	host_index_free(p->host_index);
	free(p->reader);
	free(p->window);
	free(p->found);
	free(p->moves);
	free(p);
	return r;
}
