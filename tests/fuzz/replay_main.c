/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * For builds without libFuzzer: gives a target every file that is named, or lies in a directory that is named, and the
 * input of no bytes.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "tests/mapdb/check.h"

#define INPUT_MAX (1u << 20)

int __attribute__((weak)) LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	return 0;
}

/* Custom mutators are linked, but nobody calls them here. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
	(void)data, (void)max_size;
	return size;
}

static unsigned int inputs;

static void replay(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t *bytes = malloc(INPUT_MAX);
	CHECK(fd >= 0 && bytes);
	ssize_t size = read(fd, bytes, INPUT_MAX);
	CHECK(size >= 0 && size < INPUT_MAX);
	close(fd);
	uint8_t *exact = malloc((size_t)size + !size); /* so that a sanitizer sees the end */
	CHECK(exact);
	for (ssize_t i = 0; i < size; i++)
		exact[i] = bytes[i];
	check_context("%s", path);
	LLVMFuzzerTestOneInput(exact, (size_t)size);
	inputs++;
	free(exact);
	free(bytes);
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void replay_directory(const char *path)
{
	struct dirent **entries;
	char name[4096];
	int count = scandir(path, &entries, is_visible, alphasort);
	if (count < 0) { /* a file */
		replay(path);
		return;
	}
	for (int i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
		replay(name);
		free(entries[i]);
	}
	free(entries);
}

int main(int argc, char **argv)
{
	LLVMFuzzerInitialize(&argc, &argv);
	LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
	for (int i = 1; i < argc; i++)
		replay_directory(argv[i]);
	printf("%u inputs\n", inputs);
	return inputs ? 0 : 1;
}
