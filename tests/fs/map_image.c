/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map-image: does to an image of a store what the tools do, through the same library, for the tests of the daemon.
 *
 *     map-image scatter DIR NAME SEED BLOCK   exchanges blocks of BLOCK bytes at random (makes a bundle of a plain
 * image) map-image hold DIR NAME SEED BLOCK      the same, but says "held" once it has the lock and waits for a line on
 * standard input; without a lease, as on a file system that has none map-image lease DIR NAME SEED BLOCK     the same
 * with a lease, which the first attempt to open the file breaks map-image print DIR NAME                the map: guest
 * offset, length, host offset, a line each map-image plain DIR NAME                sorts the map and makes the image
 * plain again map-image redo DIR NAME GUEST_OFF TEXT  commits a change of the guest's bytes and "crashes" before
 * applying it map-image undo DIR NAME                 tells whether an undo is recorded and valid: none, stale or valid
 *
 * Exit status 0; 1 with a message; 3 if the image is in use.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mapdb/image.h"

#define EXIT_IN_USE       3
#define LEASE_PATIENCE_MS 3000

static int failed(const char *what, int ret)
{
	fprintf(stderr, "map-image: %s: %s\n", what, strerror(-ret));
	return ret == -EBUSY ? EXIT_IN_USE : EXIT_FAILURE;
}

/* xorshift64: the same permutation for the same seed everywhere. */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* A random permutation of whole blocks; the rest of the image stays. */
static int permute_map(const struct image_map *map, uint64_t seed, uint64_t block, struct image_map **out)
{
	size_t count = (size_t)(image_map_size(map) / block);
	struct map_move *moves = calloc(count + 1, sizeof(*moves));
	uint64_t state = seed * 2 + 1;
	int ret;

	if (!moves)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		moves[i] = (struct map_move){.new_off = i * block, .old_off = i * block, .length = block};
	for (size_t i = count; i > 1; i--) {
		size_t j = (size_t)(next_random(&state) % i);
		uint64_t off = moves[i - 1].old_off;

		moves[i - 1].old_off = moves[j].old_off;
		moves[j].old_off = off;
	}
	ret = image_map_permute(map, moves, count, out);
	free(moves);
	return ret;
}

static int commit_map(struct image *image, const struct image_map *map)
{
	const struct run_record run = {.operation = "scatter", .options = "test"};
	int ret = image_begin(image);

	if (ret < 0)
		return ret;
	ret = map_db_put_map(image->db, map);
	if (ret == 0)
		ret = map_db_put_run(image->db, &run);
	if (ret == 0)
		ret = image_commit(image);
	if (ret < 0)
		image_rollback(image);
	return ret;
}

static int scatter(struct image *image, const char *seed, const char *block)
{
	struct image_map *map;
	int ret = permute_map(image->map, strtoull(seed, NULL, 0), strtoull(block, NULL, 0), &map);

	if (ret == 0) {
		ret = commit_map(image, map);
		image_map_unref(map);
	}
	return ret;
}

static int hold(struct image *image, bool keep_lease, const char *seed, const char *block)
{
	char line[16];

	if (!keep_lease && image->leased) {
		if (fcntl(image->data_fd, F_SETLEASE, F_UNLCK) < 0)
			return -errno;
		image->leased = false;
	}
	printf("held\n");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 0;
	return scatter(image, seed, block);
}

static int print_map(struct image *image)
{
	for (size_t i = 0; i < image_map_count(image->map); i++) {
		struct extent extent = image_map_get(image->map, i);

		printf("%llu %llu %llu\n", (unsigned long long)extent.guest_off, (unsigned long long)extent.length,
		       (unsigned long long)extent.host_off);
	}
	return 0;
}

/* The permutation that undoes all others, for a map that names exactly [0, size) of the host. */
static int make_plain(struct image *image)
{
	struct image_map *identity;
	int ret = image_map_identity(image_map_size(image->map), &identity);

	if (ret == 0) {
		ret = commit_map(image, identity);
		image_map_unref(identity);
	}
	return ret < 0 ? ret : image_make_plain(image);
}

static int commit_redo(struct image *image, const char *guest_off, const char *text)
{
	static struct redo_blob redo, undo;
	struct extent place;
	int ret;

	image_map_lookup(image->map, strtoull(guest_off, NULL, 0), strlen(text), &place);
	if (place.length < strlen(text))
		return -EINVAL;
	redo_blob_put(&redo, place.host_off, (const uint8_t *)text, 0, strlen(text));
	redo_blob_put(&undo, place.host_off, NULL, 0, strlen(text));
	ret = image_begin(image);
	if (ret == 0)
		ret = map_db_put_map(image->db, image->map);
	if (ret == 0)
		ret = map_db_put_redo(image->db, &redo, &undo);
	if (ret == 0)
		ret = map_db_commit(image->db);
	if (ret == 0)
		_exit(EXIT_SUCCESS);
	return ret;
}

static int print_undo(struct image *image)
{
	bool valid = false;
	int ret = image->db ? map_db_undo_valid(image->db, image->data_fd, &valid) : 0;

	if (ret == 0)
		printf("%s\n", valid ? "valid" : image->state.undo_recorded ? "stale" : "none");
	return ret;
}

static int run(struct image *image, int argc, char **argv)
{
	if (strcmp(argv[1], "scatter") == 0 && argc == 6)
		return scatter(image, argv[4], argv[5]);
	if (strcmp(argv[1], "hold") == 0 && argc == 6)
		return hold(image, false, argv[4], argv[5]);
	if (strcmp(argv[1], "lease") == 0 && argc == 6)
		return hold(image, true, argv[4], argv[5]);
	if (strcmp(argv[1], "redo") == 0 && argc == 6)
		return commit_redo(image, argv[4], argv[5]);
	if (strcmp(argv[1], "print") == 0)
		return print_map(image);
	if (strcmp(argv[1], "plain") == 0)
		return make_plain(image);
	if (strcmp(argv[1], "undo") == 0)
		return print_undo(image);
	return -EINVAL;
}

int main(int argc, char **argv)
{
	struct image *image;
	int dir_fd, ret;

	if (argc < 4) {
		fprintf(stderr, "usage: map-image COMMAND DIR NAME ...\n");
		return 2;
	}
	dir_fd = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return failed(argv[2], -errno);
	ret = image_open(&io_posix, dir_fd, argv[3], strcmp(argv[1], "print") == 0 ? IMAGE_UNLOCKED : IMAGE_EXCLUSIVE,
	                 0, LEASE_PATIENCE_MS, &image);
	if (ret < 0)
		return failed(argv[3], ret);
	ret = run(image, argc, argv);
	if (ret < 0)
		return failed(argv[1], ret);
	image_close(image);
	close(dir_fd);
	return EXIT_SUCCESS;
}
