/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * text: strings and numbers as a person reads them.
 *
 * Names inside an image are the guest's: they may hold terminal escapes, direction marks or bytes that are no UTF-8,
 * and the report's fixed fields may cut a character in two. What reaches a terminal or a JSON document passes through
 * here.
 */
#ifndef ZCFS_TEXT_H
#define ZCFS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* A malloc'ed copy of text in which every byte that is no UTF-8 is written as \xNN, and with controls also every
 * control and direction character, as \xNN or \uNNNN. NULL: no memory. */
char *text_escape(const char *text, bool controls);
/* Prints that, with controls. Without memory for it every byte that is not printable ASCII is a question mark: who is
 * told of a failure may well be told that there is no memory. */
void text_print(FILE *out, const char *text);

/* The last columns characters of what text_escape() makes of path and stream, after "..." if there are more. buffer:
 * TEXT_COLUMNS_MAX + 1 bytes; columns: 4 to 80. */
#define TEXT_COLUMNS_MAX (4 * 80)
const char *text_end_of(char *buffer, const char *path, const char *stream, size_t columns);

/* 1234567 -> "1,234,567"; the buffer holds it whatever the value. */
#define TEXT_NUMBER_MAX 32
const char *text_number(char buffer[TEXT_NUMBER_MAX], uint64_t value);

/* "512 bytes", "1.5 MiB". */
const char *text_bytes(char buffer[TEXT_NUMBER_MAX], uint64_t bytes);

#endif
