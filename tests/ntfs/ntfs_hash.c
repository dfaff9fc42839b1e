// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ntfs-hash: SHA-256 of every file and stream of a volume, read by libntfs-3g without a mount.
 *
 *   ntfs-hash [--offset BYTES] IMAGE
 *
 * Prints "sha256  path" or "sha256  path:stream" in no particular order. NTFS's own files are left out.
 */
#include "image_device.h"

#include "sha256.h"

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

#define BLOCK (1u << 20)

struct entry {
	char *path;
	uint64_t record;
	bool directory;
};

/* Directories are walked with a list, not by recursion: the library must not have a parent open twice. */
struct walk {
	ntfs_volume *vol;
	struct entry *entries;
	size_t nr, cap;
	const char *parent; /* of what readdir tells */
	uint8_t *buf;
};

static _Noreturn __attribute__((format(printf, 1, 2))) void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("ntfs-hash: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(2);
}

static char *to_utf8(const ntfschar *name, int len)
{
	char *text = NULL;

	if (ntfs_ucstombs(name, len, &text, 0) < 0)
		die("a name cannot be converted: %s", strerror(errno));
	return text;
}

static int add_entry(void *arg, const ntfschar *name, const int len, const int name_type, const s64 pos,
                     const MFT_REF ref, const unsigned type)
{
	struct walk *w = arg;
	char *text;

	if (name_type == FILE_NAME_DOS || MREF(ref) < FILE_first_user)
		return 0;
	text = to_utf8(name, len);
	if (strcmp(text, ".") && strcmp(text, "..")) {
		if (w->nr == w->cap) {
			w->cap = w->cap * 2 + 64;
			w->entries = reallocarray(w->entries, w->cap, sizeof(*w->entries));
			if (!w->entries)
				die("out of memory");
		}
		w->entries[w->nr] = (struct entry){.record = MREF(ref), .directory = type == NTFS_DT_DIR};
		if (asprintf(&w->entries[w->nr++].path, "%s%s%s", w->parent, *w->parent ? "/" : "", text) < 0)
			die("out of memory");
	}
	free(text);
	return 0;
}

static void hash_stream(struct walk *w, ntfs_inode *ni, const char *path, ntfschar *name, uint32_t len)
{
	ntfs_attr *na = ntfs_attr_open(ni, AT_DATA, len ? name : AT_UNNAMED, len);
	char hex[65], *text = len ? to_utf8(name, (int)len) : NULL;
	struct sha256 hash;
	s64 n;

	if (!na)
		die("%s: opening $DATA: %s", path, strerror(errno));
	NAttrClearEncrypted(na); /* as it is on the volume */
	sha256_start(&hash);
	for (s64 pos = 0; pos < na->data_size; pos += n) {
		n = ntfs_attr_pread(na, pos, BLOCK, w->buf);
		if (n <= 0)
			die("%s: reading at %lld: %s", path, (long long)pos, n ? strerror(errno) : "no data");
		sha256_add(&hash, w->buf, (size_t)n);
	}
	sha256_hex(&hash, hex);
	printf("%s  %s%s%s\n", hex, path, text ? ":" : "", text ? text : "");
	free(text);
	ntfs_attr_close(na);
}

static void hash_inode(struct walk *w, const char *path, uint64_t record)
{
	ntfs_inode *ni = ntfs_inode_open(w->vol, record);
	ntfs_attr_search_ctx *ctx = ni ? ntfs_attr_get_search_ctx(ni, NULL) : NULL;
	ntfschar name[256];

	if (!ctx)
		die("%s: record %llu: %s", path, (unsigned long long)record, strerror(errno));
	while (!ntfs_attr_lookup(AT_DATA, NULL, 0, CASE_SENSITIVE, 0, NULL, 0, ctx)) {
		const ATTR_RECORD *a = ctx->attr;

		if (a->non_resident && a->lowest_vcn)
			continue;
		memcpy(name, (const char *)a + le16_to_cpu(a->name_offset), a->name_length * sizeof(ntfschar));
		hash_stream(w, ni, path, name, a->name_length);
	}
	ntfs_attr_put_search_ctx(ctx);
	if (ntfs_inode_close(ni))
		die("%s: closing: %s", path, strerror(errno));
}

static void walk_directory(struct walk *w, const char *path, uint64_t record)
{
	ntfs_inode *ni = ntfs_inode_open(w->vol, record);
	s64 pos = 0;

	w->parent = path;
	if (!ni || ntfs_readdir(ni, &pos, w, add_entry))
		die("%s: reading the directory: %s", path, strerror(errno));
	if (ntfs_inode_close(ni))
		die("%s: closing: %s", path, strerror(errno));
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"offset", 1, NULL, 'o'}, {0}};
	struct walk w = {0};
	uint64_t offset = 0;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt != 'o')
			return 2;
		offset = strtoull(optarg, NULL, 0);
	}
	if (optind != argc - 1)
		die("usage: ntfs-hash [--offset BYTES] IMAGE");
	ntfs_set_char_encoding("utf8");
	w.vol = image_mount(argv[optind], offset, NTFS_MNT_RDONLY | NTFS_MNT_FORENSIC);
	w.buf = malloc(BLOCK);
	if (!w.vol || !w.buf)
		die("%s: %s", argv[optind], strerror(errno));
	walk_directory(&w, "", FILE_root);
	for (size_t i = 0; i < w.nr; i++) {
		struct entry e = w.entries[i];

		if (e.directory)
			walk_directory(&w, e.path, e.record);
		hash_inode(&w, e.path, e.record);
	}
	for (size_t i = 0; i < w.nr; i++)
		free(w.entries[i].path);
	free(w.entries);
	free(w.buf);
	ntfs_umount(w.vol, FALSE);
	return fflush(stdout) || ferror(stdout) ? 2 : 0;
}
