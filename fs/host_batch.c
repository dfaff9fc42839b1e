/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/host_batch.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "fs/host_file.h"

#ifdef ZCFS_LIBURING
#include <liburing.h>
#endif

/* Pieces that follow each other on the host: one request to it. */
struct run {
	size_t first, count; /* pieces */
	size_t length;       /* bytes */
};

/* What a thread keeps from one batch to the next. */
struct reader {
	struct host_batch batch;
	struct iovec vector[HOST_BATCH_MAX]; /* of the pieces, in their order */
	struct run runs[HOST_BATCH_MAX];
	size_t run_count;
#ifdef ZCFS_LIBURING
	struct io_uring ring;
#endif
	bool has_ring;
};

static pthread_key_t reader_key;
static pthread_once_t reader_once = PTHREAD_ONCE_INIT;

static void reader_free(void *pointer)
{
	struct reader *reader = pointer;

#ifdef ZCFS_LIBURING
	if (reader->has_ring)
		io_uring_queue_exit(&reader->ring);
#endif
	free(reader);
}

static void make_reader_key(void)
{
	if (pthread_key_create(&reader_key, reader_free) != 0)
		abort();
}

static struct reader *this_reader(void)
{
	struct reader *reader;

	pthread_once(&reader_once, make_reader_key);
	reader = pthread_getspecific(reader_key);
	if (reader)
		return reader;
	reader = malloc(sizeof(*reader));
	if (!reader || pthread_setspecific(reader_key, reader) != 0) {
		free(reader);
		return NULL;
	}
	reader->has_ring = false;
#ifdef ZCFS_LIBURING
	reader->has_ring = io_uring_queue_init(HOST_BATCH_MAX, &reader->ring, 0) == 0;
#endif
	return reader;
}

struct host_batch *host_batch_begin(void)
{
	struct reader *reader = this_reader();

	if (!reader)
		return NULL;
	reader->batch.count = 0;
	return &reader->batch;
}

static int by_host_off(const void *left, const void *right)
{
	const struct host_piece *a = left, *b = right;

	return a->host_off < b->host_off ? -1 : a->host_off > b->host_off;
}

static void sort(struct host_batch *batch)
{
	for (size_t i = 1; i < batch->count; i++) {
		if (batch->pieces[i].host_off < batch->pieces[i - 1].host_off) {
			qsort(batch->pieces, batch->count, sizeof(batch->pieces[0]), by_host_off);
			return;
		}
	}
}

static void make_runs(struct reader *reader)
{
	const struct host_piece *pieces = reader->batch.pieces;

	reader->run_count = 0;
	for (size_t i = 0; i < reader->batch.count; i++) {
		struct run *run = reader->run_count ? &reader->runs[reader->run_count - 1] : NULL;

		reader->vector[i] = (struct iovec){pieces[i].buffer, pieces[i].length};
		if (run && pieces[run->first].host_off + run->length == pieces[i].host_off) {
			run->count++;
			run->length += pieces[i].length;
		} else {
			reader->runs[reader->run_count++] = (struct run){i, 1, pieces[i].length};
		}
	}
}

/* One run, waiting for it. Also finds out what was wrong with one that failed or ended early. */
static int read_run(struct reader *reader, const struct run *run, int fd)
{
	const struct host_piece *piece = &reader->batch.pieces[run->first];
	ssize_t n = preadv(fd, &reader->vector[run->first], (int)run->count, (off_t)piece->host_off);
	int ret = 0;

	if (n == (ssize_t)run->length)
		return 0;
	for (size_t i = 0; ret == 0 && i < run->count; i++)
		ret = host_read_all(fd, piece[i].buffer, piece[i].length, piece[i].host_off);
	return ret;
}

#ifdef ZCFS_LIBURING
/* Submits all runs and waits. Those that are still to be read by other means are what remains in reader->runs. */
static void read_by_ring(struct reader *reader, int fd)
{
	struct io_uring_cqe *cqe;
	size_t submitted = 0, left = 0;
	int ret = 0;

	for (size_t i = 0; i < reader->run_count; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&reader->ring);
		struct run *run = &reader->runs[i];

		io_uring_prep_readv(sqe, fd, &reader->vector[run->first], (unsigned int)run->count,
		                    reader->batch.pieces[run->first].host_off);
		io_uring_sqe_set_data64(sqe, i);
	}
	while (submitted < reader->run_count) {
		ret = io_uring_submit_and_wait(&reader->ring, (unsigned int)(reader->run_count - submitted));
		if (ret >= 0)
			submitted += (size_t)ret;
		else if (ret != -EINTR)
			break; /* no memory for more at a time */
	}
	for (size_t seen = 0; seen < submitted; seen++) {
		while (io_uring_wait_cqe(&reader->ring, &cqe) < 0)
			;
		if (cqe->res == (int)reader->runs[cqe->user_data].length)
			reader->runs[cqe->user_data].count = 0;
		io_uring_cqe_seen(&reader->ring, cqe);
	}
	for (size_t i = 0; i < reader->run_count; i++)
		if (reader->runs[i].count > 0)
			reader->runs[left++] = reader->runs[i];
	reader->run_count = left;
	if (ret < 0 && ret != -EINTR) {
		/* What was not submitted still stands in its queue. */
		io_uring_queue_exit(&reader->ring);
		reader->has_ring = false;
	}
}
#else
static void read_by_ring(struct reader *reader, int fd)
{
}
#endif

/* Without io_uring: has the host start with all before the first one is waited for. */
static void read_ahead(const struct reader *reader, int fd)
{
	for (size_t i = 0; i < reader->run_count; i++) {
		const struct run *run = &reader->runs[i];

		posix_fadvise(fd, (off_t)reader->batch.pieces[run->first].host_off, (off_t)run->length,
		              POSIX_FADV_WILLNEED);
	}
}

int host_batch_read(struct host_batch *batch, int fd)
{
	struct reader *reader = (struct reader *)batch;
	int ret = 0;

	sort(batch);
	make_runs(reader);
	if (reader->run_count > 1 && reader->has_ring)
		read_by_ring(reader, fd);
	else if (reader->run_count > 1)
		read_ahead(reader, fd);
	for (size_t i = 0; ret == 0 && i < reader->run_count; i++)
		ret = read_run(reader, &reader->runs[i], fd);
	return ret;
}
