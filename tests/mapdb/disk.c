/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "disk.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

#define REPLACE_MARK "replace-"
#define HIDDEN_MARK  ".zcfs-"

struct page {
	unsigned int references;
	uint64_t hash; /* 0: not known */
	uint8_t bytes[DISK_PAGE];
};

struct disk_node {
	unsigned int references;
	bool is_directory;
	uint64_t hash; /* 0: not known */
	uint64_t size;
	size_t page_count;   /* of the table */
	struct page **pages; /* NULL: a hole */
};

/* ---- pages and nodes, shared until they are written ---- */

static void page_release(struct page *page)
{
	if (page && --page->references == 0)
		free(page);
}

static void node_release(struct disk_node *node)
{
	if (!node || --node->references > 0)
		return;
	for (size_t i = 0; i < node->page_count; i++)
		page_release(node->pages[i]);
	free(node->pages);
	free(node);
}

/* The node, as no other disk has it, with room for so many pages. */
static struct disk_node *own_node(struct disk *disk, uint32_t number, size_t page_count)
{
	struct disk_node *node = disk->nodes[number];

	CHECK(node && !node->is_directory);
	if (node->references > 1) {
		struct disk_node *own = malloc(sizeof *own);

		CHECK(own);
		*own = *node;
		own->references = 1;
		own->pages = calloc(own->page_count + 1, sizeof *own->pages);
		CHECK(own->pages);
		for (size_t i = 0; i < own->page_count; i++) {
			own->pages[i] = node->pages[i];
			if (own->pages[i])
				own->pages[i]->references++;
		}
		node->references--;
		disk->nodes[number] = node = own;
	}
	if (node->page_count < page_count) {
		node->pages = reallocarray(node->pages, page_count, sizeof *node->pages);
		CHECK(node->pages);
		memset(node->pages + node->page_count, 0, (page_count - node->page_count) * sizeof *node->pages);
		node->page_count = page_count;
	}
	node->hash = 0;
	return node;
}

static struct page *own_page(struct disk_node *node, size_t index)
{
	struct page *page = node->pages[index];

	if (!page || page->references > 1) {
		struct page *own = malloc(sizeof *own);

		CHECK(own);
		if (page)
			memcpy(own->bytes, page->bytes, DISK_PAGE);
		else
			memset(own->bytes, 0, DISK_PAGE);
		own->references = 1;
		page_release(page);
		node->pages[index] = page = own;
	}
	page->hash = 0;
	return page;
}

void disk_copy(const struct disk *from, struct disk *to)
{
	to->node_count = from->node_count;
	to->entry_count = from->entry_count;
	memcpy(to->entries, from->entries, from->entry_count * sizeof from->entries[0]);
	for (size_t i = 0; i < from->node_count; i++) {
		to->nodes[i] = from->nodes[i];
		if (to->nodes[i])
			to->nodes[i]->references++;
	}
}

void disk_release(struct disk *disk)
{
	for (size_t i = 0; i < disk->node_count; i++)
		node_release(disk->nodes[i]);
	disk->node_count = disk->entry_count = 0;
}

void disk_add_node(struct disk *disk, uint32_t number, bool is_directory)
{
	CHECK(number < DISK_NODES);
	while (disk->node_count <= number)
		disk->nodes[disk->node_count++] = NULL;
	if (disk->nodes[number]) /* made by an operation that is tried again with other ones lost */
		return;
	disk->nodes[number] = calloc(1, sizeof *disk->nodes[number]);
	CHECK(disk->nodes[number]);
	*disk->nodes[number] = (struct disk_node){.references = 1, .is_directory = is_directory};
}

/* ---- names ---- */

static struct disk_entry *find_entry(const struct disk *disk, uint32_t directory, const char *name)
{
	for (size_t i = 0; i < disk->entry_count; i++) {
		const struct disk_entry *entry = &disk->entries[i];

		if (entry->directory == directory && !strcmp(entry->name, name))
			return (struct disk_entry *)entry;
	}
	return NULL;
}

uint32_t disk_find(const struct disk *disk, uint32_t directory, const char *name)
{
	const struct disk_entry *entry = find_entry(disk, directory, name);

	return entry ? entry->node : DISK_NONE;
}

