/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * vfs: see mapdb/vfs.h. What each method has to do is told at https://www.sqlite.org/c3ref/io_methods.html and
 * https://www.sqlite.org/lockingv3.html.
 */
#include "mapdb/vfs.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mapdb/map_db.h"

/* The lock bytes of every SQLite database. */
#define PENDING_BYTE  0x40000000
#define RESERVED_BYTE (PENDING_BYTE + 1)
#define SHARED_FIRST  (PENDING_BYTE + 2)
#define SHARED_SIZE   510

/* A super-journal is what SQLite makes for a transaction over several databases, and names at the end of the journal of
 * each. We make none. Somebody's sqlite3 command may: its names are longer than this, which has SQLite pass over them
 * and roll back, whatever has become of the other databases. */
#define VFS_PATH_MAX (sizeof MAP_DB_NAME "-journal" - 1)

struct vfs {
	sqlite3_vfs base; /* pAppData points back */
	const struct io *io;
	sqlite3_vfs *host; /* clock, sleep, randomness */
	int dir_fd;
	int file_fd; /* -1, or the one file of vfs_new_for_file */
	bool create_new;
	int last_errno;
	char name[32];
};

struct vfs_file {
	sqlite3_file base;
	struct vfs *vfs;
	int fd;
	int lock;            /* SQLITE_LOCK_* */
	bool sync_directory; /* made by this open: its name is not durable yet */
	bool borrowed;       /* vfs_new_for_file's descriptor: leave it open, and lock nobody out */
};

/* Keeps the errno for whoever translates the result. */
static int failed(struct vfs *vfs, int rc, int result)
{
	vfs->last_errno = -rc;
	if (rc == -ENOMEM)
		return SQLITE_IOERR_NOMEM;
	if (rc == -ENOSPC || rc == -EDQUOT)
		return SQLITE_FULL;
	return result;
}

static int file_close(sqlite3_file *base)
{
	struct vfs_file *file = (struct vfs_file *)base;

	if (!file->borrowed)
		file->vfs->io->close(file->vfs->io, file->fd);
	file->fd = -1;
	return SQLITE_OK;
}

static int file_read(sqlite3_file *base, void *buffer, int length, sqlite3_int64 off)
{
	struct vfs_file *file = (struct vfs_file *)base;
	const struct io *io = file->vfs->io;
	uint8_t *to = buffer;

	while (length > 0) {
		ssize_t n = io->pread(io, file->fd, to, (size_t)length, (uint64_t)off);
		if (n < 0)
			return failed(file->vfs, (int)n, SQLITE_IOERR_READ);
		if (n == 0) { /* SQLite relies on the zeros */
			memset(to, 0, (size_t)length);
			return SQLITE_IOERR_SHORT_READ;
		}
		to += n;
		off += n;
		length -= (int)n;
	}
	return SQLITE_OK;
}

static int file_write(sqlite3_file *base, const void *buffer, int length, sqlite3_int64 off)
{
	struct vfs_file *file = (struct vfs_file *)base;
	int rc = io_pwrite_full(file->vfs->io, file->fd, buffer, (size_t)length, (uint64_t)off);

	return rc < 0 ? failed(file->vfs, rc, SQLITE_IOERR_WRITE) : SQLITE_OK;
}

static int file_truncate(sqlite3_file *base, sqlite3_int64 size)
{
	struct vfs_file *file = (struct vfs_file *)base;
	int rc = file->vfs->io->ftruncate(file->vfs->io, file->fd, (uint64_t)size);

	return rc < 0 ? failed(file->vfs, rc, SQLITE_IOERR_TRUNCATE) : SQLITE_OK;
}

static int file_sync(sqlite3_file *base, int flags)
{
	struct vfs_file *file = (struct vfs_file *)base;
	const struct io *io = file->vfs->io;
	int rc = flags & SQLITE_SYNC_DATAONLY ? io->fdatasync(io, file->fd) : io->fsync(io, file->fd);

	if (rc < 0)
		return failed(file->vfs, rc, SQLITE_IOERR_FSYNC);
	if (file->sync_directory) {
		rc = io->fsync(io, file->vfs->dir_fd);
		if (rc < 0)
			return failed(file->vfs, rc, SQLITE_IOERR_DIR_FSYNC);
		file->sync_directory = false;
	}
	return SQLITE_OK;
}

