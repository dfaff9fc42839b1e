/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * No cell can be taken for a formula by a spreadsheet (=, +, -, @ at its beginning): paths in the guest begin with a
 * backslash, a question mark or "MFT record", streams with a colon, and an image's path that does gets a "./".
 */
#include "tools/file_list.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mapdb/cleanup.h"
#include "tools/text.h"

static void release_row(const struct fragmented *row)
{
	free((char *)row->path);
	free((char *)row->stream);
	free((char *)row->reason);
}

int file_list_add(void *context, const struct fragmented *fragmented)
{
	struct file_list *list = context;
	struct fragmented row = *fragmented;

	if (list->count == list->capacity) {
		size_t capacity = list->capacity ? list->capacity * 2 : WORST_FILES;
		void *grown = reallocarray(list->rows, capacity, sizeof(*list->rows));
		if (!grown)
			return -ENOMEM;
		list->rows = grown;
		list->capacity = capacity;
	}
	row.path = strdup(fragmented->path);
	row.stream = strdup(fragmented->stream);
	row.reason = strdup(fragmented->reason);
	if (!row.path || !row.stream || !row.reason) {
		release_row(&row);
		return -ENOMEM;
	}
	list->rows[list->count++] = row;
	return 0;
}

void file_list_release(struct file_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		release_row(&list->rows[i]);
	free(list->rows);
	*list = (struct file_list){0};
}

/* ---- CSV ---- */

static int write_text(const char *before, const char *text, FILE *out)
{
	cleanup_free char *escaped = text_escape(text, true);

	if (!escaped)
		return -ENOMEM;
	fprintf(out, "\"%s", before);
	for (const char *c = escaped; *c; c++) {
		if (*c == '"')
			fputc('"', out);
		fputc(*c, out);
	}
	fputc('"', out);
	return 0;
}

static const char head[] = "image,volume,path,stream,record,bytes,allocated_bytes,fragments,fragments_after,reason\r\n";

static bool may_be_replaced(int fd)
{
	char found[sizeof(head) - 1];
	struct stat status;

	if (fstat(fd, &status) == 0 && (!S_ISREG(status.st_mode) || status.st_size == 0))
		return true;
	return pread(fd, found, sizeof(found), 0) == sizeof(found) && memcmp(found, head, sizeof(found)) == 0;
}

int file_list_create(const char *path, FILE **out)
{
	cleanup_fd int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);

	if (fd < 0)
		return -errno;
	if (!may_be_replaced(fd))
		return -EEXIST;
	if (ftruncate(fd, 0) < 0 && errno != EINVAL) /* of what is no regular file */
		return -errno;
	*out = fdopen(fd, "w");
	if (!*out)
		return -errno;
	steal_fd(&fd);
	fputs(head, *out);
	return 0;
}

static int write_row(const struct fragmented *row, const char *image, FILE *out)
{
	int error = write_text(strchr("=+-@", image[0]) ? "./" : "", image, out);
	fprintf(out, ",%u,", row->volume);
	error = error ? error : write_text("", row->path, out);
	fputc(',', out);
	error = error ? error : write_text("", row->stream, out);
	fprintf(out, ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",", row->record, row->data_bytes,
	        row->bytes, row->fragments_before, row->fragments_after);
	error = error ? error : write_text("", row->reason, out);
	fputs("\r\n", out);
	return error;
}

int file_list_write(const struct file_list *list, const char *image, FILE *out)
{
	int error = 0;

	for (size_t i = 0; !error && i < list->count; i++)
		error = write_row(&list->rows[i], image, out);
	return error;
}
