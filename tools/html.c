/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/html.h"

#include "mapdb/cleanup.h"
#include "tools/text.h"

void html_text(FILE *file, const char *text)
{
	cleanup_free char *printable = text_escape(text, true);
	for (const char *at = printable ? printable : "?"; *at; at++) {
		switch (*at) {
		case '&':
			fputs("&amp;", file);
			break;
		case '<':
			fputs("&lt;", file);
			break;
		case '>':
			fputs("&gt;", file);
			break;
		case '"':
			fputs("&quot;", file);
			break;
		case '\'':
			fputs("&#39;", file);
			break;
		default:
			fputc(*at, file);
		}
	}
}
