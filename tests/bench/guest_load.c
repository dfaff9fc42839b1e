// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * guest-load: the loads that bench-guest puts on a volume in its guest. Linked statically: nothing else is there.
 *
 *   guest-load sequential FILE BLOCK            reads all of it
 *   guest-load random FILE BLOCK COUNT          reads blocks at aligned places, the same ones every time
 *   guest-load database FILE COUNT              pages of 8 KiB: four reads to a write, fdatasync() after 16 writes
 *   guest-load tree DIRECTORY                   reads every file below it
 *   guest-load untar ARCHIVE DIRECTORY          makes the directory, unpacks the archive there with tar, and syncs
 *
 * Prints nanoseconds, bytes and operations. Exit status 1 for anything that goes wrong.
 */
#include <err.h>
#include <fcntl.h>
#include <fts.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LARGEST_BLOCK (4u << 20)
#define PAGE          8192u

static uint64_t bytes, operations;
static char block_buf[LARGEST_BLOCK];

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t random_next(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	if (!*text || *end)
		errx(1, "%s is not a number", text);
	return value;
}

static int open_file(const char *path, int flags, uint64_t *size)
{
	struct stat st;
	int fd = open(path, flags);

	if (fd < 0 || fstat(fd, &st))
		err(1, "%s", path);
	*size = (uint64_t)st.st_size;
	return fd;
}

static void count(ssize_t done)
{
	if (done < 0)
		err(1, "reading or writing");
	bytes += (uint64_t)done;
	operations++;
}

static void sequential(const char *path, uint64_t block)
{
	uint64_t size;
	int fd = open_file(path, O_RDONLY, &size);
	ssize_t done;

	if (block > LARGEST_BLOCK)
		errx(1, "the block is too large");
	while ((done = read(fd, block_buf, block)) > 0)
		count(done);
	if (done < 0)
		err(1, "%s", path);
	close(fd);
}

static void random_reads(const char *path, uint64_t block, uint64_t nr)
{
	uint64_t size, rng = 1;
	int fd = open_file(path, O_RDONLY, &size);

	if (block > LARGEST_BLOCK || size < block)
		errx(1, "%s: too small for that block, or the block is too large", path);
	for (uint64_t i = 0; i < nr; i++)
		count(pread(fd, block_buf, block, (off_t)(random_next(&rng) % (size / block) * block)));
	close(fd);
}

static void database(const char *path, uint64_t nr)
{
	uint64_t size, rng = 2, writes = 0;
	int fd = open_file(path, O_RDWR, &size);

	for (uint64_t i = 0; i < nr; i++) {
		off_t at = (off_t)(random_next(&rng) % (size / PAGE) * PAGE);

		if (i % 5) {
			count(pread(fd, block_buf, PAGE, at));
			continue;
		}
		memset(block_buf, (int)i, PAGE);
		count(pwrite(fd, block_buf, PAGE, at));
		if (++writes % 16 == 0 && fdatasync(fd))
			err(1, "fdatasync");
	}
	if (fdatasync(fd))
		err(1, "fdatasync");
	close(fd);
}

static void tree(char *path)
{
	FTS *fts = fts_open((char *[]){path, NULL}, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	FTSENT *entry;

	if (!fts)
		err(1, "%s", path);
	while ((entry = fts_read(fts)))
		if (entry->fts_info == FTS_F)
			sequential(entry->fts_accpath, 65536);
	fts_close(fts);
}

static void untar(char *archive, char *directory)
{
	char *const words[] = {"tar", "-x", "-f", archive, "-C", directory, NULL};
	pid_t child;
	int status;

	if (mkdir(directory, 0777))
		err(1, "%s", directory);
	child = fork();
	if (child < 0)
		err(1, "fork");
	if (!child) {
		execvp(words[0], words);
		err(127, "%s", words[0]);
	}
	if (waitpid(child, &status, 0) < 0 || status)
		errx(1, "tar failed");
	sync();
	operations++;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";
	uint64_t started = now_ns();

	if (!strcmp(what, "sequential") && argc == 4)
		sequential(argv[2], number(argv[3]));
	else if (!strcmp(what, "random") && argc == 5)
		random_reads(argv[2], number(argv[3]), number(argv[4]));
	else if (!strcmp(what, "database") && argc == 4)
		database(argv[2], number(argv[3]));
	else if (!strcmp(what, "tree") && argc == 3)
		tree(argv[2]);
	else if (!strcmp(what, "untar") && argc == 4)
		untar(argv[2], argv[3]);
	else
		errx(1, "wrong usage; the head of its source tells");
	printf("%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", now_ns() - started, bytes, operations);
	return 0;
}
