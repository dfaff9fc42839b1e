/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/drawing.h"

#include <errno.h>
#include <string.h>

#include "tools/picture.h"
#include "tools/picture_terminal.h"
#include "tools/report_html.h"
#include "tools/text.h"

static bool tell(const char *path, const char *what, int error)
{
	fputs("zcfs-defrag: ", stderr);
	text_print(stderr, path);
	fprintf(stderr, ": %s: %s\n", what,
	        error == -EEXIST ? "there is something of this name that is no regular file, and stays"
	                         : strerror(-error));
	return false;
}

static bool begin_file(const char *path, struct new_file *file)
{
	int error = path ? new_file_open(path, file) : 0;
	return !error || tell(path, "cannot be made; nothing has been tried", error);
}

static bool finish_file(const char *path, struct new_file *file)
{
	int error = file->file ? new_file_commit(file) : 0;
	return !error || tell(path, "could not be written; the work on the images is not affected", error);
}

static void give_up(struct drawing *drawing, const char *path, struct new_file *file, int error)
{
	new_file_drop(file);
	tell(path, "could not be drawn; the work on the images is not affected", error);
	drawing->failed = true;
}

static void close_part(struct drawing_part *part)
{
	if (part->index)
		fclose(part->index);
	if (part->sections)
		fclose(part->sections);
	*part = (struct drawing_part){0};
}

static bool open_part(struct drawing_part *part)
{
	*part = (struct drawing_part){.index = tmpfile(), .sections = tmpfile()};
	if (part->index && part->sections)
		return true;
	close_part(part);
	return false;
}

bool drawing_begin(struct drawing *drawing, const struct defrag_options *options)
{
	*drawing = (struct drawing){.options = options};
	if (begin_file(options->picture_file, &drawing->picture) &&
	    begin_file(options->report_file, &drawing->report)) {
		if (!options->report_file || open_part(&drawing->part))
			return true;
		tell(options->report_file, "cannot be made; nothing has been tried", -errno);
	}
	new_file_drop(&drawing->picture);
	new_file_drop(&drawing->report);
	return false;
}

/* ---- a picture ---- */

static int draw(FILE *file, bool svg, const struct picture_page *page)
{
	struct canvas *canvas;
	unsigned int width, height;
	picture_page_size(page, &width, &height);
	int error = svg ? canvas_svg_new(width, height, &canvas) : canvas_png_new(width, height, &canvas);
	if (error)
		return error;
	picture_page_draw(page, canvas);
	return svg ? canvas_svg_finish(canvas, page->title, true, file) : canvas_png_finish(canvas, file);
}

static void draw_file(struct drawing *drawing, const struct outcome *outcome)
{
	const char *path = drawing->options->picture_file;
	struct picture_page page;
	int error = picture_page_init(&page, outcome->image, &outcome->report);
	if (!error) {
		page.dry_run = drawing->options->mode == MODE_DRY_RUN;
		error = draw(drawing->picture.file, strcmp(strrchr(path, '.'), ".svg") == 0, &page);
		picture_page_release(&page);
	}
	if (error)
		give_up(drawing, path, &drawing->picture, error);
}

/* ---- a report ---- */

int drawing_part_add(const struct drawing_part *part, const struct outcome *outcome, enum defrag_mode mode,
                     size_t number)
{
	report_html_index_row(part->index, outcome, mode, number);
	return report_html_image(part->sections, outcome, mode, number);
}

static void add_to_report(struct drawing *drawing, const struct outcome *outcome)
{
	int error = drawing_part_add(&drawing->part, outcome, drawing->options->mode, ++drawing->images);
	if (error)
		give_up(drawing, drawing->options->report_file, &drawing->report, error);
}

static bool copy_to_end(FILE *from, FILE *to)
{
	char buffer[4096];
	size_t length;
	if (fflush(from) || fseek(from, 0, SEEK_SET))
		return false;
	while ((length = fread(buffer, 1, sizeof(buffer), from)) > 0)
		fwrite(buffer, 1, length, to);
	return !ferror(from);
}

static void finish_report(struct drawing *drawing)
{
	FILE *file = drawing->report.file;
	bool copied = true;
	report_html_head(file, drawing->options->mode);
	if (drawing->images > 1) {
		report_html_index_start(file);
		copied = copy_to_end(drawing->part.index, file);
		report_html_index_end(file);
	}
	copied = copied && copy_to_end(drawing->part.sections, file);
	report_html_foot(file);
	if (copied)
		drawing->failed |= !finish_file(drawing->options->report_file, &drawing->report);
	else
		give_up(drawing, drawing->options->report_file, &drawing->report, -EIO);
}

/* ---- all of it ---- */

void drawing_add(struct drawing *drawing, const struct outcome *outcome)
{
	const struct defrag_options *options = drawing->options;
	if (options->picture && outcome->reported)
		picture_print(stdout, picture_terminal_of(stdout), &outcome->report, options->mode == MODE_DRY_RUN);
	if (drawing->picture.file && outcome->reported)
		draw_file(drawing, outcome);
	else /* a picture of what is not known is no file */
		new_file_drop(&drawing->picture);
	if (drawing->report.file)
		add_to_report(drawing, outcome);
}

bool drawing_finish(struct drawing *drawing)
{
	drawing->failed |= !finish_file(drawing->options->picture_file, &drawing->picture);
	if (drawing->report.file)
		finish_report(drawing);
	close_part(&drawing->part);
	return !drawing->failed;
}

/* ---- parts ---- */

bool drawing_part_begin(struct drawing *drawing, struct drawing_part *part, size_t *number)
{
	*part = (struct drawing_part){0};
	*number = ++drawing->images;
	return !drawing->report.file || open_part(part);
}

void drawing_part_end(const struct drawing_part *part)
{
	fflush(part->index);
	fflush(part->sections);
}

void drawing_take(struct drawing *drawing, struct drawing_part *part, bool complete)
{
	if (drawing->report.file && part->index && complete &&
	    (!copy_to_end(part->index, drawing->part.index) || !copy_to_end(part->sections, drawing->part.sections)))
		give_up(drawing, drawing->options->report_file, &drawing->report, -EIO);
	close_part(part);
}
