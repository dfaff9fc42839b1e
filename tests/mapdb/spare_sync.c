/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "spare_sync.h"

#include <fnmatch.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "power.h"

enum where { ANYWHERE, IN_STAGING, IN_LAST_TRANSACTION };

/* What, after which operation (fnmatch), and why it is there. */
static const struct spare {
	enum where where;
	const char *what, *after, *why;
} spares[] = {
        {IN_STAGING, "*", "*",
         "the bundle does not have its name yet. SQLite does not know; what counts is synced once more before the "
         "exchange"},
        {IN_LAST_TRANSACTION, "fsync map.db*", "*",
         "what it writes, each page by itself, does no harm: redo is forgotten (done twice it is the same), history "
         "ends"},
        {IN_LAST_TRANSACTION, "fsync [ab].img", "*", "the same"},
        {ANYWHERE, "fsync [ab].img", "[!f]*",
         "redo and whoever opens the image ask again, for the case that the process was killed: of the three one will "
         "do"},
        {ANYWHERE, "fsync [ab].img", "f*sync [!m]*", "the same"},
        {ANYWHERE, "fsync the store", "fsync .*",
         "before an exchange earlier changes of names end: missed only where there were any"},
        {ANYWHERE, "fsync the store", "link .*", "the same"},
        {ANYWHERE, "fsync the store", "rename * to .*.zcfs-replace-*", "the same"},
        {ANYWHERE, "fsync the store", "rename .*.zcfs-replace-* to *",
         "a replacement that is found under its hidden name is carried out"},
        {ANYWHERE, "fsync the store", "unlink .*.zcfs-plain-*",
         "only to be tidy early: see the sync before an exchange"},
        {ANYWHERE, "fdatasync .*", "fsync *.img", "redo was empty"},
        {ANYWHERE, "fsync .*", "fsync *.img", "the size was right: nothing was changed"},
};

/* Whether a file or directory, or the directory that it is in, has a hidden name. */
static bool in_staging(const struct io_record *record, size_t index)
{
	uint32_t node = io_record_get(record, index)->node;
	struct disk disk;
	bool staging = false;

	power_disk(record, index, POWER_KEPT, &disk);
	for (size_t i = 0; i < disk.entry_count; i++) {
		if (disk.entries[i].node != node)
			continue;
		for (size_t j = 0; j < disk.entry_count; j++) {
			const struct disk_entry *entry = &disk.entries[j];

			if (entry->name[0] == '.' && disk.entries[i].directory == entry->node)
				staging = true;
		}
		staging = staging || (disk.entries[i].name[0] == '.' && !strstr(disk.entries[i].name, "zcfs-plain-"));
	}
	disk_release(&disk);
	return staging;
}

static bool in_last_transaction(const struct io_record *record, size_t index, size_t change_end)
{
	for (size_t i = index; i < change_end; i++) {
		const struct io_operation *operation = io_record_get(record, i);

		if (operation->kind == IO_CREATE && !strcmp(operation->name, "map.db-journal"))
			return false;
	}
	return true;
}

const char *spare_sync(const struct io_record *record, size_t index, size_t change_end)
{
	char what[256], after[256];

	snprintf(what, sizeof what, "%s", io_record_describe(record, index));
	snprintf(after, sizeof after, "%s", index > 0 ? io_record_describe(record, index - 1) : "the start");
	for (size_t i = 0; i < sizeof spares / sizeof spares[0]; i++) {
		const struct spare *spare = &spares[i];

		if (fnmatch(spare->what, what, 0) != 0 || fnmatch(spare->after, after, 0) != 0 ||
		    (spare->where == IN_STAGING && !in_staging(record, index)) ||
		    (spare->where == IN_LAST_TRANSACTION && !in_last_transaction(record, index, change_end)))
			continue;
		return spare->why;
	}
	return NULL;
}
