/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/drawing.h"

#include <errno.h>
#include <string.h>

#include "tools/picture.h"
#include "tools/picture_terminal.h"
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
	return !error || tell(path, "could not be written; the images are as the exit status says", error);
}

bool drawing_begin(struct drawing *drawing, const struct defrag_options *options)
{
	*drawing = (struct drawing){.options = options};
	return begin_file(options->picture_file, &drawing->picture);
}

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

/* A picture of what is not known is no file. */
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
	if (error) {
		new_file_drop(&drawing->picture);
		tell(path, "could not be drawn", error);
	}
}

void drawing_add(struct drawing *drawing, const struct outcome *outcome)
{
	const struct defrag_options *options = drawing->options;
	if (!outcome->reported) {
		new_file_drop(&drawing->picture);
		return;
	}
	if (options->picture)
		picture_print(stdout, picture_terminal_of(stdout), &outcome->report, options->mode == MODE_DRY_RUN);
	if (drawing->picture.file)
		draw_file(drawing, outcome);
}

bool drawing_finish(struct drawing *drawing)
{
	return finish_file(drawing->options->picture_file, &drawing->picture);
}
