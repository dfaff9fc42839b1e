/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * node: what the kernel knows by a number: one node for each inode of the store that it has looked up.
 *
 * The key is device and inode number of the underlying inode, for a bundle those of its data file, so a node outlives
 * adoption. The node's O_PATH descriptor pins the inode, hence a key is not reused while its node lives. For regular
 * files the node remembers the place (parent and name) by which it was last seen; whether that is a plain image or a
 * bundle is deliberately *not* remembered, but found out each time (see fs/open_image.h).
 *
 * A node lives while the kernel counts lookups on it or something inside the daemon holds a reference. Every function
 * may be called from any thread; one mutex guards the table, the counters and the places.
 */
#ifndef ZCFS_NODE_H
#define ZCFS_NODE_H

#include "fs/fuse_api.h"
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct open_image;

enum node_kind {
	NODE_DIRECTORY,
	NODE_FILE,  /* a regular file or a bundle */
	NODE_OTHER, /* symbolic link, fifo, socket, device */
	/* inside MOUNT/.zcfs, see fs/control.c */
	NODE_CONTROL_ROOT,
	NODE_CONTROL_STORE,
	NODE_CONTROL_DB_DIRECTORY,
	NODE_CONTROL_DB_COPY,
};

/* The size of a bundle as read from its database, good as long as the database file looks the same. */
struct bundle_size {
	bool known;
	ino_t db_ino;
	off_t db_size;
	struct timespec db_ctime;
	uint64_t image_size; /* bytes */
};

struct node {
	enum node_kind kind;
	dev_t dev;
	ino_t ino;
	int fd; /* O_PATH; NODE_CONTROL_DB_COPY: the copy itself, readable; -1 for fixed control nodes */

	/* under the table's mutex */
	uint64_t lookups;
	unsigned int references;
	struct node *parent; /* a reference; NULL: place unknown */
	char *name;
	struct bundle_size bundle_size;
	char *error; /* why the image could not be opened the last time; NULL: it could, or nobody has tried */

	/* under the mutex of fs/open_image.c */
	struct open_image *open;
	uint64_t map_changes; /* counts changes of the map, so that a map loaded before one is not used after it */
};

/* Makes the root's node from the store's descriptor, which stays the caller's. 0 or -errno. */
int node_table_init(int dir_fd);

struct node *node_root(void);
struct node *node_of(fuse_ino_t number);
fuse_ino_t node_number(const struct node *node);
/* Seconds for which the kernel may keep the node's attributes: none for an image, which a tool may change at any time. */
double attribute_seconds(const struct node *node);

/* The node of an inode, made if need be. Takes fd in every case. Counts one lookup. For a NODE_FILE sets its place,
 * unless parent is NULL. -ENOMEM; -ENFILE: only as many descriptors are left as are kept for open images. */
int node_lookup(enum node_kind kind, const struct stat *status, int fd, struct node *parent, const char *name,
                struct node **out);
/* -ENFILE, or why not even that is known: there is no room for a node of what is about to be made. */
int node_check_room(void);
/* The node of an inode if there is one, with a reference; else NULL. */
struct node *node_find(const struct stat *status);
void node_forget(struct node *node, uint64_t lookups);

struct node *node_ref(struct node *node);
void node_unref(struct node *node);

/* Where the node was last seen: a reference to the parent and a copy of the name. -ESTALE if unknown. */
int node_place(struct node *node, struct node **parent, char name[NAME_MAX + 1]);
void node_set_place(struct node *node, struct node *parent, const char *name);
/* Forgets the place if it is this one (the name was removed). */
void node_clear_place(struct node *node, struct node *parent, const char *name);

bool node_bundle_size_get(struct node *node, const struct stat *db_status, uint64_t *image_size);
void node_bundle_size_set(struct node *node, const struct stat *db_status, uint64_t image_size);
void node_bundle_size_forget(struct node *node);

/* Remembers why the image cannot be opened, NULL: it can. True if that is new. */
bool node_error_set(struct node *node, const char *error);
/* False if there is none. */
bool node_error_get(struct node *node, char *error, size_t size);

#endif
