/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/cleanup.h"

#define ESCAPED_MAX 6 /* bytes that one character can become: \uNNNN */

/* How long the character is that this byte begins; 0 if none can begin so. */
static size_t utf8_length(unsigned char first)
{
	if (first < 0x80)
		return 1;
	if (first < 0xc2)
		return 0;
	return first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
}

/* The character at text and how many bytes it takes; 0 if there is no valid one (RFC 3629: shortest form, no
 * surrogates). */
static size_t decode_utf8(const unsigned char *text, uint32_t *character)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t length = utf8_length(text[0]);
	if (length <= 1) {
		*character = text[0];
		return length;
	}
	uint32_t value = text[0] & (0x7fu >> length);
	for (size_t i = 1; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80) /* the terminating zero ends up here, too */
			return 0;
		value = value << 6 | (text[i] & 0x3f);
	}
	if (value < least[length] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
		return 0;
	*character = value;
	return length;
}

static bool is_control(uint32_t character)
{
	return character < 0x20 || (character >= 0x7f && character < 0xa0) || /* C0, DEL, C1 */
	       (character >= 0x200e && character <= 0x200f) ||                /* direction marks */
	       (character >= 0x2028 && character <= 0x202e) || /* line and paragraph separators, direction overrides */
	       (character >= 0x2066 && character <= 0x2069);   /* direction isolates */
}

char *text_escape(const char *text, bool controls)
{
	char *escaped = malloc(strlen(text) * ESCAPED_MAX + 1);
	if (!escaped)
		return NULL;
	char *to = escaped;
	for (const unsigned char *from = (const unsigned char *)text; *from;) {
		uint32_t character;
		size_t length = decode_utf8(from, &character);
		if (length == 0) {
			to += sprintf(to, "\\x%02x", *from++);
			continue;
		}
		if (controls && is_control(character)) {
			to += sprintf(to, character < 0x100 ? "\\x%02" PRIx32 : "\\u%04" PRIx32, character);
		} else {
			memcpy(to, from, length);
			to += length;
		}
		from += length;
	}
	*to = '\0';
	return escaped;
}

void text_print(FILE *out, const char *text)
{
	cleanup_free char *escaped = text_escape(text, true);
	if (escaped) {
		fputs(escaped, out);
		return;
	}
	for (; *text; text++)
		fputc(*text >= ' ' && *text < 0x7f ? *text : '?', out);
}

static bool begins_character(char byte)
{
	return ((unsigned char)byte & 0xc0) != 0x80;
}

const char *text_end_of(char *buffer, const char *path, const char *stream, size_t columns)
{
	cleanup_free char *first = text_escape(path, true), *second = text_escape(stream, true);
	cleanup_free char *whole = NULL;
	buffer[0] = '\0';
	if (!first || !second || asprintf(&whole, "%s%s", first, second) < 0)
		return buffer;
	size_t characters = 0;
	for (const char *c = whole; *c; c++)
		characters += begins_character(*c);
	const char *from = whole;
	for (size_t excess = characters > columns ? characters - (columns - 3) : 0; excess > 0; excess--)
		for (from++; !begins_character(*from); from++)
			continue;
	snprintf(buffer, TEXT_COLUMNS_MAX + 1, "%s%s", from > whole ? "..." : "", from);
	return buffer;
}

const char *text_number(char buffer[TEXT_NUMBER_MAX], uint64_t value)
{
	char *at = buffer + TEXT_NUMBER_MAX - 1;
	*at = '\0';
	int digits = 0;
	do {
		if (digits > 0 && digits % 3 == 0)
			*--at = ',';
		*--at = (char)('0' + value % 10);
		value /= 10;
		digits++;
	} while (value > 0);
	return at;
}

const char *text_bytes(char buffer[TEXT_NUMBER_MAX], uint64_t bytes)
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	size_t unit = 0;
	double value = (double)bytes;
	while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	snprintf(buffer, TEXT_NUMBER_MAX, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
	return buffer;
}
