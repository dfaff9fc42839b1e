/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/saved_file.h"

#include <byteswap.h>
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "mapdb/cleanup.h"

#define DESCRIPTION_MAX ((size_t)16 << 20) /* of a domain, bytes; real ones take some kilobytes */

/* ---- the headers; integers are in the byte order of the host that saved ---- */

struct xl_header {
	char magic[32];
	uint32_t byte_order;
	uint32_t mandatory_flags;
	uint32_t optional_flags;
	uint32_t optional_bytes; /* what follows: a uint32_t with the length of the configuration, the configuration,
	                            perhaps more */
};
#define XL_MAGIC      "Xen saved domain, xl format\n \0 \r"
#define XL_BYTE_ORDER 0x01020304u
#define XL_FLAG_JSON  1u

struct libvirt_xen_header {
	char magic[16];
	uint32_t version;
	uint32_t xml_bytes;
	uint32_t unused[10];
};
#define LIBVIRT_XEN_MAGIC "libvirt-xml\n \0 \r"

struct libvirt_qemu_header {
	char magic[16];
	uint32_t version;
	uint32_t data_bytes; /* XML, a zero byte, perhaps more XML */
	uint32_t was_running;
	uint32_t compressed; /* what follows the data: how */
	uint32_t cookie_off;
	uint32_t unused[14];
};
#define LIBVIRT_QEMU_MAGIC       "LibvirtQemudSave"
#define LIBVIRT_QEMU_VERSION_MAX 0xffffu /* a greater one is in the other byte order */

union header {
	char magic[32];
	struct xl_header xl;
	struct libvirt_xen_header libvirt_xen;
	struct libvirt_qemu_header libvirt_qemu;
};

/* ---- collecting ---- */

/* length bytes, which hold no zero byte. */
static int add_disk(struct saved_file *saved, const char *text, size_t length)
{
	cleanup_free char *name = strndup(text, length);

	return name ? name_list_add(&saved->disks, name) : -ENOMEM;
}

/* ---- xl: the domain's configuration as JSON ---- */

static int take_json(struct saved_file *saved, const char *text, size_t length)
{
	json_t *config = json_loadb(text, length, JSON_DISABLE_EOF_CHECK, NULL);
	const json_t *disks = json_object_get(config, "disks");
	const char *name = json_string_value(json_object_get(json_object_get(config, "c_info"), "name"));
	int error = json_is_object(config) ? 0 : -EBADMSG;

	for (size_t i = 0; !error && i < json_array_size(disks); i++) {
		const char *path = json_string_value(json_object_get(json_array_get(disks, i), "pdev_path"));
		if (path) /* an empty CD-ROM drive has none */
			error = add_disk(saved, path, strlen(path));
	}
	snprintf(saved->domain, sizeof saved->domain, "%s", name ? name : "");
	json_decref(config);
	return error;
}

/* ---- xl before Xen 4.5: the configuration file as it was; disks are "phy:/dev/x,xvda,w" or "...,target=/srv/x.img"
 * ---- */

static int take_xl_text(struct saved_file *saved, const char *text, size_t length)
{
	int error = 0;

	for (size_t at = 0; at < length && !error; at++) {
		if (text[at] != '/')
			continue;
		size_t end = at;
		while (end < length && !strchr("'\",\n", text[end])) /* finds zero bytes, too */
			end++;
		error = add_disk(saved, text + at, end - at);
		at = end;
	}
	return error;
}

/* ---- libvirt: the domain as XML ---- */

