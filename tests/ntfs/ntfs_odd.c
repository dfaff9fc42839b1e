// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ntfs-odd: puts what hardly anybody has on an NTFS volume (made by mkntfs), through libntfs-3g and without a mount: a
 * file with thousands of names, one with thousands of named streams, files at the bottom of a deep tree. All of it is
 * below /odd/.
 */
#include "image_device.h"

#include <errno.h>
#include <getopt.h>
#include <ntfs-3g/attrib.h>
#include <ntfs-3g/dir.h>
#include <ntfs-3g/inode.h>
#include <ntfs-3g/layout.h>
#include <ntfs-3g/unistr.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define SECURITY_ID const_cpu_to_le32(0x100) /* mkntfs puts two descriptors into $Secure, this is the first */
#define DATA_SIZE   9000u

struct name {
	ntfschar *text;
	uint8_t length;
};

static _Noreturn __attribute__((format(printf, 1, 2))) void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("ntfs-odd: ", stderr);
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, ": %s\n", strerror(errno));
	va_end(ap);
	exit(2);
}

static void free_name(struct name *name)
{
	free(name->text);
}
#define cleanup_name __attribute__((cleanup(free_name)))

static struct name make_name(const char *prefix, unsigned long no)
{
	char text[64];
	struct name name = {0};

	snprintf(text, sizeof(text), "%s%lu", prefix, no);
	name.length = (uint8_t)ntfs_mbstoucs(text, &name.text);
	return name;
}

static ntfs_inode *make(ntfs_inode *parent, const char *prefix, unsigned long no, mode_t type)
{
	cleanup_name struct name name = make_name(prefix, no);
	ntfs_inode *ni = ntfs_create(parent, SECURITY_ID, name.text, name.length, type);

	if (!ni)
		die("creating %s%lu", prefix, no);
	return ni;
}

static void close_in(ntfs_inode *ni, ntfs_inode *parent)
{
	if (ntfs_inode_close_in_dir(ni, parent))
		die("closing an inode");
}

static void write_stream(ntfs_inode *ni, const struct name *name, unsigned long no)
{
	static uint64_t data[DATA_SIZE / 8];
	ntfs_attr *na;

	for (size_t i = 0; i < DATA_SIZE / 8; i++) /* different everywhere: a misplaced cluster must never look right */
		data[i] = (ni->mft_no << 32 ^ no << 16 ^ i) * 0x9e3779b97f4a7c15ULL;
	na = ntfs_attr_open(ni, AT_DATA, name ? name->text : AT_UNNAMED, name ? name->length : 0);
	if (!na || ntfs_attr_pwrite(na, 0, sizeof(data), data) != (s64)sizeof(data))
		die("writing");
	ntfs_attr_close(na);
}

static void make_links(ntfs_inode *top, unsigned long count)
{
	ntfs_inode *ni = make(top, "linked", 0, S_IFREG);

	write_stream(ni, NULL, 0);
	for (unsigned long i = 1; i < count; i++) {
		cleanup_name struct name name = make_name("another name of it ", i);

		if (ntfs_link(ni, top, name.text, name.length))
			die("link %lu", i);
	}
	close_in(ni, top);
}

static void make_streams(ntfs_inode *top, unsigned long count)
{
	ntfs_inode *ni = make(top, "streams", 0, S_IFREG);

	write_stream(ni, NULL, 0);
	for (unsigned long i = 1; i <= count; i++) {
		cleanup_name struct name name = make_name("s", i);

		if (ntfs_attr_add(ni, AT_DATA, name.text, name.length, NULL, 0))
			die("stream %lu", i);
		write_stream(ni, &name, i);
	}
	close_in(ni, top);
}

/* A chain of directories; at its end, files. Inodes are opened again by number: one level is open at a time. */
static void make_tree(ntfs_volume *vol, ntfs_inode *top, unsigned long depth, unsigned long files)
{
	uint64_t parent_no = top->mft_no;
	ntfs_inode *parent = top;

	for (unsigned long i = 0; i < depth; i++) {
		ntfs_inode *ni = make(parent, "", i, S_IFDIR);

		parent_no = ni->mft_no;
		close_in(ni, parent);
		if (parent != top && ntfs_inode_close(parent))
			die("closing a directory");
		parent = ntfs_inode_open(vol, parent_no);
		if (!parent)
			die("opening a directory");
	}
	for (unsigned long i = 0; i < files; i++) {
		ntfs_inode *ni = make(parent, "deep", i, S_IFREG);

		write_stream(ni, NULL, i);
		close_in(ni, parent);
	}
	if (parent != top && ntfs_inode_close(parent))
		die("closing a directory");
}

struct options {
	const char *image;
	unsigned long links, streams, depth, files;
};

static void parse_options(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {{"links", 1, NULL, 'l'},
	                                        {"streams", 1, NULL, 's'},
	                                        {"depth", 1, NULL, 'd'},
	                                        {"files", 1, NULL, 'f'},
	                                        {0}};
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		unsigned long n = optarg ? strtoul(optarg, NULL, 10) : 0;

		switch (opt) {
		case 'l':
			o->links = n;
			break;
		case 's':
			o->streams = n;
			break;
		case 'd':
			o->depth = n;
			break;
		case 'f':
			o->files = n;
			break;
		default:
			optind = argc;
		}
	}
	if (optind != argc - 1) {
		fputs("usage: ntfs-odd [--links N] [--streams N] [--depth N --files N] IMAGE\n", stderr);
		exit(2);
	}
	o->image = argv[optind];
}

int main(int argc, char **argv)
{
	struct options o = {0};

	parse_options(argc, argv, &o);
	ntfs_volume *vol = image_mount(o.image, 0, NTFS_MNT_NONE);
	ntfs_inode *root = vol ? ntfs_inode_open(vol, FILE_root) : NULL;

	if (!root)
		die("%s", o.image);
	ntfs_inode *top = make(root, "odd", 0, S_IFDIR);

	if (o.links)
		make_links(top, o.links);
	if (o.streams)
		make_streams(top, o.streams);
	if (o.files)
		make_tree(vol, top, o.depth, o.files);
	close_in(top, root);
	if (ntfs_inode_close(root) || ntfs_umount(vol, FALSE))
		die("unmounting %s", o.image);
	return 0;
}
