/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * inject: stands between a program and the C library (LD_PRELOAD), and makes the k-th call of some kinds fail.
 *
 * FAULTS in the environment names a file with a struct control, which is mapped, shared by all processes and can be
 * changed while the program runs; tests/faults/injector.py writes it. Without it nothing fails. Makes no system calls
 * of its own once it has started: in a sandbox they would be the program's end.
 */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

/* The order is known to tests/faults/injector.py. */
enum call {
	CALL_READ,
	CALL_WRITE,
	CALL_SYNC,
	CALL_ALLOCATE, /* and holes */
	CALL_TRUNCATE,
	CALL_OPEN,
	CALL_NAME, /* rename, link, unlink, mkdir, symlink, mknod */
	CALL_LOCK,
	CALL_MEMORY,
	CALL_ATTRIBUTE, /* mode, owner, times, extended attributes */
	CALL_LOOK,      /* stat() in its forms */
	CALL_THREAD,
	CALL_DESCRIPTOR, /* open(), dup() and the like, where CALL_OPEN is openat2() */
	CALL_RANGE_LOCK, /* SQLite's */
	CALL_REMOVED,    /* close() of a file that has no name any more */
	CALL_UNMOUNT,
	CALL_NONE = 63, /* never counted */
};

struct control {
	_Atomic uint64_t calls;    /* a bit for each enum call that is counted */
	_Atomic uint64_t at;       /* calls that work before one fails */
	_Atomic uint64_t error;    /* errno; SHORT: a read or write does half of what it should */
	_Atomic uint64_t ever;     /* all later ones fail, too */
	_Atomic uint64_t delay_ms; /* what fails is told so much later */
	_Atomic uint64_t counted;  /* how many there were */
	_Atomic uint64_t happened; /* how many have failed */
	_Atomic uint64_t blocks;   /* of memory that nobody has freed */
};

#define SHORT UINT64_MAX

static struct control *control;

__attribute__((constructor)) static void start(void)
{
	const char *path = getenv("FAULTS");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *memory;

	if (fd < 0)
		return;
	memory = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (memory == MAP_FAILED)
		abort();
	control = memory;
}

/* The error with which this call fails; 0: it does not. */
static uint64_t fault(enum call call)
{
	uint64_t number;

	if (!control || !(atomic_load(&control->calls) >> call & 1))
		return 0;
	number = atomic_fetch_add(&control->counted, 1);
	if (number < control->at || (number > control->at && !control->ever))
		return 0;
	atomic_fetch_add(&control->happened, 1);
	if (control->delay_ms)
		usleep((useconds_t)control->delay_ms * 1000);
	return control->error;
}

/* The call itself, unless it fails. */
#define PASS(call, failure, type, name, parameters, arguments)                                                         \
	({                                                                                                             \
		static type(*real) parameters;                                                                         \
		uint64_t error_ = fault(call);                                                                         \
		if (!real)                                                                                             \
			real = (type(*) parameters)dlsym(RTLD_NEXT, name);                                             \
		if (error_ && error_ != SHORT)                                                                         \
			errno = (int)error_;                                                                           \
		error_ &&error_ != SHORT ? (type)(failure) : real arguments;                                           \
	})

