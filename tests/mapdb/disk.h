/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * disk: a small directory tree in memory, as it might lie on a disk: cheap to copy (what copies have in common they share), to change
 * and to hash, so that a hundred thousand states that a crash may leave can be told apart before any of them is made real.
 *
 * Nodes are files and directories, known by small numbers; node 0 is the root. One thread.
 */
#ifndef ZCFS_TESTS_DISK_H
#define ZCFS_TESTS_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define DISK_PAGE      4096u
#define DISK_NAME_SIZE 64u
#define DISK_NODES     400u
#define DISK_ENTRIES   64u
#define DISK_ROOT      0u
#define DISK_NONE      UINT32_MAX

struct disk_node;

struct disk_entry {
	uint32_t directory, node;
	/* Where the name holds inode numbers (image_stale.c), they are written as '#' and the node's number. */
	char name[DISK_NAME_SIZE];
};

/* Zero-initialised is no disk. */
struct disk {
	size_t node_count, entry_count;
	struct disk_node *nodes[DISK_NODES]; /* NULL: not on this disk */
	struct disk_entry entries[DISK_ENTRIES];
};

/* The real inode number of each node. */
struct disk_inodes {
	ino_t of[DISK_NODES]; /* 0: none */
};

void disk_copy(const struct disk *from, struct disk *to);
void disk_release(struct disk *disk);

/* Reads the directory, and what is in it. */
void disk_read(int dir_fd, struct disk *disk, struct disk_inodes *inodes);
/* Makes it in an empty directory. inodes may be NULL. */
void disk_make(const struct disk *disk, int dir_fd, struct disk_inodes *inodes);
/* Equal for disks that look alike from their roots; numbers of nodes and the random parts of hidden names do not matter. */
uint64_t disk_hash(const struct disk *disk);

void disk_name_with_nodes(const struct disk_inodes *inodes, const char *name, char *out); /* out: DISK_NAME_SIZE */

/* ---- changes ---- */

void disk_add_node(struct disk *disk, uint32_t node, bool is_directory);
uint32_t disk_find(const struct disk *disk, uint32_t directory, const char *name); /* DISK_NONE */
/* Node DISK_NONE: takes the name away. */
void disk_set_name(struct disk *disk, uint32_t directory, const char *name, uint32_t node);

/* Bytes NULL: zeros, and whole pages become holes. Does not change the size. */
void disk_write(struct disk *disk, uint32_t node, uint64_t off, const uint8_t *bytes, uint64_t length);
void disk_allocate(struct disk *disk, uint32_t node, uint64_t off, uint64_t length);
uint64_t disk_size(const struct disk *disk, uint32_t node);
void disk_grow(struct disk *disk, uint32_t node, uint64_t size);   /* if it is smaller */
void disk_resize(struct disk *disk, uint32_t node, uint64_t size); /* what is cut off is gone */

#endif
