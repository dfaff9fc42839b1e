/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With rings, the loop is not libfuse's: that one tears the rings down while workers may still have requests of theirs
 * to answer. Ours leaves them to the end of the process, as it does with whatever threads it has. What is still coming
 * in after a signal is left unanswered; the kernel gives it up when the process ends.
 */
#include "fs/serve.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <syslog.h>
#include <unistd.h>

#include "fs/log.h"
#include "fs/mount_table.h"
#include "fs/negotiate.h"
#include "fs/ring_queue.h"
#include "fs/settle.h"
#include "fs/waiting.h"
#include "fs/workers.h"

#ifdef ZCFS_FUSE_RINGS
#include <liburing.h>
#endif

#define KERNEL_SWITCH "/sys/module/fuse/parameters/enable_uring"

/* Threads that read /dev/fuse beside the rings. Only the first request, interrupts and the like come by it. */
#define CHANNEL_THREADS 4

/* For one request: its headers, and what is written. */
#define CHANNEL_BUFFER_SIZE ((64u << 10) + REQUEST_SIZE_MAX)

/* ---- which transport ---- */

static unsigned int default_depth(void)
{
	unsigned int depth = RING_MEMORY_MAX / REQUEST_SIZE_MAX / (unsigned int)get_nprocs_conf();

	return depth < RING_DEPTH_MIN ? RING_DEPTH_MIN : depth > RING_DEPTH_MAX ? RING_DEPTH_MAX : depth;
}

#ifdef ZCFS_FUSE_RINGS
static bool kernel_offers(void)
{
	FILE *file = fopen(KERNEL_SWITCH, "re");
	int first = file ? fgetc(file) : 'N';

	if (file)
		fclose(file);
	return first == 'Y' || first == '1';
}

/* As libfuse will; it may be forbidden by a sysctl or a filter of system calls. */
static int try_ring(void)
{
	struct io_uring ring;
	int ret = io_uring_queue_init(1, &ring,
	                              IORING_SETUP_SQE128 | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);

	if (ret == 0)
		io_uring_queue_exit(&ring);
	return ret;
}

/* NULL, or why there can be no rings. */
static const char *obstacle(void)
{
	if (!kernel_offers())
		return "switched off in this kernel (as root: echo 1 >" KERNEL_SWITCH ")";
	if (try_ring() < 0)
		return "io_uring is not permitted here (sysctl kernel.io_uring_disabled)";
	return NULL;
}
#else
static const char *obstacle(void)
{
	return "not built in";
}
#endif

bool serve_choose_transport(struct options *options)
{
	const char *why_not = options->rings == RINGS_NO ? "not wanted" : obstacle();
	char argument[64];

	/* libfuse would listen to these behind our back. */
	unsetenv("FUSE_URING_ENABLE");
	unsetenv("FUSE_URING_QUEUE_DEPTH");
	if (why_not && options->rings == RINGS_YES) {
		fprintf(stderr, "zcfs: FUSE over io_uring: %s; without -o io_uring=yes it does without\n", why_not);
		return false;
	}
	if (why_not && options->rings == RINGS_AUTO)
		log_message(LOG_INFO, "FUSE over io_uring: %s; going on without", why_not);
	if (why_not) {
		options->ring_depth = 0;
		return true;
	}
	if (options->ring_depth == 0)
		options->ring_depth = default_depth();
	snprintf(argument, sizeof(argument), "-oio_uring,io_uring_q_depth=%u", options->ring_depth);
	if (fuse_opt_add_arg(&options->session, argument) == 0)
		return true;
	fprintf(stderr, "zcfs: out of memory\n");
	return false;
}

static void end_services(void)
{
	settle_stop();
	waiting_stop();
	workers_stop();
}

/* ---- the loop for rings ---- */

static sem_t ended;

static void end(int signal_number)
{
	sem_post(&ended);
}

/* Held until all channels are there, and for good if they are not: then none may begin. */
static pthread_mutex_t incomplete = PTHREAD_MUTEX_INITIALIZER;

static struct channel {
	struct fuse_session *session;
	struct fuse_buf buffer;
} channels[CHANNEL_THREADS];

static void *serve_channel(void *argument)
{
	struct channel *self = argument;
	int ret = 1;

	pthread_mutex_lock(&incomplete);
	pthread_mutex_unlock(&incomplete);
	while ((ret > 0 || ret == -EINTR) && !fuse_session_exited(self->session)) {
		ret = fuse_session_receive_buf(self->session, &self->buffer);
		if (ret > 0)
			fuse_session_process_buf(self->session, &self->buffer);
	}
	sem_post(&ended);
	return NULL;
}

