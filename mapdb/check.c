/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * check: the report, the bundle's members, and who uses the image.
 */
#include "mapdb/check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

#include "mapdb/check_internal.h"
#include "mapdb/cleanup.h"
#include "mapdb/lock_table.h"

#define FINDINGS_PER_KIND_MAX 8

const char *finding_kind_name(enum finding_kind kind)
{
	static const char *const names[] = {
	        [FINDING_BUNDLE] = "bundle", [FINDING_JOURNAL] = "journal",   [FINDING_DATABASE] = "database",
	        [FINDING_SCHEMA] = "schema", [FINDING_MAP] = "map",           [FINDING_REDO] = "redo",
	        [FINDING_UNDO] = "undo",     [FINDING_HISTORY] = "history",   [FINDING_DATA] = "data",
	        [FINDING_LEAK] = "leak",     [FINDING_LEFTOVER] = "leftover", [FINDING_FOREIGN] = "foreign",
	        [FINDING_ACCESS] = "access", [FINDING_SKIPPED] = "skipped",
	};

	return names[kind];
}

static void add_finding(struct check *check, const struct finding *finding)
{
	struct check_report *report = check->report;
	unsigned int same = 0;

	for (size_t i = 0; i < report->count; i++)
		same += report->findings[i].kind == finding->kind;
	if (same >= FINDINGS_PER_KIND_MAX) {
		report->omitted++;
		return;
	}
	struct finding *findings = reallocarray(report->findings, report->count + 1, sizeof *findings);
	if (!findings) {
		check->error = -ENOMEM;
		return;
	}
	report->findings = findings;
	findings[report->count++] = *finding;
}

void check_add_bytes(struct check *check, enum finding_kind kind, enum finding_weight weight, uint64_t bytes,
                     const char *format, ...)
{
	struct finding finding = {
	        .kind = kind, .error = weight != NOTE, .repairable = weight == REPAIRABLE, .bytes = bytes};
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(finding.text, sizeof finding.text, format, arguments);
	va_end(arguments);
	add_finding(check, &finding);
}

size_t check_errors(const struct check_report *report, bool repaired)
{
	size_t count = 0;

	for (size_t i = 0; i < report->count; i++)
		count += report->findings[i].error && report->findings[i].repaired == repaired;
	return count;
}

void check_report_free(struct check_report *report)
{
	free(report->findings);
	*report = (struct check_report){0};
}

bool check_stopped(const struct check *check)
{
	return check->stop && check->stop();
}

/* ---- the bundle ---- */

static bool known_member(const char *name)
{
	static const char *const members[] = {BUNDLE_DATA_NAME, MAP_DB_NAME, JOURNAL_NAME};

	for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
		if (!strcmp(name, members[i]))
			return true;
	}
	return !strcmp(name, ".") || !strcmp(name, "..");
}

static int note_foreign(void *context, const char *entry)
{
	if (!known_member(entry))
		check_add(context, FINDING_FOREIGN, FAULT, "the bundle holds %.150s, which does not belong there",
		          entry);
	return 0;
}

/* Whoever can write the directory or the database can show the guest whatever he likes. */
static void look_at_access(struct check *check, const struct stat *bundle, const struct stat *db,
                           const struct stat *data)
{
	if (bundle->st_uid != data->st_uid && bundle->st_uid != 0)
		check_add(check, FINDING_ACCESS, NOTE, "the bundle belongs to user %u, its data to user %u",
		          bundle->st_uid, data->st_uid);
	if (db->st_uid != bundle->st_uid && db->st_uid != 0)
		check_add(check, FINDING_ACCESS, NOTE, "map.db belongs to user %u, the bundle to user %u", db->st_uid,
		          bundle->st_uid);
	if (bundle->st_mode & (S_IWGRP | S_IWOTH) && !(bundle->st_mode & S_ISVTX))
		check_add(check, FINDING_ACCESS, NOTE, "others than its owner may change the bundle (mode %04o)",
		          bundle->st_mode & 07777);
	if (db->st_mode & (S_IWGRP | S_IWOTH))
		check_add(check, FINDING_ACCESS, NOTE, "others than its owner may change map.db (mode %04o)",
		          db->st_mode & 07777);
}

