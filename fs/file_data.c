/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * file_data: reads and writes that come with a handle: which thread does them, and how they are answered. Doing them is
 * up to data.c and transfer.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "fs/data.h"
#include "fs/file_handle.h"
#include "fs/operations.h"
#include "fs/ring_place.h"
#include "fs/ring_queue.h"
#include "fs/store.h"
#include "fs/transfer.h"
#include "fs/waiting.h"

/* One buffer a thread, kept: a fresh megabyte for each read would cost more in page faults than the copying. */
struct buffer {
	size_t size;
	uint8_t *bytes;
};

static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;

static void buffer_free(void *p)
{
	struct buffer *buffer = p;

	free(buffer->bytes);
	free(buffer);
}

static void buffer_key_make(void)
{
	if (pthread_key_create(&buffer_key, buffer_free) != 0)
		abort();
}

static uint8_t *thread_buffer(size_t size)
{
	struct buffer *buffer;

	pthread_once(&buffer_once, buffer_key_make);
	buffer = pthread_getspecific(buffer_key);
	if (!buffer) {
		buffer = calloc(1, sizeof(*buffer));
		if (!buffer || pthread_setspecific(buffer_key, buffer) != 0) {
			free(buffer);
			return NULL;
		}
	}
	if (buffer->size < size) {
		free(buffer->bytes);
		buffer->bytes = NULL;
		buffer->size = 0;
		if (posix_memalign((void **)&buffer->bytes, 4096, size) != 0)
			return NULL;
		buffer->size = size;
	}
	return buffer->bytes;
}

/* Where a read's answer is put together: in a ring's own buffer, or in one of this thread. NULL: no memory. */
static uint8_t *answer_buffer(fuse_req_t req, size_t size)
{
#ifdef ZCFS_FUSE_RINGS
	char *payload;
	size_t payload_size;

	if (fuse_req_get_payload(req, &payload, &payload_size, NULL) == 0)
		return payload_size >= size ? (uint8_t *)payload : NULL;
#endif
	return thread_buffer(size);
}

/* A read or write that a ring's thread starts without waiting for it, or leaves to another; also one that waits for
 * somebody outside. */
struct data_call {
	struct waiting waiting; /* its req is the request's */
	struct transfer_request transfer;
	struct deferred deferred;
	fuse_ino_t number;
	struct open_image *image; /* the kernel keeps the handle open until the answer */
	const uint8_t *buffer;    /* what is to be written */
	size_t size;
	off_t off;
	int flags;             /* of data_read or data_write */
	bool drops_privileges; /* of the image, before it is written */
	uint8_t copy[];
};

static void data_call_release(struct waiting *waiting)
{
	free(waiting);
}

static struct data_call *call_of(struct deferred *deferred)
{
	return (struct data_call *)((char *)deferred - offsetof(struct data_call, deferred));
}

static struct data_call *call_transferred(struct transfer_request *transfer)
{
	return (struct data_call *)((char *)transfer - offsetof(struct data_call, transfer));
}

static void set_transfer(struct data_call *call, uint8_t *buffer,
                         void (*done)(struct transfer_request *transfer, ssize_t n))
{
	call->transfer = (struct transfer_request){
	        .req = call->waiting.req,
	        .image = call->image,
	        .buffer = buffer,
	        .length = call->size,
	        .off = (uint64_t)call->off,
	        .direct = call->flags & DATA_DIRECT,
	        .done = done,
	};
}

static void leave_to_worker(struct data_call *call, void (*run)(struct deferred *deferred))
{
	call->deferred.run = run;
	if (ring_queue_defer(&call->deferred))
		return;
	fuse_reply_err(call->waiting.req, ENOTCONN); /* the daemon is ending */
	free(call);
}

/* What is shorter is copied in less time than it takes to have another thread do it and answer. */
#define LONG_COPY (128u << 10)

/* True if a ring's thread may offer it to others, as it has no time for it: more is waiting at its ring. flags: of
 * data_read or data_write. */
static bool is_to_be_offered(fuse_req_t req, const struct open_image *image, size_t size, int flags)
{
	bool long_copy = size >= LONG_COPY && image && !(flags & DATA_SYNC) && data_by_cache(image, flags);

	return long_copy && ring_queue_may_offer() && requests_waiting(req) > 0;
}

static int direct_flag(const struct fuse_file_info *info)
{
	return info->flags & O_DIRECT ? DATA_DIRECT : 0;
}

static ssize_t read_some(fuse_ino_t number, struct open_image *image, uint8_t *buffer, size_t size, off_t off,
                         int flags)
{
	if (image)
		return data_read(image, buffer, size, (uint64_t)off, flags);
	if (flags & DATA_NOW)
		return -EAGAIN;
	return store.io->pread(store.io, node_of(number)->fd, buffer, size, (uint64_t)off);
}

