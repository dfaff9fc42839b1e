/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdlib.h>

#include "tools/canvas.h"
#include "tools/html.h"

#define LAYERS (COLOURS + 1) /* a path of each colour, and the texts above them */

struct svg {
	struct canvas canvas;
	unsigned int width, height;
	struct layer {
		char *text;
		size_t size;
		FILE *file;
	} layers[LAYERS];
};

static void fill(struct canvas *canvas, enum colour colour, unsigned int x, unsigned int y, unsigned int width,
                 unsigned int height)
{
	struct svg *svg = (struct svg *)canvas;
	fprintf(svg->layers[colour].file, "M%u %uh%uv%uh-%uz", x, y, width, height, width);
}

static void text(struct canvas *canvas, unsigned int x, unsigned int y, const char *line)
{
	struct svg *svg = (struct svg *)canvas;
	FILE *file = svg->layers[COLOURS].file;
	fprintf(file, "<text x=\"%u\" y=\"%u\">", x, y + CANVAS_TEXT_HEIGHT - 2);
	html_text(file, line);
	fputs("</text>\n", file);
}

static void svg_free(struct svg *svg)
{
	for (int i = 0; i < LAYERS; i++) {
		if (svg->layers[i].file)
			fclose(svg->layers[i].file);
		free(svg->layers[i].text);
	}
	free(svg);
}

int canvas_svg_new(unsigned int width, unsigned int height, struct canvas **out)
{
	struct svg *svg = calloc(1, sizeof(*svg));
	if (!svg)
		return -ENOMEM;
	*svg = (struct svg){.canvas = {.fill = fill, .text = text}, .width = width, .height = height};
	for (int i = 0; i < LAYERS; i++) {
		svg->layers[i].file = open_memstream(&svg->layers[i].text, &svg->layers[i].size);
		if (!svg->layers[i].file) {
			svg_free(svg);
			return -ENOMEM;
		}
	}
	*out = &svg->canvas;
	return 0;
}

void canvas_svg_style(FILE *file)
{
	for (int dark = 0; dark < 2; dark++) {
		fputs(dark ? "@media screen and (prefers-color-scheme:dark){" : "", file);
		for (int i = 0; i < COLOURS; i++)
			fprintf(file, ".c%d{fill:#%06x}", i, dark ? canvas_shades[i].dark : canvas_shades[i].light);
		fprintf(file, "text{fill:#%06x}",
		        dark ? canvas_shades[COLOUR_INK].dark : canvas_shades[COLOUR_INK].light);
		fputs(dark ? "}" : "", file);
	}
}

/* Layers from the paper up to the texts. */
static void write_layers(struct svg *svg, FILE *file)
{
	static const int below[] = {COLOUR_PAPER, COLOUR_FRAME};
	for (int i = -2; i < LAYERS; i++) {
		int layer = i < 0 ? below[i + 2] : i;
		if ((i >= COLOUR_PAPER && i <= COLOUR_FRAME) || !svg->layers[layer].size)
			continue;
		if (layer < COLOURS)
			fprintf(file, "<path class=\"c%d\" d=\"%s\"/>\n", layer, svg->layers[layer].text);
		else
			fputs(svg->layers[layer].text, file);
	}
}

int canvas_svg_finish(struct canvas *canvas, const char *label, bool styled, FILE *file)
{
	struct svg *svg = (struct svg *)canvas;
	bool failed = false;
	for (int i = 0; i < LAYERS; i++) {
		failed |= ferror(svg->layers[i].file) || fclose(svg->layers[i].file);
		svg->layers[i].file = NULL;
	}
	if (!failed) {
		fprintf(file,
		        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %u %u\" role=\"img\" aria-label=\"",
		        svg->width, svg->height);
		html_text(file, label);
		fputs("\">\n", file);
		if (styled) {
			fputs("<style>", file);
			canvas_svg_style(file);
			fprintf(file, "text{font:%upx sans-serif}</style>\n", CANVAS_TEXT_HEIGHT);
		}
		write_layers(svg, file);
		fputs("</svg>\n", file);
	}
	svg_free(svg);
	return failed ? -ENOMEM : 0;
}
