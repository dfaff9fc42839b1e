/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * html: text for HTML and XML.
 */
#ifndef ZCFS_HTML_H
#define ZCFS_HTML_H

#include <stdio.h>

/* Any text, as content of an element or of an attribute in double quotes. What is no UTF-8, a control character or one
 * that turns the direction appears as text_escape() writes it; neither HTML nor XML could hold all of them. */
void html_text(FILE *file, const char *text);

#endif
