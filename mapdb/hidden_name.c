/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "mapdb/hidden_name.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define HIDDEN_MARK ".zcfs-"
#define LONG_MARK   "long-"
#define HASH_DIGITS 16

/* FNV-1a: http://www.isthe.com/chongo/tech/comp/fnv/ */
static uint64_t hash_of(const char *name)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
	return hash;
}

/* At most length bytes, but no part of a character in UTF-8: some file systems take no such names. */
static int cut_length(const char *name, int length)
{
	int shorter = length;

	while (length - shorter < 3 && ((unsigned char)name[shorter] & 0xc0) == 0x80)
		shorter--;
	return ((unsigned char)name[shorter] & 0xc0) == 0x80 ? length : shorter;
}

void hidden_name_make(const char *name, const char *suffix, char entry[NAME_LENGTH_MAX + 1])
{
	size_t size = NAME_LENGTH_MAX + 1;

	assert(strlen(suffix) <= 64);
	if (snprintf(entry, size, ".%s" HIDDEN_MARK "%s", name, suffix) <= NAME_LENGTH_MAX)
		return;
	int rest = (int)(strlen("." HIDDEN_MARK LONG_MARK "-") + HASH_DIGITS + strlen(suffix));
	int length = snprintf(entry, size, ".%.*s" HIDDEN_MARK LONG_MARK "%0*" PRIx64 "-%s",
	                      cut_length(name, NAME_LENGTH_MAX - rest), name, HASH_DIGITS, hash_of(name), suffix);
	assert(length <= NAME_LENGTH_MAX);
	(void)length;
}

static bool is_random_part(const char *text)
{
	size_t length = 0;

	while (isalnum((unsigned char)text[length]))
		length++;
	return length == HIDDEN_RANDOM_LETTERS && text[length] == '\0';
}

static bool parse_suffix(const char *suffix, struct hidden_name *hidden)
{
	int consumed = 0;

	hidden->kind = HIDDEN_STAGING;
	if (is_random_part(suffix))
		return true;
	if (!strncmp(suffix, REMOVED_MARK, strlen(REMOVED_MARK))) {
		hidden->kind = HIDDEN_REMOVED;
		return is_random_part(suffix + strlen(REMOVED_MARK));
	}
	if (!strncmp(suffix, PLAIN_MARK, strlen(PLAIN_MARK))) {
		hidden->kind = HIDDEN_PLAIN;
		return is_random_part(suffix + strlen(PLAIN_MARK));
	}
	hidden->kind = HIDDEN_REPLACE;
	return sscanf(suffix, REPLACE_MARK "%" SCNx64 "-%" SCNx64 "%n", &hidden->new_inode, &hidden->old_inode,
	              &consumed) == 2 &&
	       suffix[consumed] == '\0';
}

bool hidden_name_parse(const char *entry, struct hidden_name *hidden)
{
	const char *mark = NULL;
	int consumed = 0;

	for (const char *p = entry; (p = strstr(p, HIDDEN_MARK)); p++)
		mark = p;
	if (entry[0] != '.' || !mark || mark <= entry + 1 || strlen(entry) > NAME_LENGTH_MAX)
		return false;
	*hidden = (struct hidden_name){0};
	memcpy(hidden->name, entry + 1, (size_t)(mark - entry - 1));

	const char *suffix = mark + strlen(HIDDEN_MARK);
	if (sscanf(suffix, LONG_MARK "%16" SCNx64 "-%n", &hidden->hash, &consumed) == 1 && consumed > 0) {
		hidden->cut = true;
		suffix += consumed;
	}
	return parse_suffix(suffix, hidden);
}

bool hidden_name_is_of(const struct hidden_name *hidden, const char *name)
{
	if (!hidden->cut)
		return !strcmp(name, hidden->name);
	return !strncmp(name, hidden->name, strlen(hidden->name)) && hash_of(name) == hidden->hash;
}
