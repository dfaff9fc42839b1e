/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fs/direct_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/host_file.h"
#include "fs/map_walk.h"

void direct_file_init(struct direct_file *file)
{
	*file = (struct direct_file){.tried = false};
	pthread_mutex_init(&file->lock, NULL);
	atomic_init(&file->fd, -1);
}

void direct_file_close(struct direct_file *file)
{
	int fd = atomic_load(&file->fd);

	if (fd >= 0)
		close(fd);
	pthread_mutex_destroy(&file->lock);
}

/* False where the file system does not say what it can do: some then go through the cache all the same. */
static bool ask_alignment(struct direct_file *file, int data_fd)
{
#ifdef STATX_DIOALIGN
	struct statx status;

	if (statx(data_fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) < 0 || !(status.stx_mask & STATX_DIOALIGN))
		return false;
	file->memory_align = status.stx_dio_mem_align;
	file->off_align = status.stx_dio_offset_align;
	return file->memory_align > 0 && file->off_align > 0;
#else
	return false;
#endif
}

static int open_direct(int data_fd, bool writable)
{
	int fd = host_open_again(data_fd, (writable ? O_RDWR : O_RDONLY) | O_DIRECT);

	if (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0) {
		close(fd);
		return -1;
	}
	return fd < 0 ? -1 : fd;
}

void direct_file_open(struct direct_file *file, int data_fd, bool writable)
{
	pthread_mutex_lock(&file->lock);
	if (!file->tried && ask_alignment(file, data_fd)) {
		file->writable = writable;
		atomic_store(&file->fd, open_direct(data_fd, writable));
	}
	file->tried = true;
	pthread_mutex_unlock(&file->lock);
}

int direct_file_fd(const struct direct_file *file)
{
	return atomic_load_explicit(&file->fd, memory_order_acquire);
}

int direct_file_write_fd(const struct direct_file *file)
{
	int fd = direct_file_fd(file);

	return fd >= 0 && file->writable ? fd : -1;
}

bool direct_file_takes_sectors(const struct direct_file *file)
{
	return direct_file_fd(file) >= 0 && (file->memory_align | file->off_align) <= IMAGE_MAP_UNIT;
}

static bool piece_fits(const struct direct_file *file, const uint8_t *buffer, uint64_t host_off, size_t length)
{
	return ((uintptr_t)buffer & (file->memory_align - 1)) == 0 &&
	       ((host_off | length) & (file->off_align - 1)) == 0;
}

bool direct_file_fits(const struct direct_file *file, const struct image_map *map, const uint8_t *buffer, uint64_t off,
                      size_t length)
{
	struct map_walk walk;
	size_t n;

	if (!map)
		return piece_fits(file, buffer, off, length);
	walk = map_walk_begin(map, off, length);
	for (; map_walk_next(&walk, &off, &n); buffer += n)
		if (!piece_fits(file, buffer, off, n))
			return false;
	return true;
}
