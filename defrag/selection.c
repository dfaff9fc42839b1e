/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/selection.h"

#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "mapdb/cleanup.h"

void selection_release(struct selection *selection)
{
	name_list_release(&selection->files);
	name_list_release(&selection->only);
	name_list_release(&selection->exclude);
	if (selection->locale)
		freelocale(selection->locale);
	*selection = (struct selection){0};
}

/* Slashes between the names, none before the first. */
static char *within_volume(char *path)
{
	for (char *c = path; *c; c++)
		if (*c == '\\')
			*c = '/';
	return path + strspn(path, "/");
}

static bool has_drive(const char *path)
{
	return isalpha((unsigned char)path[0]) && path[1] == ':';
}

int selection_add_pattern(struct selection *selection, struct name_list *list, const char *pattern)
{
	if (!selection->locale)
		selection->locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
	if (!selection->locale)
		return -errno;
	cleanup_free char *copy = strdup(pattern);
	if (!copy)
		return -ENOMEM;
	char *text = within_volume(copy);
	size_t length = strlen(text);
	while (length > 0 && text[length - 1] == '/')
		text[--length] = '\0';
	return length == 0 || has_drive(text) ? -EINVAL : name_list_add(list, text);
}

/* A path is a pattern that matches nothing else: what is special in a pattern stands in brackets. */
int selection_add_file(struct selection *selection, const char *path)
{
	cleanup_free char *quoted = malloc(3 * strlen(path) + 1);
	size_t length = 0;
	if (!quoted)
		return -ENOMEM;
	for (const char *c = path; *c; c++) {
		bool special = strchr("*?[", *c) != NULL;
		if (special)
			quoted[length++] = '[';
		quoted[length++] = *c;
		if (special)
			quoted[length++] = ']';
	}
	quoted[length] = '\0';
	return selection_add_pattern(selection, &selection->files, quoted);
}

bool selection_needs_names(const struct selection *selection)
{
	return selection->files.count || selection->only.count || selection->exclude.count;
}

bool selection_selects(const struct selection *selection)
{
	return selection->min_fragments || selection->min_bytes || selection_needs_names(selection);
}

static bool matches(const char *pattern, const char *path)
{
	return fnmatch(pattern, path, FNM_CASEFOLD | FNM_LEADING_DIR) == 0;
}

static bool matches_any(const struct name_list *patterns, const char *path)
{
	for (size_t i = 0; i < patterns->count; i++)
		if (matches(patterns->names[i], path))
			return true;
	return false;
}

unsigned int selection_match(const struct selection *selection, char *path, uint8_t *found)
{
	const struct name_list *files = &selection->files;
	bool meant = !files->count && !selection->only.count;
	locale_t before = uselocale(selection->locale);
	path = within_volume(path);
	for (size_t i = 0; i < files->count; i++) {
		if ((meant && !found) || !matches(files->names[i], path))
			continue;
		meant = true;
		if (found)
			found[i] = 1;
	}
	meant = meant || matches_any(&selection->only, path);
	bool excluded = matches_any(&selection->exclude, path);
	uselocale(before);
	return (meant ? SELECTION_MEANT : 0) | (excluded ? SELECTION_EXCLUDED : 0);
}