#define DEFINE_TRANSFER(type, function, call)                                                                          \
	ssize_t function(int fd, type buffer, size_t length, off_t off)                                                \
	{                                                                                                              \
		static ssize_t (*real)(int, type, size_t, off_t);                                                      \
		uint64_t error = fault(call);                                                                          \
		if (!real)                                                                                             \
			real = (ssize_t(*)(int, type, size_t, off_t))dlsym(RTLD_NEXT, #function);                      \
		if (error && error != SHORT) {                                                                         \
			errno = (int)error;                                                                            \
			return -1;                                                                                     \
		}                                                                                                      \
		return real(fd, buffer, error && length > 1 ? length / 2 : length, off);                               \
	}

DEFINE_TRANSFER(void *, pread, CALL_READ)
DEFINE_TRANSFER(void *, pread64, CALL_READ)
DEFINE_TRANSFER(const void *, pwrite, CALL_WRITE)
DEFINE_TRANSFER(const void *, pwrite64, CALL_WRITE)

/* Short: the first buffer, or half of it if it is the only one. */
#define DEFINE_VECTOR(function, call)                                                                                  \
	ssize_t function(int fd, const struct iovec *vector, int count, off_t off, int flags)                          \
	{                                                                                                              \
		static ssize_t (*real)(int, const struct iovec *, int, off_t, int);                                    \
		struct iovec less = count > 0 ? vector[0] : (struct iovec){0};                                         \
		uint64_t error = fault(call);                                                                          \
		if (!real)                                                                                             \
			real = (ssize_t(*)(int, const struct iovec *, int, off_t, int))dlsym(RTLD_NEXT, #function);    \
		if (!error)                                                                                            \
			return real(fd, vector, count, off, flags);                                                    \
		if (error != SHORT) {                                                                                  \
			errno = (int)error;                                                                            \
			return -1;                                                                                     \
		}                                                                                                      \
		if (count == 1 && less.iov_len > 1)                                                                    \
			less.iov_len /= 2;                                                                             \
		return real(fd, &less, 1, off, flags);                                                                 \
	}

DEFINE_VECTOR(preadv2, CALL_READ)
DEFINE_VECTOR(preadv64v2, CALL_READ)
DEFINE_VECTOR(pwritev2, CALL_WRITE)
DEFINE_VECTOR(pwritev64v2, CALL_WRITE)

ssize_t preadv(int fd, const struct iovec *vector, int count, off_t off)
{
	return preadv2(fd, vector, count, off, 0);
}

ssize_t preadv64(int fd, const struct iovec *vector, int count, off64_t off)
{
	return preadv2(fd, vector, count, off, 0);
}

int fsync(int fd)
{
	return PASS(CALL_SYNC, -1, int, "fsync", (int), (fd));
}

int fdatasync(int fd)
{
	return PASS(CALL_SYNC, -1, int, "fdatasync", (int), (fd));
}

int fallocate(int fd, int mode, off_t off, off_t length)
{
	return PASS(CALL_ALLOCATE, -1, int, "fallocate", (int, int, off_t, off_t), (fd, mode, off, length));
}

int fallocate64(int fd, int mode, off64_t off, off64_t length)
{
	return fallocate(fd, mode, off, length);
}

int ftruncate(int fd, off_t size)
{
	return PASS(CALL_TRUNCATE, -1, int, "ftruncate", (int, off_t), (fd, size));
}

int ftruncate64(int fd, off64_t size)
{
	return ftruncate(fd, size);
}

int renameat2(int old_dir, const char *old_name, int new_dir, const char *new_name, unsigned int flags)
{
	return PASS(CALL_NAME, -1, int, "renameat2", (int, const char *, int, const char *, unsigned int),
	            (old_dir, old_name, new_dir, new_name, flags));
}

int linkat(int old_dir, const char *old_name, int new_dir, const char *new_name, int flags)
{
	return PASS(CALL_NAME, -1, int, "linkat", (int, const char *, int, const char *, int),
	            (old_dir, old_name, new_dir, new_name, flags));
}

int unlinkat(int dir, const char *name, int flags)
{
	return PASS(CALL_NAME, -1, int, "unlinkat", (int, const char *, int), (dir, name, flags));
}

int mkdirat(int dir, const char *name, mode_t mode)
{
	return PASS(CALL_NAME, -1, int, "mkdirat", (int, const char *, mode_t), (dir, name, mode));
}

int symlinkat(const char *target, int dir, const char *name)
{
	return PASS(CALL_NAME, -1, int, "symlinkat", (const char *, int, const char *), (target, dir, name));
}

int mknodat(int dir, const char *name, mode_t mode, dev_t device)
{
	return PASS(CALL_NAME, -1, int, "mknodat", (int, const char *, mode_t, dev_t), (dir, name, mode, device));
}

int flock(int fd, int operation)
{
	return PASS(CALL_LOCK, -1, int, "flock", (int, int), (fd, operation));
}

int fcntl64(int fd, int command, ...)
{
	va_list list;
	void *argument;

	va_start(list, command);
	argument = va_arg(list, void *);
	va_end(list);
	if (command == F_OFD_SETLK)
		return PASS(CALL_RANGE_LOCK, -1, int, "fcntl64", (int, int, ...), (fd, command, argument));
	if (command == F_DUPFD_CLOEXEC)
		return PASS(CALL_DESCRIPTOR, -1, int, "fcntl64", (int, int, ...), (fd, command, argument));
	return PASS(CALL_NONE, -1, int, "fcntl64", (int, int, ...), (fd, command, argument));
}

/* before: the parameters before the flags; types and arguments are theirs. */
#define UNPACK(...) __VA_ARGS__
#define DEFINE_OPEN(function, before, types, arguments)                                                                \
	int function(UNPACK before, int flags, ...)                                                                    \
	{                                                                                                              \
		va_list list;                                                                                          \
		mode_t mode;                                                                                           \
		va_start(list, flags);                                                                                 \
		mode = va_arg(list, mode_t);                                                                           \
		va_end(list);                                                                                          \
		return PASS(CALL_DESCRIPTOR, -1, int, #function, (UNPACK types, int, ...),                             \
		            (UNPACK arguments, flags, mode));                                                          \
	}

DEFINE_OPEN(open, (const char *path), (const char *), (path))
DEFINE_OPEN(open64, (const char *path), (const char *), (path))
DEFINE_OPEN(openat, (int dir, const char *path), (int, const char *), (dir, path))
DEFINE_OPEN(openat64, (int dir, const char *path), (int, const char *), (dir, path))

static enum call kind_of_close(int fd)
{
	struct statx status;

	/* Only who is to hear of them makes system calls of its own. */
	if (!control || !(atomic_load(&control->calls) >> CALL_REMOVED & 1) ||
	    statx(fd, "", AT_EMPTY_PATH, STATX_TYPE | STATX_NLINK, &status) < 0)
		return CALL_NONE;
	return S_ISREG(status.stx_mode) && status.stx_nlink == 0 ? CALL_REMOVED : CALL_NONE;
}

int close(int fd)
{
	return PASS(kind_of_close(fd), -1, int, "close", (int), (fd));
}

int umount2(const char *path, int flags)
{
	return PASS(CALL_UNMOUNT, -1, int, "umount2", (const char *, int), (path, flags));
}

int memfd_create(const char *name, unsigned int flags)
{
	return PASS(CALL_DESCRIPTOR, -1, int, "memfd_create", (const char *, unsigned int), (name, flags));
}

int fchmod(int fd, mode_t mode)
{
	return PASS(CALL_ATTRIBUTE, -1, int, "fchmod", (int, mode_t), (fd, mode));
}

int fchmodat(int dir, const char *path, mode_t mode, int flags)
{
	return PASS(CALL_ATTRIBUTE, -1, int, "fchmodat", (int, const char *, mode_t, int), (dir, path, mode, flags));
}

int fchown(int fd, uid_t owner, gid_t group)
{
	return PASS(CALL_ATTRIBUTE, -1, int, "fchown", (int, uid_t, gid_t), (fd, owner, group));
}

int fchownat(int dir, const char *path, uid_t owner, gid_t group, int flags)
{
	return PASS(CALL_ATTRIBUTE, -1, int, "fchownat", (int, const char *, uid_t, gid_t, int),
	            (dir, path, owner, group, flags));
}

int utimensat(int dir, const char *path, const struct timespec times[2], int flags)
{
	return PASS(CALL_ATTRIBUTE, -1, int, "utimensat", (int, const char *, const struct timespec *, int),
	            (dir, path, times, flags));
}

int setxattr(const char *path, const char *name, const void *value, size_t size, int flags)
{
	return PASS(CALL_ATTRIBUTE, -1, int, "setxattr", (const char *, const char *, const void *, size_t, int),
	            (path, name, value, size, flags));
}

int fstat64(int fd, struct stat64 *status)
{
	return PASS(CALL_LOOK, -1, int, "fstat64", (int, struct stat64 *), (fd, status));
}

int fstatat64(int dir, const char *path, struct stat64 *status, int flags)
{
	return PASS(CALL_LOOK, -1, int, "fstatat64", (int, const char *, struct stat64 *, int),
	            (dir, path, status, flags));
}

/* Its value is the error. */
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
	int ret = PASS(CALL_THREAD, -1, int, "pthread_create",
	               (pthread_t *, const pthread_attr_t *, void *(*)(void *), void *),
	               (thread, attributes, run, argument));

	return ret < 0 ? errno : ret;
}

/* openat2 has no function in the C library. */
long syscall(long number, ...)
{
	va_list list;
	long a[6];

	va_start(list, number);
	for (size_t i = 0; i < sizeof(a) / sizeof(a[0]); i++)
		a[i] = va_arg(list, long);
	va_end(list);
	if (number != SYS_openat2) {
		static long (*real)(long, ...);

		if (!real)
			real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
		return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	}
	return PASS(CALL_OPEN, -1, long, "syscall", (long, ...), (number, a[0], a[1], a[2], a[3], a[4], a[5]));
}

#ifdef HAVE_LIBURING
/* What a ring is asked for does not pass the C library; but whoever asks has to call liburing for it to begin. Then the
 * request that is to fail becomes one that does nothing and has the error for its result (Linux 6.10), and one that is
 * to be short is made shorter. */

#define NOP_INJECT_RESULT 1u /* IORING_NOP_INJECT_RESULT of newer headers */

static struct io_uring_sqe *request_at(const struct io_uring *ring, unsigned int index)
{
	return &ring->sq.sqes[(index & ring->sq.ring_mask) << !!(ring->flags & IORING_SETUP_SQE128)];
}

static void spoil(struct io_uring_sqe *request, enum call call, bool vector)
{
	uint64_t error = fault(call);

	if (error == SHORT && !vector && request->len > 1)
		request->len /= 2;
	else if (error == SHORT && vector && request->len > 1)
		request->len--; /* buffers */
	if (!error || error == SHORT)
		return;
	request->opcode = IORING_OP_NOP;
	request->rw_flags = NOP_INJECT_RESULT;
	request->len = (uint32_t) - (int)error;
	request->fd = -1;
	request->off = request->addr = 0;
}

static void spoil_all(struct io_uring *ring)
{
	for (unsigned int i = ring->sq.sqe_head; control && i != ring->sq.sqe_tail; i++) {
		struct io_uring_sqe *request = request_at(ring, i);

		if (request->opcode == IORING_OP_READ || request->opcode == IORING_OP_READV)
			spoil(request, CALL_READ, request->opcode == IORING_OP_READV);
		else if (request->opcode == IORING_OP_WRITE)
			spoil(request, CALL_WRITE, false);
	}
}

int io_uring_submit(struct io_uring *ring)
{
	spoil_all(ring);
	return PASS(CALL_NONE, -1, int, "io_uring_submit", (struct io_uring *), (ring));
}

int io_uring_submit_and_wait(struct io_uring *ring, unsigned int count)
{
	spoil_all(ring);
	return PASS(CALL_NONE, -1, int, "io_uring_submit_and_wait", (struct io_uring *, unsigned int), (ring, count));
}

/* Their values are -errno. */
int io_uring_queue_init(unsigned int entries, struct io_uring *ring, unsigned int flags)
{
	int ret = PASS(CALL_MEMORY, INT_MIN, int, "io_uring_queue_init",
	               (unsigned int, struct io_uring *, unsigned int), (entries, ring, flags));

	return ret == INT_MIN ? -errno : ret;
}

int io_uring_queue_init_params(unsigned int entries, struct io_uring *ring, struct io_uring_params *params)
{
	int ret = PASS(CALL_MEMORY, INT_MIN, int, "io_uring_queue_init_params",
	               (unsigned int, struct io_uring *, struct io_uring_params *), (entries, ring, params));

	return ret == INT_MIN ? -errno : ret;
}
#endif

extern void __libc_free(void *memory);
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

/* libseccomp loops for ever, or makes a filter that forbids everything, when it gets no memory: not ours to test. */
static int is_spared(const void *caller)
{
	Dl_info where;

	return dladdr(caller, &where) && strstr(where.dli_fname, "libseccomp");
}

static bool no_memory(const void *caller)
{
	if (!fault(CALL_MEMORY) || is_spared(caller))
		return false;
	errno = ENOMEM;
	return true;
}

static void *counted(void *memory)
{
	if (memory && control)
		atomic_fetch_add(&control->blocks, 1);
	return memory;
}

void free(void *memory)
{
	if (memory && control)
		atomic_fetch_sub(&control->blocks, 1);
	__libc_free(memory);
}

void *malloc(size_t size)
{
	return no_memory(__builtin_return_address(0)) ? NULL : counted(__libc_malloc(size));
}

void *calloc(size_t count, size_t size)
{
	return no_memory(__builtin_return_address(0)) ? NULL : counted(__libc_calloc(count, size));
}

static void *resize(void *memory, size_t size)
{
	void *resized = __libc_realloc(memory, size);

	if (!memory)
		counted(resized);
	else if (size == 0 && !resized && control) /* freed */
		atomic_fetch_sub(&control->blocks, 1);
	return resized;
}

void *realloc(void *memory, size_t size)
{
	return no_memory(__builtin_return_address(0)) ? NULL : resize(memory, size);
}

void *reallocarray(void *memory, size_t count, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(count, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return no_memory(__builtin_return_address(0)) ? NULL : resize(memory, bytes);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	return no_memory(__builtin_return_address(0)) ? NULL : counted(__libc_memalign(alignment, size));
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
	if (no_memory(__builtin_return_address(0)))
		return ENOMEM;
	*memory = counted(__libc_memalign(alignment, size));
	return *memory ? 0 : ENOMEM;
}
