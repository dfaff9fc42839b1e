/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * check: repair. What is repaired is decided by a look, done by the same code that recovers at every open, and believed
 * only after another look.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "mapdb/check_internal.h"
#include "mapdb/cleanup.h"

static bool found(const struct check_report *report, enum finding_kind kind, bool repairable)
{
	for (size_t i = 0; i < report->count; i++) {
		const struct finding *finding = &report->findings[i];

		if (finding->kind == kind && finding->error && finding->repairable == repairable)
			return true;
	}
	return false;
}

/* Nothing may be done about an image whose map or data are in doubt. */
static bool in_doubt(const struct check_report *report)
{
	static const enum finding_kind kinds[] = {FINDING_BUNDLE, FINDING_DATABASE, FINDING_SCHEMA,
	                                          FINDING_MAP,    FINDING_REDO,     FINDING_DATA};

	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
		if (found(report, kinds[i], false))
			return true;
	}
	return false;
}

struct punch {
	const struct io *io;
	int data_fd;
	const struct host_index *undo; /* of the map of a valid undo; NULL: there is none */
	bool (*stop)(void);
};

/* Punches of a range that no extent names what the undo's extents do not name either. */
static int punch_leak(void *context, uint64_t host_off, uint64_t length)
{
	const struct punch *punch = context;
	int rc = 0;

	if (punch->stop && punch->stop())
		return -ECANCELED;
	while (length > 0 && rc == 0) {
		struct extent found = {.length = length};
		bool named = punch->undo && host_index_lookup(punch->undo, host_off, &found);
		uint64_t part = found.length < length ? found.length : length;

		if (!named)
			rc = punch->io->fallocate(punch->io, punch->data_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			                          host_off, part);
		host_off += part;
		length -= part;
	}
	return rc;
}

static int drop_undo(struct map_db *db)
{
	int rc = map_db_begin(db);

	return rc < 0 ? rc : map_db_end(db, db_drop_undo_rows(db));
}

/* *out: NULL without a valid undo. */
static int index_undo(struct image *image, struct host_index **out)
{
	struct image_map *map;
	int rc = image_read_undo_map(image, &map);

	if (rc < 0 || !map)
		return rc;
	rc = host_index_new(map, out);
	image_map_unref(map);
	return rc;
}

/* Punching changes the file's ctime, by which an undo is valid: one that was, stays so, if nobody else can have written
 * meanwhile. One that was not is taken away: better none than one that seems to be there. */
static int punch_leaks(struct image *image, bool (*stop)(void))
{
	struct host_index *undo = NULL;
	int rc = index_undo(image, &undo);
	struct punch punch = {.io = image->io, .data_fd = image->data_fd, .undo = undo, .stop = stop};

	if (rc == 0 && !undo)
		rc = drop_undo(image->db);
	if (rc == 0)
		rc = leaks_visit(image->data_fd, image->map, punch_leak, &punch);
	int synced = image->io->fsync(image->io, image->data_fd);
	if (undo && synced == 0 && !image_wanted(image))
		synced = map_db_stamp_undo(image->db, image->data_fd);
	host_index_free(undo);
	return rc < 0 ? rc : synced;
}

static int repair_opened(struct image *image, const struct check_report *report, bool (*stop)(void))
{
	int rc = 0;

	if (found(report, FINDING_UNDO, true))
		rc = drop_undo(image->db);
	return rc == 0 && found(report, FINDING_LEAK, true) ? punch_leaks(image, stop) : rc;
}

static int repair_bundle(const struct io *io, int parent_fd, const char *name, unsigned int lease_patience_ms,
                         bool (*stop)(void), const struct check_report *report)
{
	struct image *image;
	/* Rolls back the journal, applies redo and removes the second link of an adoption on its way. */
	int rc = image_open(io, parent_fd, name, IMAGE_EXCLUSIVE, 0, lease_patience_ms, &image);

	if (rc < 0)
		return rc;
	if (image->read_only)
		rc = image->overlay ? -EINPROGRESS : -EROFS;
	else
		rc = repair_opened(image, report, stop);
	image_close(image);
	return rc;
}

/* What is still there after the repair, if it was there before: the same kind, and for those of which there can be
 * several the same words. */
static bool still_found(const struct check_report *after, const struct finding *finding)
{
	for (size_t i = 0; i < after->count; i++) {
		const struct finding *other = &after->findings[i];

		if (other->kind == finding->kind && other->error == finding->error &&
		    (finding->kind == FINDING_LEAK || !strcmp(other->text, finding->text)))
			return true;
	}
	return false;
}

/* report becomes what was found after the repair, and before that what is gone. */
static int compare_reports(struct check_report *report, struct check_report *after)
{
	size_t count = 0;
	struct finding *findings = reallocarray(NULL, report->count + after->count + 1, sizeof *findings);

	if (!findings)
		return -ENOMEM;
	for (size_t i = 0; i < report->count; i++) {
		if (report->findings[i].error && !still_found(after, &report->findings[i])) {
			findings[count] = report->findings[i];
			findings[count++].repaired = true;
		}
	}
	if (after->count > 0)
		memcpy(findings + count, after->findings, after->count * sizeof *findings);
	count += after->count;
	free(after->findings);
	after->findings = findings;
	after->count = count;
	struct check_report swap = *report;
	*report = *after;
	*after = swap;
	return 0;
}

int check_repair(const struct io *io, int parent_fd, const char *name, unsigned int lease_patience_ms,
                 bool (*stop)(void), struct check_report *report)
{
	struct check_report after = {0};
	struct cleaned cleaned;
	bool repairable = false;
	int repair = 0;

	for (size_t i = 0; i < report->count; i++)
		repairable |= report->findings[i].error && report->findings[i].repairable;
	if (!repairable)
		return 0;
	if (found(report, FINDING_LEFTOVER, true) && !in_doubt(report))
		repair = names_clean(io, parent_fd, name, NULL, &cleaned);
	if (repair == 0 && report->kind == NAME_BUNDLE && !in_doubt(report))
		repair = repair_bundle(io, parent_fd, name, lease_patience_ms, stop, report);

	int rc = check_image(parent_fd, name, stop, &after);
	if (rc == 0)
		rc = compare_reports(report, &after);
	else if (repair == 0)
		memcpy(report->copy_directory, after.copy_directory, sizeof report->copy_directory);
	check_report_free(&after);
	return repair < 0 ? repair : rc;
}

/* ---- names without a bundle ---- */

/* Those of bundles are reported with them. */
static int add_unless_bundle(void *context, const char *entry, const char *name)
{
	struct check *check = context;
	struct stat status;

	check->name = name;
	if (name_stat(check->parent_fd, name, &status) < 0 || !S_ISDIR(status.st_mode))
		check_add_leftover(check, entry);
	return 0;
}

int check_leftovers(const struct io *io, int parent_fd, bool repair, struct check_report *report)
{
	struct check_report after = {0};
	struct check check = {.report = report, .parent_fd = parent_fd};

	*report = (struct check_report){0};
	int rc = names_visit_hidden(parent_fd, NULL, add_unless_bundle, &check);
	if (rc < 0 || check.error < 0 || !repair || report->count == 0)
		return rc < 0 ? rc : check.error;
	rc = image_clean_stale(io, parent_fd, NULL, NULL);
	if (rc < 0)
		return rc;
	check.report = &after;
	rc = names_visit_hidden(parent_fd, NULL, add_unless_bundle, &check);
	if (rc == 0)
		rc = check.error;
	if (rc == 0)
		rc = compare_reports(report, &after);
	check_report_free(&after);
	return rc;
}
