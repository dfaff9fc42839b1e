/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * pread-loop: how fast one thread reads an image's pieces in the guest's order, with nothing between it and the file:
 * the measure of what a data path can add. One pread for each extent.
 *
 *     pread-loop FILE SECONDS < EXTENTS
 *
 * EXTENTS: a line for each, "guest offset, length, host offset", as map-image prints them. Prints bytes and seconds.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_SIZE (1u << 20) /* what FUSE asks for at once */

struct piece {
	uint64_t host_off, length; /* bytes */
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static struct piece *read_pieces(size_t *count)
{
	struct piece *pieces = NULL, piece;
	size_t capacity = 0;

	*count = 0;
	while (scanf("%*u %" SCNu64 " %" SCNu64, &piece.length, &piece.host_off) == 2) {
		if (*count == capacity) {
			capacity = capacity ? capacity * 2 : 1024;
			pieces = realloc(pieces, capacity * sizeof(*pieces));
			if (!pieces)
				abort();
		}
		pieces[(*count)++] = piece;
	}
	return pieces;
}

/* Fills the buffer round and round, as requests of its size would. Bytes read; -errno. */
static int64_t read_piece(int fd, uint8_t *buffer, uint64_t total, struct piece piece)
{
	uint64_t left = piece.length;

	while (left > 0) {
		uint64_t position = total % BUFFER_SIZE, room = BUFFER_SIZE - position;
		ssize_t n = pread(fd, buffer + position, left < room ? left : room, (off_t)piece.host_off);

		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		total += (uint64_t)n;
		piece.host_off += (uint64_t)n;
		left -= (uint64_t)n;
	}
	return (int64_t)piece.length;
}

int main(int argc, char **argv)
{
	struct piece *pieces;
	int64_t total = 0, n;
	double start, seconds;
	uint8_t *buffer;
	size_t count;
	int fd;

	if (argc != 3) {
		fprintf(stderr, "usage: pread-loop FILE SECONDS < EXTENTS\n");
		return 2;
	}
	pieces = read_pieces(&count);
	fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	buffer = aligned_alloc(4096, BUFFER_SIZE);
	seconds = strtod(argv[2], NULL);
	if (fd < 0 || count == 0 || !buffer) {
		fprintf(stderr, "pread-loop: %s: %s\n", argv[1], fd < 0 ? strerror(errno) : "no extents");
		return EXIT_FAILURE;
	}
	start = now();
	for (size_t i = 0; (i & 255) != 0 || now() - start < seconds; i = i + 1 < count ? i + 1 : 0) {
		n = read_piece(fd, buffer, (uint64_t)total, pieces[i]);
		if (n < 0) {
			fprintf(stderr, "pread-loop: %s: %s\n", argv[1], strerror((int)-n));
			return EXIT_FAILURE;
		}
		total += n;
	}
	printf("%" PRId64 " %.6f\n", total, now() - start);
	close(fd);
	free(buffer);
	free(pieces);
	return EXIT_SUCCESS;
}