static int file_size(sqlite3_file *base, sqlite3_int64 *size)
{
	struct vfs_file *file = (struct vfs_file *)base;
	struct stat status;

	if (fstat(file->fd, &status) < 0)
		return failed(file->vfs, io_error(), SQLITE_IOERR_FSTAT);
	*size = status.st_size;
	return SQLITE_OK;
}

static int set_lock(struct vfs_file *file, int type, off_t start, off_t length)
{
	struct flock lock = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};

	if (file->borrowed || fcntl(file->fd, F_OFD_SETLK, &lock) == 0)
		return SQLITE_OK;
	if (errno == EAGAIN || errno == EACCES || errno == EINTR)
		return SQLITE_BUSY;
	return failed(file->vfs, io_error(), SQLITE_IOERR_LOCK);
}

static int lock_shared(struct vfs_file *file)
{
	/* PENDING keeps new readers out while a writer waits for the old ones. */
	int result = set_lock(file, F_RDLCK, PENDING_BYTE, 1);

	if (result != SQLITE_OK)
		return result;
	result = set_lock(file, F_RDLCK, SHARED_FIRST, SHARED_SIZE);
	int unlocked = set_lock(file, F_UNLCK, PENDING_BYTE, 1);
	return result != SQLITE_OK ? result : unlocked;
}

static int file_lock(sqlite3_file *base, int level)
{
	struct vfs_file *file = (struct vfs_file *)base;
	int result = SQLITE_OK;

	if (file->lock >= level)
		return SQLITE_OK;
	if (level == SQLITE_LOCK_SHARED) {
		result = lock_shared(file);
	} else if (level == SQLITE_LOCK_RESERVED) {
		result = set_lock(file, F_WRLCK, RESERVED_BYTE, 1);
	} else {
		if (file->lock < SQLITE_LOCK_PENDING) {
			result = set_lock(file, F_WRLCK, PENDING_BYTE, 1);
			if (result != SQLITE_OK)
				return result;
			file->lock = SQLITE_LOCK_PENDING;
		}
		if (level == SQLITE_LOCK_EXCLUSIVE)
			result = set_lock(file, F_WRLCK, SHARED_FIRST, SHARED_SIZE);
	}
	if (result == SQLITE_OK)
		file->lock = level;
	return result;
}

static int file_unlock(sqlite3_file *base, int level)
{
	struct vfs_file *file = (struct vfs_file *)base;
	int result = SQLITE_OK;

	if (file->lock <= level)
		return SQLITE_OK;
	if (level == SQLITE_LOCK_SHARED) {
		if (file->lock == SQLITE_LOCK_EXCLUSIVE)
			result = set_lock(file, F_RDLCK, SHARED_FIRST, SHARED_SIZE);
		if (result == SQLITE_OK)
			result = set_lock(file, F_UNLCK, PENDING_BYTE, 2);
	} else {
		result = set_lock(file, F_UNLCK, PENDING_BYTE, 2 + SHARED_SIZE);
	}
	file->lock = level;
	return result == SQLITE_OK ? SQLITE_OK : SQLITE_IOERR_UNLOCK;
}

/* Asked about a hot journal: somebody who holds RESERVED is alive and will deal with his journal himself. */
static int file_check_reserved_lock(sqlite3_file *base, int *reserved)
{
	struct vfs_file *file = (struct vfs_file *)base;
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = RESERVED_BYTE, .l_len = 1};

	*reserved = 1;
	if (file->lock >= SQLITE_LOCK_RESERVED)
		return SQLITE_OK;
	if (fcntl(file->fd, F_OFD_GETLK, &lock) < 0)
		return failed(file->vfs, io_error(), SQLITE_IOERR_CHECKRESERVEDLOCK);
	*reserved = lock.l_type != F_UNLCK;
	return SQLITE_OK;
}

static int file_control(sqlite3_file *base, int operation, void *argument)
{
	return SQLITE_NOTFOUND;
}

static int file_sector_size(sqlite3_file *base)
{
	return 4096;
}

