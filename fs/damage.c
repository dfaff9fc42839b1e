/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/damage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "fs/coarse_clock.h"
#include "fs/log.h"
#include "fs/open_image.h"
#include "mapdb/check.h"
#include "mapdb/lock_table.h"

/* Whoever opens the image waits so long, and so does the thread that handles his request: the database may be made to
 * be looked at for ever. */
#define LOOK_SECONDS 3

/* Of the look in this thread: check_image() tells stop nothing. */
static _Thread_local uint64_t deadline_ns;

static bool too_late(void)
{
	return coarse_now_ns() > deadline_ns;
}

/* Of what is wrong and is not mended by opening the image, what tells most: that about the map, else the first. */
static const struct finding *gravest(const struct check_report *report)
{
	const struct finding *first = NULL;

	for (size_t i = 0; i < report->count; i++) {
		const struct finding *finding = &report->findings[i];

		if (!finding->error || finding->repairable || finding->kind == FINDING_FOREIGN)
			continue;
		if (finding->kind == FINDING_MAP)
			return finding;
		if (!first)
			first = finding;
	}
	return first;
}

static void find_reason(int parent_fd, const char *name, char reason[FINDING_TEXT_MAX])
{
	struct check_report report;

	deadline_ns = coarse_now_ns() + LOOK_SECONDS * UINT64_C(1000000000);
	int ret = check_image(parent_fd, name, too_late, &report);
	/* What was found before the time was up is true as well. */
	const struct finding *finding = ret == 0 || ret == -ECANCELED ? gravest(&report) : NULL;

	snprintf(reason, FINDING_TEXT_MAX, "%s", finding ? finding->text : "the bundle or its map database is damaged");
	check_report_free(&report);
}

void damage_note(struct node *node, int parent_fd, const char *name)
{
	char reason[FINDING_TEXT_MAX];

	find_reason(parent_fd, name, reason);
	if (node_error_set(node, reason))
		log_message(LOG_ERR, "%s: not served: %s; zcfs-check(8) tells more", name, reason);
}

ssize_t damage_xattr(struct node *node, char *value, size_t size)
{
	char reason[FINDING_TEXT_MAX];
	struct open_image *image;

	struct stat status;

	/* A tool that works on it has found it sound, and would be disturbed. */
	if (node->kind != NODE_FILE || (fstat(node->fd, &status) == 0 && lock_leased(&status)))
		return -ENODATA;
	/* What was wrong yesterday may have been mended, and what was right may be damaged. */
	int ret = open_image_get(node, false, &image);
	if (ret == 0)
		open_image_put(image);
	if (ret == -EACCES)
		return ret;
	if ((ret != -EUCLEAN && ret != -ETXTBSY && ret != -EBUSY) || !node_error_get(node, reason, sizeof(reason)))
		return -ENODATA;
	size_t length = strlen(reason);
	if (size > 0)
		memcpy(value, reason, length < size ? length : size);
	return (ssize_t)length;
}