static void reply_read(fuse_req_t req, const uint8_t *buffer, ssize_t n)
{
	if (n < 0)
		fuse_reply_err(req, (int)-n);
	else
		fuse_reply_buf(req, (const char *)buffer, (size_t)n);
}

static void read_in_worker(struct deferred *deferred)
{
	struct data_call *call = call_of(deferred);
	uint8_t *buffer = answer_buffer(call->waiting.req, call->size);

	reply_read(call->waiting.req, buffer,
	           buffer ? read_some(call->number, call->image, buffer, call->size, call->off, call->flags) : -ENOMEM);
	free(call);
}

static void read_transferred(struct transfer_request *transfer, ssize_t n)
{
	struct data_call *call = call_transferred(transfer);

	if (n == -EAGAIN) {
		leave_to_worker(call, read_in_worker);
		return;
	}
	reply_read(transfer->req, transfer->buffer, n);
	free(call);
}

/* By whoever was free: answers, or leaves it to somebody who may wait. */
static void read_offered(struct deferred *deferred)
{
	struct data_call *call = call_of(deferred);

	read_transferred(&call->transfer, data_read(call->image, call->transfer.buffer, call->size, (uint64_t)call->off,
	                                            call->flags | DATA_NOW));
}

static struct data_call *read_call_new(fuse_req_t req, fuse_ino_t number, uint8_t *buffer, size_t size, off_t off,
                                       const struct fuse_file_info *info)
{
	struct data_call *call = calloc(1, sizeof(*call));

	if (!call)
		return NULL;
	call->waiting.req = req;
	call->number = number;
	call->image = open_image_of(info);
	call->size = size;
	call->off = off;
	call->flags = direct_flag(info);
	set_transfer(call, buffer, read_transferred);
	return call;
}

static bool offer_read(fuse_req_t req, fuse_ino_t number, uint8_t *buffer, size_t size, off_t off,
                       const struct fuse_file_info *info)
{
	struct data_call *call = NULL;

	if (is_to_be_offered(req, open_image_of(info), size, direct_flag(info)))
		call = read_call_new(req, number, buffer, size, off, info);
	if (!call)
		return false;
	call->deferred.run = read_offered;
	ring_queue_offer(&call->deferred);
	return true;
}

static void read_later(fuse_req_t req, fuse_ino_t number, uint8_t *buffer, size_t size, off_t off,
                       const struct fuse_file_info *info)
{
	struct data_call *call = read_call_new(req, number, buffer, size, off, info);

	if (!call)
		fuse_reply_err(req, ENOMEM);
	else if (call->image)
		transfer_read(&call->transfer);
	else
		leave_to_worker(call, read_in_worker);
}

/* By its thread. */
static void read_by_ring(fuse_req_t req, fuse_ino_t number, uint8_t *buffer, size_t size, off_t off,
                         const struct fuse_file_info *info)
{
	ssize_t n;

	ring_place_request();
	if (offer_read(req, number, buffer, size, off, info))
		return;
	n = read_some(number, open_image_of(info), buffer, size, off, direct_flag(info) | DATA_NOW);
	if (n == -EAGAIN)
		read_later(req, number, buffer, size, off, info);
	else
		reply_read(req, buffer, n);
}

void fs_read(fuse_req_t req, fuse_ino_t number, size_t size, off_t off, struct fuse_file_info *info)
{
	uint8_t *buffer = answer_buffer(req, size);

	if (!buffer)
		fuse_reply_err(req, ENOMEM);
	else if (request_by_ring(req))
		read_by_ring(req, number, buffer, size, off, info);
	else
		reply_read(req, buffer, read_some(number, open_image_of(info), buffer, size, off, direct_flag(info)));
}

static int write_attempt(struct waiting *waiting)
{
	struct data_call *call = (struct data_call *)waiting;
	ssize_t n;

	if (call->drops_privileges)
		open_image_drop_privileges(call->image);
	n = data_write(call->image, call->buffer, call->size, (uint64_t)call->off, call->flags);
	if (n >= 0)
		fuse_reply_write(waiting->req, (size_t)n);
	return n < 0 ? held_if_busy((int)n) : 0;
}

static void write_in_worker(struct deferred *deferred)
{
	waiting_run(&call_of(deferred)->waiting);
}

static void write_transferred(struct transfer_request *transfer, ssize_t n)
{
	struct data_call *call = call_transferred(transfer);

	if (n < 0) {
		leave_to_worker(call, write_in_worker);
		return;
	}
	fuse_reply_write(transfer->req, (size_t)n);
	free(call);
}