static int file_device_characteristics(sqlite3_file *base)
{
	return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static const sqlite3_io_methods file_methods = {
        .iVersion = 1, /* without shared memory (2) and memory mapping (3) */
        .xClose = file_close,
        .xRead = file_read,
        .xWrite = file_write,
        .xTruncate = file_truncate,
        .xSync = file_sync,
        .xFileSize = file_size,
        .xLock = file_lock,
        .xUnlock = file_unlock,
        .xCheckReservedLock = file_check_reserved_lock,
        .xFileControl = file_control,
        .xSectorSize = file_sector_size,
        .xDeviceCharacteristics = file_device_characteristics,
};

static int check_regular(int fd)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return -errno;
	return S_ISREG(status.st_mode) ? 0 : -EUCLEAN;
}

/* A journal that root leaves behind must be one that the owner of the database can roll back. Only if it is new: he may
 * have put something else there. */
static void give_away(const struct vfs *vfs, int fd)
{
	struct stat database, made;

	if (geteuid() != 0 || fstat(fd, &made) < 0 || made.st_uid != 0 || made.st_nlink != 1 || made.st_size != 0 ||
	    fstatat(vfs->dir_fd, MAP_DB_NAME, &database, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	if (fchown(fd, database.st_uid, database.st_gid) < 0)
		return; /* it is ours, then */
}

static int open_below(struct vfs *vfs, const char *name, int flags, struct vfs_file *file)
{
	/* O_NONBLOCK: a FIFO in a forged bundle must not hold us up. */
	int open_flags = (flags & SQLITE_OPEN_READWRITE ? O_RDWR : O_RDONLY) | O_NOCTTY | O_NONBLOCK;
	bool create = flags & SQLITE_OPEN_CREATE;
	int rc;

	if (create)
		open_flags |= O_CREAT;
	if (create && (flags & SQLITE_OPEN_EXCLUSIVE || (vfs->create_new && flags & SQLITE_OPEN_MAIN_DB)))
		open_flags |= O_EXCL;
	file->fd = vfs->io->open(vfs->io, vfs->dir_fd, name, open_flags, 0600);
	if (file->fd < 0)
		return file->fd;
	rc = check_regular(file->fd);
	if (rc < 0) {
		vfs->io->close(vfs->io, file->fd);
		return rc;
	}
	if (create)
		give_away(vfs, file->fd);
	file->sync_directory = create;
	return 0;
}

static int vfs_open(sqlite3_vfs *base, const char *name, sqlite3_file *out, int flags, int *out_flags)
{
	struct vfs *vfs = base->pAppData;
	struct vfs_file *file = (struct vfs_file *)out;
	int rc = 0;

	*file = (struct vfs_file){.vfs = vfs, .fd = -1};
	if (!name || !(flags & (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_MAIN_JOURNAL)))
		rc = -EOPNOTSUPP;
	else if (vfs->file_fd < 0)
		rc = open_below(vfs, name, flags, file);
	else if (flags & SQLITE_OPEN_MAIN_DB)
		*file = (struct vfs_file){.vfs = vfs, .fd = vfs->file_fd, .borrowed = true};
	else
		rc = -EOPNOTSUPP;
	if (rc < 0)
		return failed(vfs, rc, SQLITE_CANTOPEN);

	file->base.pMethods = &file_methods;
	if (out_flags)
		*out_flags = flags;
	return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *base, const char *name, int sync_directory)
{
	struct vfs *vfs = base->pAppData;
	int rc = vfs->io->unlink(vfs->io, vfs->dir_fd, name, 0);

	if (rc == -ENOENT)
		return SQLITE_IOERR_DELETE_NOENT;
	if (rc < 0)
		return failed(vfs, rc, SQLITE_IOERR_DELETE);
	if (sync_directory) {
		rc = vfs->io->fsync(vfs->io, vfs->dir_fd);
		if (rc < 0)
			return failed(vfs, rc, SQLITE_IOERR_DIR_FSYNC);
	}
	return SQLITE_OK;
}

/* SQLite asks for these, and for the super-journal that a journal names: by whatever bytes somebody has put there. */
static bool own_name(const char *name)
{
	return !strcmp(name, MAP_DB_NAME "-journal") || !strcmp(name, MAP_DB_NAME "-wal");
}

static int vfs_access(sqlite3_vfs *base, const char *name, int flags, int *result)
{
	struct vfs *vfs = base->pAppData;
	struct stat status;

	*result = 0;
	if (vfs->file_fd >= 0 || !own_name(name))
		return SQLITE_OK;
	if (fstatat(vfs->dir_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? SQLITE_OK : failed(vfs, io_error(), SQLITE_IOERR_ACCESS);
	/* An empty journal counts as none, as in SQLite's unix VFS. */
	*result = flags != SQLITE_ACCESS_EXISTS || !S_ISREG(status.st_mode) || status.st_size > 0;
	return SQLITE_OK;
}

static int vfs_full_pathname(sqlite3_vfs *base, const char *name, int size, char *out)
{
	size_t length = strlen(name);

	if (length >= (size_t)size || strchr(name, '/'))
		return SQLITE_CANTOPEN;
	memcpy(out, name, length + 1);
	return SQLITE_OK;
}

static int vfs_randomness(sqlite3_vfs *base, int size, char *out)
{
	struct vfs *vfs = base->pAppData;

	return vfs->host->xRandomness(vfs->host, size, out);
}

static int vfs_sleep(sqlite3_vfs *base, int microseconds)
{
	struct vfs *vfs = base->pAppData;

	return vfs->host->xSleep(vfs->host, microseconds);
}

static int vfs_current_time(sqlite3_vfs *base, double *now)
{
	struct vfs *vfs = base->pAppData;

	return vfs->host->xCurrentTime(vfs->host, now);
}

static int vfs_current_time_int64(sqlite3_vfs *base, sqlite3_int64 *now)
{
	struct vfs *vfs = base->pAppData;

	return vfs->host->xCurrentTimeInt64(vfs->host, now);
}

static int vfs_get_last_error(sqlite3_vfs *base, int size, char *out)
{
	struct vfs *vfs = base->pAppData;

	return vfs->last_errno;
}

static int vfs_make(const struct io *io, int dir_fd, int file_fd, bool create_new, struct vfs **out)
{
	static atomic_uint instances;
	sqlite3_vfs *host = sqlite3_vfs_find(NULL);
	struct vfs *vfs = malloc(sizeof *vfs);

	if (!host || !vfs) {
		free(vfs);
		return -ENOMEM;
	}
	*vfs = (struct vfs){
	        .io = io,
	        .host = host,
	        .dir_fd = dir_fd,
	        .file_fd = file_fd,
	        .create_new = create_new,
	        .base =
	                {
	                        .iVersion = 2,
	                        .szOsFile = sizeof(struct vfs_file),
	                        .mxPathname = VFS_PATH_MAX,
	                        .zName = vfs->name,
	                        .pAppData = vfs,
	                        .xOpen = vfs_open,
	                        .xDelete = vfs_delete,
	                        .xAccess = vfs_access,
	                        .xFullPathname = vfs_full_pathname,
	                        .xRandomness = vfs_randomness,
	                        .xSleep = vfs_sleep,
	                        .xCurrentTime = vfs_current_time,
	                        .xGetLastError = vfs_get_last_error,
	                        .xCurrentTimeInt64 = vfs_current_time_int64,
	                },
	};
	snprintf(vfs->name, sizeof vfs->name, "zcfs-%u", atomic_fetch_add(&instances, 1));
	if (sqlite3_vfs_register(&vfs->base, 0) != SQLITE_OK) {
		free(vfs);
		return -ENOMEM;
	}
	*out = vfs;
	return 0;
}

int vfs_new(const struct io *io, int dir_fd, bool create_new, struct vfs **out)
{
	return vfs_make(io, dir_fd, -1, create_new, out);
}

int vfs_new_for_file(const struct io *io, int file_fd, struct vfs **out)
{
	return vfs_make(io, -1, file_fd, false, out);
}

void vfs_free(struct vfs *vfs)
{
	if (!vfs)
		return;
	sqlite3_vfs_unregister(&vfs->base);
	free(vfs);
}

const char *vfs_name(const struct vfs *vfs)
{
	return vfs->name;
}

int vfs_last_errno(const struct vfs *vfs)
{
	return vfs->last_errno;
}

void vfs_clear_errno(struct vfs *vfs)
{
	vfs->last_errno = 0;
}
