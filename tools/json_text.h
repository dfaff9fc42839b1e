/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * json_text: any bytes as a JSON string: those that are no UTF-8 are written as text_escape() writes them.
 */
#ifndef ZCFS_JSON_TEXT_H
#define ZCFS_JSON_TEXT_H

#include <jansson.h>

#include "mapdb/cleanup.h"
#include "tools/text.h"

/* A new reference; NULL: no memory. */
static inline json_t *json_text(const char *text)
{
	cleanup_free char *valid = text_escape(text, false);
	return valid ? json_string(valid) : NULL;
}

#endif