void disk_set_name(struct disk *disk, uint32_t directory, const char *name, uint32_t node)
{
	struct disk_entry *entry = find_entry(disk, directory, name);

	if (node == DISK_NONE) {
		if (entry)
			*entry = disk->entries[--disk->entry_count];
		return;
	}
	if (!entry) {
		CHECK(disk->entry_count < DISK_ENTRIES && strlen(name) < DISK_NAME_SIZE);
		entry = &disk->entries[disk->entry_count++];
		entry->directory = directory;
		strcpy(entry->name, name);
	}
	entry->node = node;
}

void disk_name_with_nodes(const struct disk_inodes *inodes, const char *name, char *out)
{
	const char *mark = strstr(name, REPLACE_MARK);
	unsigned long numbers[2];

	CHECK(strlen(name) < DISK_NAME_SIZE);
	if (!mark || sscanf(mark, REPLACE_MARK "%lx-%lx", &numbers[0], &numbers[1]) != 2) {
		strcpy(out, name);
		return;
	}
	for (int i = 0; i < 2; i++) {
		unsigned long node = 0;

		while (node < DISK_NODES - 1 && inodes->of[node] != numbers[i])
			node++;
		numbers[i] = node;
	}
	CHECK(snprintf(out, DISK_NAME_SIZE, "%.*s" REPLACE_MARK "#%lu-#%lu", (int)(mark - name), name, numbers[0],
	               numbers[1]) < (int)DISK_NAME_SIZE);
}

/* The reverse. False: nothing to do. */
static bool name_with_inodes(const struct disk_inodes *inodes, const char *name, char *out)
{
	const char *mark = strstr(name, REPLACE_MARK "#");
	unsigned long nodes[2];

	if (!mark || sscanf(mark, REPLACE_MARK "#%lu-#%lu", &nodes[0], &nodes[1]) != 2)
		return false;
	CHECK(nodes[0] < DISK_NODES && nodes[1] < DISK_NODES);
	CHECK(snprintf(out, DISK_NAME_SIZE, "%.*s" REPLACE_MARK "%lx-%lx", (int)(mark - name), name,
	               inodes->of[nodes[0]], inodes->of[nodes[1]]) < (int)DISK_NAME_SIZE);
	return true;
}

/* ---- contents ---- */

void disk_write(struct disk *disk, uint32_t number, uint64_t off, const uint8_t *bytes, uint64_t length)
{
	struct disk_node *node = own_node(disk, number, (size_t)((off + length + DISK_PAGE - 1) / DISK_PAGE));

	while (length > 0) {
		size_t index = (size_t)(off / DISK_PAGE), at = (size_t)(off % DISK_PAGE);
		size_t n = DISK_PAGE - at < length ? DISK_PAGE - at : (size_t)length;

		if (bytes) {
			memcpy(own_page(node, index)->bytes + at, bytes, n);
			bytes += n;
		} else if (n == DISK_PAGE) {
			page_release(node->pages[index]);
			node->pages[index] = NULL;
		} else if (node->pages[index]) {
			memset(own_page(node, index)->bytes + at, 0, n);
		}
		off += n;
		length -= n;
	}
}

void disk_allocate(struct disk *disk, uint32_t number, uint64_t off, uint64_t length)
{
	size_t end = (size_t)((off + length + DISK_PAGE - 1) / DISK_PAGE);
	struct disk_node *node = own_node(disk, number, end);

	for (size_t i = (size_t)(off / DISK_PAGE); i < end; i++) {
		if (!node->pages[i])
			own_page(node, i);
	}
}

uint64_t disk_size(const struct disk *disk, uint32_t number)
{
	return disk->nodes[number] ? disk->nodes[number]->size : 0;
}

void disk_grow(struct disk *disk, uint32_t number, uint64_t size)
{
	if (disk->nodes[number]->size < size)
		own_node(disk, number, 0)->size = size;
}

void disk_resize(struct disk *disk, uint32_t number, uint64_t size)
{
	struct disk_node *node = own_node(disk, number, 0);
	uint64_t end = (uint64_t)node->page_count * DISK_PAGE;

	if (size < end)
		disk_write(disk, number, size, NULL, end - size);
	disk->nodes[number]->size = size;
}

/* ---- hash ---- */