static int write_flags(const struct fuse_file_info *info)
{
	return (info->flags & O_DSYNC ? DATA_SYNC : 0) | direct_flag(info);
}

/* Without a ring, whose buffer stays until the answer, what is to be written is copied. */
static struct data_call *write_call_new(fuse_req_t req, struct fuse_file_info *info, const char *buffer, size_t size,
                                        off_t off)
{
	bool by_ring = request_by_ring(req);
	struct data_call *call = malloc(sizeof(*call) + (by_ring ? 0 : size));

	if (!call)
		return NULL;
	*call = (struct data_call){
	        .waiting = {.req = req, .attempt = write_attempt, .release = data_call_release},
	        .deferred.job.quick = !(write_flags(info) & (DATA_SYNC | DATA_DIRECT)), /* into the host's cache */
	        .image = open_image_of(info),
	        .buffer = (const uint8_t *)buffer,
	        .size = size,
	        .off = off,
	        .flags = write_flags(info),
	        .drops_privileges = kills_privileges(info),
	};
	set_transfer(call, (uint8_t *)(uintptr_t)buffer, write_transferred);
	if (!by_ring) {
		memcpy(call->copy, buffer, size);
		call->buffer = call->copy;
	}
	return call;
}

/* As read_offered. */
static void write_offered(struct deferred *deferred)
{
	struct data_call *call = call_of(deferred);

	write_transferred(&call->transfer, data_write(call->image, call->buffer, call->size, (uint64_t)call->off,
	                                              call->flags | DATA_NOW));
}

static bool offer_write(fuse_req_t req, struct fuse_file_info *info, const char *buffer, size_t size, off_t off)
{
	struct data_call *call = NULL;

	if (open_image_of(info)->host.in_memory && !kills_privileges(info) &&
	    is_to_be_offered(req, open_image_of(info), size, write_flags(info)))
		call = write_call_new(req, info, buffer, size, off);
	if (!call)
		return false;
	call->deferred.run = write_offered;
	ring_queue_offer(&call->deferred);
	return true;
}

static void write_later(fuse_req_t req, struct fuse_file_info *info, const char *buffer, size_t size, off_t off)
{
	struct data_call *call = write_call_new(req, info, buffer, size, off);

	if (!call)
		fuse_reply_err(req, ENOMEM);
	else if (call->drops_privileges || call->flags & DATA_SYNC)
		leave_to_worker(call, write_in_worker);
	else
		transfer_write(&call->transfer);
}

/* By its thread. */
static void write_by_ring(fuse_req_t req, struct fuse_file_info *info, const char *buffer, size_t size, off_t off)
{
	ssize_t n = -EAGAIN;

	ring_place_request();
	if (offer_write(req, info, buffer, size, off))
		return;
	if (!kills_privileges(info))
		n = data_write(open_image_of(info), (const uint8_t *)buffer, size, (uint64_t)off,
		               write_flags(info) | DATA_NOW);
	if (n >= 0)
		fuse_reply_write(req, (size_t)n);
	else if (n == -EAGAIN || n == -EBUSY)
		write_later(req, info, buffer, size, off);
	else
		fuse_reply_err(req, (int)-n);
}

/* By a thread that may wait, but not for a tool. */
static void write_by_device(fuse_req_t req, struct fuse_file_info *info, const char *buffer, size_t size, off_t off)
{
	struct open_image *image = open_image_of(info);
	struct data_call *call;
	ssize_t n;

	if (kills_privileges(info))
		open_image_drop_privileges(image);
	n = data_write(image, (const uint8_t *)buffer, size, (uint64_t)off, write_flags(info));
	if (n >= 0) {
		fuse_reply_write(req, (size_t)n);
		return;
	}
	call = n == -EBUSY ? write_call_new(req, info, buffer, size, off) : NULL;
	if (call)
		waiting_run(&call->waiting);
	else
		fuse_reply_err(req, n == -EBUSY ? ENOMEM : (int)-n);
}

/* For later opens. */
static void note_written(struct open_image *image, const struct fuse_file_info *info)
{
	bool directly = info->flags & O_DIRECT || open_image_uncached(image);
	atomic_bool *written = directly ? &image->written_directly : &image->written_cached;

	if (!atomic_load_explicit(written, memory_order_relaxed))
		atomic_store(written, true);
}

void fs_write(fuse_req_t req, fuse_ino_t number, const char *buffer, size_t size, off_t off,
              struct fuse_file_info *info)
{
	note_written(open_image_of(info), info);
	if (request_by_ring(req))
		write_by_ring(req, info, buffer, size, off);
	else
		write_by_device(req, info, buffer, size, off);
}