/* Otherwise libfuse makes it with the first request, when it is too late to give up. */
static int make_buffer(struct fuse_buf *buffer)
{
	buffer->mem = malloc(CHANNEL_BUFFER_SIZE);
#ifdef ZCFS_FUSE_RINGS /* before there were rings there was no such field */
	buffer->mem_size = CHANNEL_BUFFER_SIZE;
#endif
	return buffer->mem ? 0 : -ENOMEM;
}

static int start_channels(struct fuse_session *session)
{
	pthread_t thread;
	int ret = 0;

	pthread_mutex_lock(&incomplete);
	for (int i = 0; i < CHANNEL_THREADS && ret == 0; i++) {
		channels[i].session = session;
		ret = make_buffer(&channels[i].buffer);
		if (ret == 0)
			ret = -pthread_create(&thread, NULL, serve_channel, &channels[i]);
		if (ret == 0)
			pthread_detach(thread);
	}
	if (ret == 0)
		pthread_mutex_unlock(&incomplete);
	return ret;
}

static int catch_signals(void)
{
	static const int signals[] = {SIGHUP, SIGINT, SIGTERM};
	struct sigaction action = {.sa_handler = end, .sa_flags = SA_RESTART}, inherited;

	sem_init(&ended, 0, 0);
	signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		if (sigaction(signals[i], NULL, &inherited) < 0)
			return -errno;
		/* nohup(1) and shells mean it; libfuse, without rings, does the same. */
		if (inherited.sa_handler != SIG_IGN && sigaction(signals[i], &action, NULL) < 0)
			return -errno;
	}
	return 0;
}

static int start_rings(struct fuse_session *session, const struct options *options)
{
	ring_queues_init(options->ring_depth);
	workers_start(options->max_threads);
	return start_channels(session);
}

/* libfuse would close its descriptor first. Threads still read from it, by its number, which may be that of an image's
 * file by then: what a guest has written there would be a request. So it stays open until the process ends. */
static void unmount_while_read(struct fuse_session *session, const char *mount_path)
{
	struct pollfd device = {.fd = fuse_session_fd(session)};

	/* Whose mount is gone must not unmount what is there now. */
	if (poll(&device, 1, 0) != 1 || !(device.revents & POLLERR))
		(void)mount_table_unmount(mount_path);
}

static int serve_rings(struct fuse_session *session, const char *mount_path)
{
	while (sem_wait(&ended) < 0 && errno == EINTR)
		;
	unmount_while_read(session, mount_path);
	end_services();
	return 0;
}

/* ---- the loop for /dev/fuse ---- */

static struct fuse_loop_config *loop_config;

static int prepare_loop(const struct options *options)
{
	loop_config = fuse_loop_cfg_create();
	if (!loop_config)
		return -ENOMEM;
	fuse_loop_cfg_set_clone_fd(loop_config, !options->no_clone_fd);
	fuse_loop_cfg_set_max_threads(loop_config, options->max_threads);
	fuse_loop_cfg_set_idle_threads(loop_config, options->max_idle_threads);
	return 0;
}

static int serve_device(struct fuse_session *session)
{
	int ret = fuse_session_loop_mt(session, loop_config);

	fuse_loop_cfg_destroy(loop_config);
	serve_end(session);
	fuse_remove_signal_handlers(session);
	fuse_session_destroy(session);
	return ret;
}

int serve_prepare(struct fuse_session *session, const struct options *options)
{
	if (options->ring_depth > 0)
		return catch_signals();
	return fuse_set_signal_handlers(session) == 0 ? 0 : -EINVAL;
}

int serve_start(struct fuse_session *session, const struct options *options)
{
	return options->ring_depth > 0 ? start_rings(session, options) : prepare_loop(options);
}

/* In this order: unmounting closes the descriptor, by which services still answer. */
void serve_end(struct fuse_session *session)
{
	end_services();
	fuse_session_unmount(session);
}

int serve(struct fuse_session *session, const struct options *options, const char *mount_path)
{
	int ret = options->ring_depth > 0 ? serve_rings(session, mount_path) : serve_device(session);

	/* A positive value is the signal that ended the loop. */
	return ret < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
