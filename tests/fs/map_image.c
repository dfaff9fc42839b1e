/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * map-image: does to an image of a store what the tools do, through the same library, for the tests of the daemon.
 *
 *     map-image scatter DIR NAME SEED BLOCK [FIRST]   cuts the image from byte FIRST on into blocks of BLOCK bytes, or
 *                                                     with BLOCK "MIN-MAX" into pieces between those, and lays them out
 *                                                     in random order (makes a bundle of a plain image)
 *     map-image hold DIR NAME SEED BLOCK              the same, but says "held" once it has the lock and waits for a
 *                                                     line on standard input; no lease, as where there are none
 *     map-image lease DIR NAME SEED BLOCK             the same with a lease, which the first attempt to open breaks
 *     map-image print DIR NAME                        the map: guest offset, length, host offset, a line each
 *     map-image plain DIR NAME                        sorts the map and makes the image plain again
 *     map-image redo DIR NAME GUEST_OFF TEXT          commits a change of the guest's bytes and "crashes" before
 *                                                     applying it
 *     map-image undo DIR NAME                         tells whether an undo is recorded and valid: none, stale or valid
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

/* How an image is to be cut and laid out anew; all in bytes but the seed. */
struct scattering {
	uint64_t seed, first, piece_min, piece_max;
};

static struct scattering parse_scattering(char **words, int count)
{
	struct scattering how = {.seed = strtoull(words[0], NULL, 0)};
	char *rest;

	how.piece_min = how.piece_max = strtoull(words[1], &rest, 0);
	if (*rest == '-')
		how.piece_max = strtoull(rest + 1, NULL, 0);
	if (count > 2)
		how.first = strtoull(words[2], NULL, 0);
	return how;
}

/* The pieces in guest order; what is left at the end is too short for one and stays. Returns their number. */
static size_t cut(const struct scattering *how, uint64_t size, uint64_t *state, struct map_move *pieces)
{
	uint64_t units = (how->piece_max - how->piece_min) / IMAGE_MAP_UNIT + 1, off = how->first;
	size_t count = 0;

	for (;;) {
		uint64_t length = how->piece_min + (units > 1 ? next_random(state) % units * IMAGE_MAP_UNIT : 0);

		if (off > size || length > size - off)
			return count;
		pieces[count++] = (struct map_move){.old_off = off, .length = length};
		off += length;
	}
}

/* A random order of the pieces, each put right behind the one before. */
static int permute_map(const struct image_map *map, const struct scattering *how, struct image_map **out)
{
	uint64_t size = image_map_size(map), state = how->seed * 2 + 1, off = how->first;
	struct map_move *pieces;
	size_t count;
	int ret;

	if (how->piece_min == 0 || how->piece_max < how->piece_min)
		return -EINVAL;
	pieces = calloc((size_t)(size / how->piece_min) + 1, sizeof(*pieces));
	if (!pieces)
		return -ENOMEM;
	count = cut(how, size, &state, pieces);
	for (size_t i = count; i > 1; i--) {
		size_t j = (size_t)(next_random(&state) % i);
		struct map_move piece = pieces[i - 1];

		pieces[i - 1] = pieces[j];
		pieces[j] = piece;
	}
	for (size_t i = 0; i < count; i++) {
		pieces[i].new_off = off;
		off += pieces[i].length;
	}
	ret = image_map_permute(map, pieces, count, out);
	free(pieces);
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

static int scatter(struct image *image, const struct scattering *how)
{
	struct image_map *map;
	int ret = permute_map(image->map, how, &map);

	if (ret == 0) {
		ret = commit_map(image, map);
		image_map_unref(map);
	}
	return ret;
}

static int hold(struct image *image, bool keep_lease, const struct scattering *how)
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
	return scatter(image, how);
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
	struct scattering how = {0};

	if (argc == 6 || argc == 7)
		how = parse_scattering(argv + 4, argc - 4);
	if (strcmp(argv[1], "scatter") == 0)
		return scatter(image, &how);
	if (strcmp(argv[1], "hold") == 0)
		return hold(image, false, &how);
	if (strcmp(argv[1], "lease") == 0)
		return hold(image, true, &how);
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
	image_close(image);
	close(dir_fd);
	return ret < 0 ? failed(argv[1], ret) : EXIT_SUCCESS;
}
