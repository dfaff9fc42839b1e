/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/settle.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/ioprio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "fs/caller.h"
#include "fs/host_file.h"
#include "fs/log.h"
#include "fs/mirror.h"
#include "fs/open_image.h"
#include "fs/operations.h"
#include "fs/ring_queue.h"
#include "fs/store.h"
#include "fs/thread.h"
#include "mapdb/cleanup.h"
#include "mapdb/settle.h"
#include "mapdb/settle_ioctl.h"

#define GIVE_WAY_NS   1000000
#define QUIET_NS      INT64_C(30000000) /* the guest is idle when nothing of it was seen for so long */
#define SAMPLES       16
#define SAMPLE_GAP_NS 200000

struct settle_session {
	struct open_image *image;
	struct settle *settle;
	int data_fd; /* its own: a failed write-back is reported once to each, so the guest's flushes miss none */
	uint64_t threshold;
	struct live_map *spare; /* what the next swap needs */
	struct mirror *mirror;  /* of the current live map, which owns it */
	fuse_req_t req;         /* of the step under way */
	int64_t last_busy_ns;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;
static unsigned int running; /* under the lock */
static atomic_bool stopping;

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The current map. Under image->change nobody else replaces it. */
static struct image_map *current_map(struct open_image *image)
{
	return atomic_load(&image->current.live)->map;
}

/* ---- hooks ---- */

static int session_mirror(void *context, const struct extent *windows, size_t count)
{
	struct settle_session *session = context;
	struct image_map *map = current_map(session->image);
	struct live_map *live = live_map_new(map);
	struct mirror *mirror = mirror_new(windows, count);

	session->spare = live_map_new(map);
	if (!live || !mirror || !session->spare) {
		live_map_free(live);
		mirror_free(mirror);
		live_map_free(session->spare);
		session->spare = NULL;
		return -ENOMEM;
	}
	live->mirror = session->mirror = mirror;
	map_swap(session->image, live);
	return 0;
}

static void swap_spare(struct settle_session *session)
{
	session->mirror = NULL;
	map_swap(session->image, steal_pointer(&session->spare));
}

static void session_unmirror(void *context)
{
	swap_spare(context);
}

static void session_replace(void *context, struct image_map *map)
{
	struct settle_session *session = context;

	image_map_unref(session->spare->map);
	session->spare->map = image_map_ref(map);
	swap_spare(session);
}

static void session_copy_begin(void *context, uint64_t guest_off, uint64_t length, bool exclusive)
{
	struct settle_session *session = context;

	mirror_copy_begin(session->mirror, guest_off, length, exclusive);
	write_gate_begin_cached(&session->image->gate); /* pages may be shared with what the guest writes */
}

static int session_copy_end(void *context)
{
	struct settle_session *session = context;

	write_gate_end_cached(&session->image->gate);
	return mirror_copy_end(session->mirror);
}

static int session_commit(void *context, const struct image_map *old, const struct image_map *map,
                          const struct run_record *run, struct settle_record *record)
{
	struct settle_session *session = context;
	struct open_image *image = session->image;
	struct map_db *db = NULL;
	int ret = session->mirror ? mirror_must_succeed(session->mirror) : 0;

	if (ret == 0)
		ret = image_db_open(image->image, 0, &db);
	if (ret == 0)
		ret = map_db_settle(&db, old, map, run, record);
	map_db_close(db);
	if (ret == 0)
		atomic_store(&image->undo_dropped, true);
	if (ret == -EINPROGRESS && old == map) /* about the history only */
		ret = -EIO;
	if (ret == -EINPROGRESS) {
		live_map_free(steal_pointer(&session->spare));
		open_image_in_doubt(image, "kept in two places");
	}
	return ret;
}

static bool session_stop(void *context)
{
	struct settle_session *session = context;

	return atomic_load(&stopping) || atomic_load(&session->image->change_wanted) > 0 ||
	       caller_gives_up(session->req);
}

/* There is no count of requests, which would cost each of them something: looks a few times whether one is under way.
 */
static bool session_busy(void *context)
{
	struct settle_session *session = context;

	for (int i = 0; i < SAMPLES; i++) {
		if (map_pointer_in_use(&session->image->current))
			session->last_busy_ns = now_ns();
		nanosleep(&(struct timespec){.tv_nsec = SAMPLE_GAP_NS}, NULL);
	}
	return now_ns() - session->last_busy_ns < QUIET_NS;
}

/* ---- sessions ---- */

void settle_session_free(struct settle_session *session)
{
	if (!session)
		return;
	settle_free(session->settle);
	live_map_free(session->spare);
	if (session->data_fd >= 0)
		close(session->data_fd);
	free(session);
}

static int session_start(struct settle_session *session, const struct settle_request *request)
{
	const struct settle_options options = {.threshold = request->threshold, .text = request->text};
	const struct settle_hooks hooks = {
	        .context = session,
	        .mirror = session_mirror,
	        .unmirror = session_unmirror,
	        .copy_begin = session_copy_begin,
	        .copy_end = session_copy_end,
	        .commit = session_commit,
	        .replace = session_replace,
	        .stop = session_stop,
	        .busy = session_busy,
	};
	struct map_db *db;
	int ret = image_db_open(session->image->image, 0, &db);

	if (ret < 0)
		return ret;
	session->data_fd = ret = host_open_again(session->image->image->data_fd, O_RDWR);
	if (ret >= 0)
		ret = settle_new(store.io, session->data_fd, db, &hooks, &options, &session->settle);
	map_db_close(db);
	return ret;
}

/* The session for a request: the image's, unless that was for something else. Under image->change. */
static int session_get(struct open_image *image, const struct settle_request *request, struct settle_session **out)
{
	struct settle_session *session = image->settle;
	int ret;

	if (image->in_doubt)
		return -EINPROGRESS;
	if (!session || session->threshold != request->threshold) {
		settle_session_free(session);
		image->settle = NULL;
		session = calloc(1, sizeof(*session));
		if (!session)
			return -ENOMEM;
		*session = (struct settle_session){.image = image, .data_fd = -1, .threshold = request->threshold};
		ret = session_start(session, request);
		if (ret < 0) {
			settle_session_free(session);
			return ret;
		}
		image->settle = session;
	}
	*out = session;
	return atomic_load(&image->sync_error);
}

/* ---- steps ---- */

struct settle_call {
	fuse_req_t req;
	struct ring_queue *queue;
	struct open_image *image; /* a reference */
	struct settle_request request;
};

static void fill_in(struct settle_request *request, const struct settle_progress *progress)
{
	request->bytes_planned = progress->bytes_planned;
	request->bytes_left = progress->bytes_left;
	request->bytes_moved = progress->bytes_moved;
	request->extents_before = progress->extents_before;
	request->extents = progress->extents;
	request->flags |= progress->finished ? SETTLE_REQUEST_FINISHED : 0;
}

static int make_step(struct settle_call *call)
{
	struct settle_request *request = &call->request;
	const struct settle_limits limits = {
	        .rate = request->rate,
	        .idle = request->flags & SETTLE_REQUEST_IDLE,
	        .step_ms = request->step_ms,
	};
	struct open_image *image = call->image;
	struct settle_session *session;
	struct settle_progress progress;
	int ret;

	if (limits.idle) /* also where the host's disks are shared with others; only an attempt */
		(void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
	while (atomic_load(&image->change_wanted) > 0 && !atomic_load(&stopping))
		nanosleep(&(struct timespec){.tv_nsec = GIVE_WAY_NS}, NULL);
	pthread_mutex_lock(&image->change);
	ret = image->orphan ? -ENOENT : session_get(image, request, &session);
	if (ret == 0) {
		session->req = call->req;
		ret = settle_step(session->settle, current_map(image), &limits, &progress);
	}
	if (ret == 0)
		fill_in(request, &progress);
	if (ret == 0 && progress.finished) { /* the next one is another pass */
		settle_session_free(session);
		image->settle = NULL;
	}
	pthread_mutex_unlock(&image->change);
	return ret;
}

/* 0: a step may begin. */
static int enter(struct open_image *image)
{
	int ret = 0;

	pthread_mutex_lock(&lock);
	if (atomic_load(&stopping))
		ret = -ENOTCONN;
	else if (image->settling)
		ret = -EBUSY;
	if (ret == 0) {
		image->settling = true;
		running++;
	}
	pthread_mutex_unlock(&lock);
	return ret;
}

/* The step is over, and the next one may begin. */
static void leave(struct open_image *image)
{
	pthread_mutex_lock(&lock);
	image->settling = false;
	pthread_mutex_unlock(&lock);
}

/* The image, which may have been open only for the step, was let go of, too. */
static void end(struct open_image *image)
{
	open_image_put(image);
	pthread_mutex_lock(&lock);
	running--;
	pthread_cond_broadcast(&ended);
	pthread_mutex_unlock(&lock);
}

/* Puts the answer together itself: fuse_reply_ioctl() still touches a ring's request after it has been answered, when
 * it may already be the next one (libfuse 3.18.3). */
static void reply(fuse_req_t req, const struct settle_request *request)
{
	struct {
		struct fuse_ioctl_out head;
		struct settle_request request;
	} answer = {.request = *request};

	_Static_assert(sizeof(answer) == sizeof(answer.head) + sizeof(answer.request), "no padding");
	fuse_reply_buf(req, (const char *)&answer, sizeof(answer));
}

static void *settle_thread(void *argument)
{
	struct settle_call *call = argument;
	struct open_image *image = call->image;
	int ret = make_step(call);

	leave(image);
	if (ret < 0)
		fuse_reply_err(call->req, -ret);
	else
		reply(call->req, &call->request);
	ring_queue_lingered(call->queue);
	free(call);
	end(image);
	return NULL;
}

/* Takes call. */
static int start_thread(struct settle_call *call)
{
	struct open_image *image = call->image;
	struct ring_queue *queue = call->queue;
	int ret = enter(image);

	if (ret == 0) {
		ret = thread_start("settle", settle_thread, call);
		if (ret == 0)
			return 0;
		leave(image);
		end(image);
	} else {
		open_image_put(image);
	}
	ring_queue_lingered(queue);
	free(call);
	return ret;
}

static int check_request(fuse_req_t req, const struct settle_request *request)
{
	uid_t uid = fuse_req_ctx(req)->uid;

	if (uid != 0 && uid != geteuid())
		return -EPERM;
	if (request->flags & ~(uint32_t)SETTLE_REQUEST_IDLE || !memchr(request->text, 0, sizeof(request->text)))
		return -EINVAL;
	return 0;
}

static int begin_step(fuse_req_t req, struct node *node, const struct settle_request *request)
{
	struct ring_queue *queue = ring_queue_current();
	struct open_image *image;
	struct settle_call *call;

	if (!ring_queue_may_linger(queue))
		return -EAGAIN;
	image = open_image_peek(node);
	call = image ? malloc(sizeof(*call)) : NULL;
	if (!call) {
		if (image)
			open_image_put(image);
		ring_queue_lingered(queue);
		return image ? -ENOMEM : -EBADF;
	}
	*call = (struct settle_call){.req = req, .queue = queue, .image = image, .request = *request};
	return start_thread(call);
}

void fs_ioctl(fuse_req_t req, fuse_ino_t number, unsigned int command, void *argument, struct fuse_file_info *info,
              unsigned int flags, const void *in, size_t in_size, size_t out_size)
{
	struct open_image *image = flags & FUSE_IOCTL_DIR ? NULL : open_image_of(info);
	struct settle_request request;
	int ret = -ENOTTY;

	if (command == SETTLE_IOC_STEP && image)
		ret = in_size == sizeof(request) && out_size >= sizeof(request) ? 0 : -EINVAL;
	if (ret == 0) {
		memcpy(&request, in, sizeof(request));
		ret = check_request(req, &request);
	}
	if (ret == 0 && !image->bundle) {
		request.flags |= SETTLE_REQUEST_PLAIN;
		reply(req, &request);
		return;
	}
	if (ret == 0 && atomic_load(&image->write_fd) < 0)
		ret = -EROFS;
	if (ret == 0)
		ret = begin_step(req, image->node, &request);
	if (ret < 0)
		fuse_reply_err(req, -ret);
}

void settle_stop(void)
{
	pthread_mutex_lock(&lock);
	atomic_store(&stopping, true);
	while (running > 0)
		pthread_cond_wait(&ended, &lock);
	pthread_mutex_unlock(&lock);
}