static uint64_t mix(uint64_t a, uint64_t b)
{
	__uint128_t product = (__uint128_t)(a ^ UINT64_C(0x9e3779b97f4a7c15)) * (b ^ UINT64_C(0xd1b54a32d192ed03));

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_page(struct page *page)
{
	uint64_t hash = 1, a, b;

	if (page->hash)
		return page->hash;
	for (size_t i = 0; i < DISK_PAGE; i += 16) {
		memcpy(&a, page->bytes + i, 8);
		memcpy(&b, page->bytes + i + 8, 8);
		hash = mix(hash ^ a, b + i);
	}
	return page->hash = hash | 1;
}

/* What lies behind the end is not told apart from zeros by making the two: at worst a state is looked at twice. */
static uint64_t hash_node(struct disk_node *node)
{
	uint64_t hash = mix(node->size, node->is_directory);
	size_t count = (size_t)((node->size + DISK_PAGE - 1) / DISK_PAGE);

	if (node->hash)
		return node->hash;
	for (size_t i = 0; i < node->page_count && i < count; i++) {
		if (node->pages[i])
			hash = mix(hash, hash_page(node->pages[i]) ^ i);
	}
	return node->hash = hash | 1;
}

/* The six letters at the end of a hidden name are random. */
static size_t fixed_length(const char *name)
{
	size_t length = strlen(name);

	if (!strstr(name, HIDDEN_MARK) || strstr(name, REPLACE_MARK) || length < 6)
		return length;
	return length - 6;
}

static uint64_t count_links(const struct disk *disk, uint32_t node)
{
	uint64_t links = 0;

	for (size_t i = 0; i < disk->entry_count; i++)
		links += disk->entries[i].node == node;
	return links;
}

static uint64_t hash_directory(const struct disk *disk, uint32_t directory)
{
	uint64_t sum = 0; /* the order of names does not matter */

	for (size_t i = 0; i < disk->entry_count; i++) {
		const struct disk_entry *entry = &disk->entries[i];
		uint64_t hash = directory == DISK_ROOT ? 3 : 5;

		if (entry->directory != directory)
			continue;
		for (size_t c = 0; c < fixed_length(entry->name); c++)
			hash = mix(hash, (unsigned char)entry->name[c]);
		hash = mix(hash, hash_node(disk->nodes[entry->node]));
		if (disk->nodes[entry->node]->is_directory)
			hash = mix(hash, hash_directory(disk, entry->node));
		sum += mix(hash, count_links(disk, entry->node));
	}
	return sum;
}

uint64_t disk_hash(const struct disk *disk)
{
	return hash_directory(disk, DISK_ROOT);
}

/* ---- from and to a real directory ---- */

static int is_entry(const struct dirent *entry)
{
	return strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
}

static void read_file(int fd, struct disk *disk, uint32_t node)
{
	uint8_t bytes[DISK_PAGE];
	struct stat status;

	CHECK_IS(fstat(fd, &status), 0);
	for (off_t off = 0; (off = lseek(fd, off, SEEK_DATA)) >= 0; off += (off_t)DISK_PAGE) {
		off -= off % (off_t)DISK_PAGE;
		ssize_t n = pread(fd, bytes, sizeof bytes, off);
		if (n <= 0)
			break;
		disk_write(disk, node, (uint64_t)off, bytes, (uint64_t)n);
	}
	disk_grow(disk, node, (uint64_t)status.st_size);
}

static void read_directory(int dir_fd, struct disk *disk, uint32_t directory, struct disk_inodes *inodes)
{
	struct dirent **entries;
	int count = scandirat(dir_fd, ".", &entries, is_entry, alphasort);

	CHECK(count >= 0);
	for (int i = 0; i < count; i++) {
		const char *name = entries[i]->d_name;
		struct stat status;
		uint32_t node = 0;

		CHECK_IS(fstatat(dir_fd, name, &status, AT_SYMLINK_NOFOLLOW), 0);
		bool is_directory = S_ISDIR(status.st_mode);
		while (node < disk->node_count && inodes->of[node] != status.st_ino)
			node++;
		bool known = node < disk->node_count; /* another link */
		disk_add_node(disk, node, is_directory);
		inodes->of[node] = status.st_ino;
		disk_set_name(disk, directory, name, node);
		int fd = openat(dir_fd, name, is_directory ? O_RDONLY | O_DIRECTORY : O_RDONLY);
		CHECK(fd >= 0);
		if (is_directory)
			read_directory(fd, disk, node, inodes);
		else if (!known)
			read_file(fd, disk, node);
		close(fd);
		free(entries[i]);
	}
	free(entries);
}

void disk_read(int dir_fd, struct disk *disk, struct disk_inodes *inodes)
{
	struct stat status;

	CHECK_IS(fstat(dir_fd, &status), 0);
	memset(inodes, 0, sizeof *inodes);
	disk->node_count = disk->entry_count = 0;
	disk_add_node(disk, DISK_ROOT, true);
	inodes->of[DISK_ROOT] = status.st_ino;
	read_directory(dir_fd, disk, DISK_ROOT, inodes);
	for (size_t i = 0; i < disk->entry_count; i++) {
		char name[DISK_NAME_SIZE];

		disk_name_with_nodes(inodes, disk->entries[i].name, name);
		strcpy(disk->entries[i].name, name);
	}
}

static void make_file(const struct disk_node *node, int fd)
{
	CHECK_IS(ftruncate(fd, (off_t)node->size), 0);
	for (size_t i = 0; i < node->page_count; i++) {
		uint64_t off = (uint64_t)i * DISK_PAGE;
		uint64_t n = off >= node->size ? 0 : node->size - off < DISK_PAGE ? node->size - off : DISK_PAGE;

		if (node->pages[i] && n > 0)
			CHECK_IS(pwrite(fd, node->pages[i]->bytes, n, (off_t)off), n);
	}
}

/* Where a node was made first, and the directories that are open for it. */
struct made {
	int dir_fd[DISK_NODES];
	const char *name[DISK_NODES];
	int opened[DISK_NODES];
	size_t opened_count;
};

static void make_directory(const struct disk *disk, uint32_t directory, int dir_fd, struct made *made,
                           struct disk_inodes *inodes);

static void make_entry(const struct disk *disk, const struct disk_entry *entry, int dir_fd, struct made *made,
                       struct disk_inodes *inodes)
{
	uint32_t number = entry->node;
	const struct disk_node *node = disk->nodes[number];
	struct stat status;

	CHECK(node);
	if (made->name[number]) {
		CHECK_IS(linkat(made->dir_fd[number], made->name[number], dir_fd, entry->name, 0), 0);
		return;
	}
	if (node->is_directory)
		CHECK_IS(mkdirat(dir_fd, entry->name, 0700), 0);
	int fd = openat(dir_fd, entry->name, node->is_directory ? O_RDONLY | O_DIRECTORY : O_RDWR | O_CREAT | O_EXCL,
	                0600);
	CHECK(fd >= 0);
	CHECK_IS(fstat(fd, &status), 0);
	inodes->of[number] = status.st_ino;
	made->dir_fd[number] = dir_fd;
	made->name[number] = entry->name;
	if (node->is_directory) {
		made->opened[made->opened_count++] = fd;
		make_directory(disk, number, fd, made, inodes);
	} else {
		make_file(node, fd);
		close(fd);
	}
}

static void make_directory(const struct disk *disk, uint32_t directory, int dir_fd, struct made *made,
                           struct disk_inodes *inodes)
{
	for (size_t i = 0; i < disk->entry_count; i++) {
		if (disk->entries[i].directory == directory)
			make_entry(disk, &disk->entries[i], dir_fd, made, inodes);
	}
}

void disk_make(const struct disk *disk, int dir_fd, struct disk_inodes *inodes)
{
	struct disk_inodes own;
	static struct made made;
	struct stat status;

	inodes = inodes ? inodes : &own;
	memset(inodes, 0, sizeof *inodes);
	memset(&made, 0, sizeof made);
	CHECK_IS(fstat(dir_fd, &status), 0);
	inodes->of[DISK_ROOT] = status.st_ino;
	make_directory(disk, DISK_ROOT, dir_fd, &made, inodes);
	for (size_t i = 0; i < made.opened_count; i++)
		close(made.opened[i]);
	for (size_t i = 0; i < disk->entry_count; i++) {
		char name[DISK_NAME_SIZE];

		if (disk->entries[i].directory == DISK_ROOT && name_with_inodes(inodes, disk->entries[i].name, name))
			CHECK_IS(renameat(dir_fd, disk->entries[i].name, dir_fd, name), 0);
	}
}