/* The five entities that libvirt writes. -EBADMSG: another one. */
static int unescape_xml(char *text)
{
	static const struct {
		const char *entity;
		char character;
	} entities[] = {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
	char *to = text;

	for (const char *from = text; *from;) {
		size_t i = 0, count = sizeof entities / sizeof entities[0];
		if (*from != '&') {
			*to++ = *from++;
			continue;
		}
		while (i < count && strncmp(from, entities[i].entity, strlen(entities[i].entity)) != 0)
			i++;
		if (i == count)
			return -EBADMSG;
		*to++ = entities[i].character;
		from += strlen(entities[i].entity);
	}
	*to = '\0';
	return 0;
}

/* An attribute that may name a disk: a path, or a volume of a storage pool, whose path only libvirt knows. */
static int take_attribute(struct saved_file *saved, const char *text, const char *equals, const char *value,
                          size_t length)
{
	bool volume = equals - text >= 7 && memcmp(equals - 7, " volume", 7) == 0;

	if (length == 0 || (*value != '/' && !volume))
		return 0;
	cleanup_free char *name = strndup(value, length);
	int error = name ? unescape_xml(name) : -ENOMEM;
	return error ? error : add_disk(saved, name, strlen(name));
}

static int take_domain_name(struct saved_file *saved, const char *text)
{
	const char *start = strstr(text, "<name>"), *end = start ? strstr(start, "</name>") : NULL;

	if (!end)
		return 0;
	start += strlen("<name>");
	cleanup_free char *name = strndup(start, (size_t)(end - start));
	if (!name)
		return -ENOMEM;
	if (unescape_xml(name) == 0)
		snprintf(saved->domain, sizeof saved->domain, "%s", name);
	return 0;
}

/* Every attribute: ='...' or ="...". A file that is no XML yields nothing or nonsense, which is no image's path. */
static int take_xml(struct saved_file *saved, const char *text)
{
	int error = strstr(text, "<domain") ? take_domain_name(saved, text) : -EBADMSG;

	for (const char *equals = text; !error && (equals = strchr(equals, '='));) {
		const char quote[] = {equals[1], '\0'};
		const char *value = equals + 2;
		if (*quote != '\'' && *quote != '"') {
			equals++;
			continue;
		}
		size_t length = strcspn(value, quote);
		if (!value[length])
			return -EBADMSG;
		error = take_attribute(saved, text, equals, value, length);
		equals = value + length + 1;
	}
	return error;
}

/* ---- reading ---- */

/* All of length bytes at off, and a zero byte after them. -EBADMSG: the file is shorter. */
static int read_text(int fd, size_t off, size_t length, char **out)
{
	cleanup_free char *text = length <= DESCRIPTION_MAX ? malloc(length + 1) : NULL;

	if (!text)
		return length <= DESCRIPTION_MAX ? -ENOMEM : -EBADMSG;
	for (size_t done = 0; done < length;) {
		ssize_t piece = pread(fd, text + done, length - done, (off_t)(off + done));
		if (piece <= 0)
			return piece < 0 ? -errno : -EBADMSG;
		done += (size_t)piece;
	}
	text[length] = '\0';
	*out = steal_pointer(&text);
	return 0;
}

static int read_xl(int fd, const struct xl_header *header, struct saved_file *saved)
{
	cleanup_free char *text = NULL;
	uint32_t length;

	if (header->byte_order != XL_BYTE_ORDER || header->optional_bytes < sizeof length ||
	    pread(fd, &length, sizeof length, sizeof *header) != sizeof length || length == 0 ||
	    length > header->optional_bytes - sizeof length)
		return -EBADMSG;
	int error = read_text(fd, sizeof *header + sizeof length, length, &text);
	if (error)
		return error;
	return header->mandatory_flags & XL_FLAG_JSON ? take_json(saved, text, strlen(text))
	                                              : take_xl_text(saved, text, length);
}

static int read_libvirt(int fd, size_t header_bytes, uint32_t xml_bytes, struct saved_file *saved)
{
	cleanup_free char *text = NULL;
	int error = xml_bytes == 0 ? -EBADMSG : read_text(fd, header_bytes, xml_bytes, &text);

	return error ? error : take_xml(saved, text);
}

int saved_file_read(int fd, struct saved_file *saved)
{
	union header header = {0};
	ssize_t length = pread(fd, &header, sizeof header, 0);

	*saved = (struct saved_file){0};
	if (length < 0)
		return -errno;
	if (memcmp(header.magic, XL_MAGIC, sizeof header.xl.magic) == 0)
		return read_xl(fd, &header.xl, saved);
	if (memcmp(header.magic, LIBVIRT_XEN_MAGIC, sizeof header.libvirt_xen.magic) == 0)
		return read_libvirt(fd, sizeof header.libvirt_xen, header.libvirt_xen.xml_bytes, saved);
	if (memcmp(header.magic, LIBVIRT_QEMU_MAGIC, sizeof header.libvirt_qemu.magic) == 0) {
		const struct libvirt_qemu_header *qemu = &header.libvirt_qemu;
		bool swapped = qemu->version > LIBVIRT_QEMU_VERSION_MAX;
		return read_libvirt(fd, sizeof *qemu, swapped ? bswap_32(qemu->data_bytes) : qemu->data_bytes, saved);
	}
	return -ENODATA;
}

void saved_file_release(struct saved_file *saved)
{
	name_list_release(&saved->disks);
}