/* 1 if the bundle has what makes one, 0 if not; -errno if the host does not tell. */
static int look_at_members(struct check *check)
{
	struct stat bundle, db, data;
	size_t errors = check_errors(check->report, false);

	if (fstat(check->bundle_fd, &bundle) < 0)
		return -errno;
	int rc = name_stat(check->bundle_fd, MAP_DB_NAME, &db);
	if (rc < 0) /* gone meanwhile, if it is -ENOENT */
		return rc;
	rc = name_stat(check->bundle_fd, BUNDLE_DATA_NAME, &data);
	if (rc < 0 && rc != -ENOENT)
		return rc;
	int hidden = rc == 0 && data.st_nlink != 1 ? names_has_hidden_link(check->parent_fd, &data) : 1;
	if (hidden < 0)
		return hidden;
	if (rc < 0)
		check_add(check, FINDING_BUNDLE, FAULT, "its data file is missing");
	else if (!S_ISREG(data.st_mode))
		check_add(check, FINDING_BUNDLE, FAULT, "its data is not a regular file");
	else if (!hidden)
		check_add(check, FINDING_BUNDLE, FAULT,
		          "its data file has another hard link somewhere (find -inum %llu)",
		          (unsigned long long)data.st_ino);
	if (!S_ISREG(db.st_mode))
		check_add(check, FINDING_BUNDLE, FAULT, "its map.db is not a regular file");
	else if (db.st_nlink != 1)
		check_add(check, FINDING_BUNDLE, FAULT, "its map.db has another hard link somewhere (find -inum %llu)",
		          (unsigned long long)db.st_ino);
	if (rc == 0)
		look_at_access(check, &bundle, &db, &data);
	return check_errors(check->report, false) == errors;
}

/* ---- who uses it ---- */

/* Opens the data file and finds out whether anybody uses the image. With the lock shared no tool changes it; the daemon
 * may start to. */
static int open_data_to_look(struct check *check)
{
	struct stat status;
	int fd = data_open(&io_look, check->bundle_fd, BUNDLE_DATA_NAME, O_RDONLY);

	if (fd == -EAGAIN) {
		check->report->in_use = true;
		check_add(check, FINDING_SKIPPED, NOTE, "the data file is not looked at: a tool is working on it");
		return 0;
	}
	if (fd < 0)
		return fd;
	check->data_fd = fd;
	if (fstat(fd, &status) < 0)
		return -errno;
	check->data_size = (uint64_t)status.st_size;
	check->unused = flock(fd, LOCK_EX | LOCK_NB) == 0 && flock(fd, LOCK_SH | LOCK_NB) == 0;
	if (!check->unused)
		(void)flock(fd, LOCK_SH | LOCK_NB);
	check->report->in_use = !check->unused;
	return 0;
}

/* True if a tool has the image for itself. */
static bool being_changed(const struct check *check)
{
	struct lock_holder holders[16];
	struct found found;
	size_t count = 0;

	if (names_find(&io_look, check->parent_fd, check->name, &found) == 0 && found.has_data)
		count = lock_holders(&found.data, holders, sizeof holders / sizeof holders[0]);
	for (size_t i = 0; i < count; i++) {
		if (holders[i].write)
			return true;
	}
	return false;
}

void check_add_leftover(struct check *check, const char *entry)
{
	if (being_changed(check))
		check_add(check, FINDING_LEFTOVER, NOTE, "%s: a tool is working on the image", entry);
	else
		check_add(check, FINDING_LEFTOVER, REPAIRABLE, "%s: left by a change that was interrupted", entry);
}

static int visit_leftover(void *context, const char *entry, const char *name)
{
	check_add_leftover(context, entry);
	return 0;
}

static int look_at_bundle(struct check *check)
{
	int rc = io_look_entries(check->bundle_fd, note_foreign, check);

	if (rc == 0)
		rc = look_at_members(check);
	if (rc <= 0)
		return rc;
	rc = open_data_to_look(check);
	if (rc == 0)
		rc = check_database(check);
	if (rc == 0 && check->map && check->data_fd >= 0)
		rc = check_data(check);
	return rc;
}

static int look(struct check *check)
{
	struct check_report *report = check->report;
	struct stat status;
	int rc = name_stat(check->parent_fd, check->name, &status);

	if (rc < 0)
		return rc;
	rc = names_visit_hidden(check->parent_fd, check->name, visit_leftover, check);
	if (rc < 0)
		return rc;
	if (S_ISREG(status.st_mode)) {
		report->kind = NAME_FILE;
		report->size = (uint64_t)status.st_size;
		return 0;
	}
	if (!S_ISDIR(status.st_mode))
		return -EINVAL;
	cleanup_fd int bundle_fd = bundle_open(&io_look, check->parent_fd, check->name);
	if (bundle_fd < 0)
		return bundle_fd;
	if (name_stat(bundle_fd, MAP_DB_NAME, &status) == -ENOENT)
		return -EISDIR;
	report->kind = NAME_BUNDLE;
	check->bundle_fd = bundle_fd;
	rc = look_at_bundle(check);
	if (check->data_fd >= 0)
		close(check->data_fd);
	image_map_unref(check->map);
	return rc;
}

int check_image(int parent_fd, const char *name, bool (*stop)(void), struct check_report *report)
{
	struct check check = {
	        .report = report,
	        .stop = stop,
	        .parent_fd = parent_fd,
	        .name = name,
	        .data_fd = -1,
	        .data_size = IMAGE_MAP_OFF_MAX,
	};

	*report = (struct check_report){0};
	int rc = look(&check);
	if (rc == -EINTR && check_stopped(&check))
		rc = -ECANCELED;
	return rc == 0 ? check.error : rc;
}
