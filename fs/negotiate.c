/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/negotiate.h"

#include "fs/store.h"

#define BACKGROUND_REQUESTS 128 /* read-ahead and asynchronous direct I/O that the kernel may have on its way */

static void want(struct fuse_conn_info *connection, uint32_t feature, bool wanted)
{
	if (!(connection->capable & feature))
		return;
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
	if (wanted)
		fuse_set_feature_flag(connection, feature);
	else
		fuse_unset_feature_flag(connection, feature);
#else
	if (wanted)
		connection->want |= feature;
	else
		connection->want &= ~feature;
#endif
}

/* Each feature is asked for here; the handlers cope where it was refused. */
void negotiate(void *unused, struct fuse_conn_info *connection)
{
	want(connection, FUSE_CAP_ASYNC_READ, true);
	want(connection, FUSE_CAP_ASYNC_DIO, true);
	want(connection, FUSE_CAP_ATOMIC_O_TRUNC, true);
	want(connection, FUSE_CAP_PARALLEL_DIROPS, true);
	want(connection, FUSE_CAP_READDIRPLUS, true);
	want(connection, FUSE_CAP_READDIRPLUS_AUTO, true);
#ifdef FUSE_CAP_DIRECT_IO_ALLOW_MMAP
	want(connection, FUSE_CAP_DIRECT_IO_ALLOW_MMAP, true);
#endif

	/* A write is done when it is answered: the guest's flush is then enough. */
	want(connection, FUSE_CAP_WRITEBACK_CACHE, false);
	/* Every write changes the mtime; taking that as somebody else's change would empty the cache once a second. */
	want(connection, FUSE_CAP_AUTO_INVAL_DATA, false);
	want(connection, FUSE_CAP_SPLICE_READ, false);
	want(connection, FUSE_CAP_SPLICE_WRITE, false);
	want(connection, FUSE_CAP_SPLICE_MOVE, false);

	/* A privileged daemon acts with its own rights, so it is the kernel that must obey ACLs: a mode alone gives the
	 * file's group what is meant for others. */
	store.acls = store.privileged && (connection->capable & FUSE_CAP_POSIX_ACL);
	want(connection, FUSE_CAP_POSIX_ACL, store.acls);

	/* A privileged daemon's writes do not drop set-user-ID bits by themselves: without the second version, which
	 * tells when to, that is left to the kernel. */
	want(connection, FUSE_CAP_HANDLE_KILLPRIV, false);
#ifdef ZCFS_FUSE_KILL_SUIDGID
	want(connection, FUSE_CAP_HANDLE_KILLPRIV_V2, true);
	/* Past its cache the kernel does not do it. */
	store.uncached = (connection->capable & FUSE_CAP_DIRECT_IO_ALLOW_MMAP) &&
	                 (connection->capable & FUSE_CAP_HANDLE_KILLPRIV_V2);
#endif

#ifdef FUSE_CAP_PASSTHROUGH
	want(connection, FUSE_CAP_PASSTHROUGH, store.passthrough);
#endif

#ifdef ZCFS_FUSE_RINGS
	/* Interrupts always come by /dev/fuse. libfuse looks for their requests only among those that do, too, and
	 * keeps what it does not find in case the request is still to come: of rings more and more, for good. So it
	 * gets to know none; see caller_gives_up(). Not to be changed later: libfuse goes by it when it frees a
	 * request. */
	connection->no_interrupt = store.rings;
#endif

	connection->max_write = REQUEST_SIZE_MAX;
	connection->max_readahead = REQUEST_SIZE_MAX;
	connection->max_background = BACKGROUND_REQUESTS;
	connection->congestion_threshold = BACKGROUND_REQUESTS / 4 * 3;
}
