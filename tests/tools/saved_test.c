/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: whatever xl or libvirt has saved, an image that is one of the domain's disks is found to be; a file that
 * lies is told from one, and does no harm. SEED in the environment repeats a run of the random part.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/tools/tap.h"
#include "tools/saved_domains.h"
#include "tools/saved_file.h"

/* ---- making files ---- */

struct bytes {
	unsigned char data[4096];
	size_t length;
};

static void put(struct bytes *bytes, const void *data, size_t length)
{
	memcpy(bytes->data + bytes->length, data, length);
	bytes->length += length;
}

static void put_number(struct bytes *bytes, uint32_t number)
{
	put(bytes, &number, sizeof number);
}

#define JSON_FLAG 1u

/* As xl_saverestore.c writes it. length: what the file says of the configuration's; -1: the truth. */
static struct bytes xl_file(uint32_t flags, const char *config, int length)
{
	struct bytes file = {0};
	uint32_t config_length = length < 0 ? (uint32_t)strlen(config) + 1 : (uint32_t)length;
	put(&file, "Xen saved domain, xl format\n \0 \r", 32);
	put_number(&file, 0x01020304);
	put_number(&file, flags);
	put_number(&file, 0);
	put_number(&file, config_length + 4);
	put_number(&file, config_length);
	put(&file, config, strlen(config) + 1);
	put(&file, "LibxlFmt", 8);
	return file;
}

static struct bytes libvirt_xen_file(const char *xml)
{
	struct bytes file = {0};
	put(&file, "libvirt-xml\n \0 \r", 16);
	put_number(&file, 2);
	put_number(&file, (uint32_t)strlen(xml) + 1);
	for (int i = 0; i < 10; i++)
		put_number(&file, 0);
	put(&file, xml, strlen(xml) + 1);
	return file;
}

static struct bytes libvirt_qemu_file(const char *xml, bool swapped)
{
	struct bytes file = {0};
	uint32_t length = (uint32_t)strlen(xml) + 1, version = 2;
	put(&file, "LibvirtQemudSave", 16);
	put_number(&file, swapped ? __builtin_bswap32(version) : version);
	put_number(&file, swapped ? __builtin_bswap32(length) : length);
	for (int i = 0; i < 17; i++)
		put_number(&file, 0);
	put(&file, xml, length);
	return file;
}

static int file_with(const struct bytes *bytes)
{
	int fd = memfd_create("saved", MFD_CLOEXEC);
	if (fd < 0 || pwrite(fd, bytes->data, bytes->length, 0) != (ssize_t)bytes->length)
		abort();
	return fd;
}

/* ---- formats ---- */

static void reads(const char *what, struct bytes file, const char *domain, const char *disk)
{
	struct saved_file saved;
	int fd = file_with(&file);
	bool right = saved_file_read(fd, &saved) == 0 && strcmp(saved.domain, domain) == 0, named = false;
	for (size_t i = 0; i < saved.disks.count; i++)
		named |= strcmp(saved.disks.names[i], disk) == 0;
	check(right && named, what);
	if (!right || !named)
		printf("# domain \"%s\", %zu disks, the first \"%s\"\n", saved.domain, saved.disks.count,
		       saved.disks.count ? saved.disks.names[0] : "");
	saved_file_release(&saved);
	close(fd);
}

static void fails(const char *what, struct bytes file, int error)
{
	struct saved_file saved;
	int fd = file_with(&file);
	int result = saved_file_read(fd, &saved);
	check(result == error, what);
	if (result != error)
		printf("# %d, not %d\n", result, error);
	saved_file_release(&saved);
	close(fd);
}

static struct bytes shortened(struct bytes file, size_t length)
{
	file.length = length;
	return file;
}

static const char xl_json[] = "{\"c_info\": {\"type\": \"hvm\", \"name\": \"win7\"}, \"disks\": ["
                              "{\"pdev_path\": \"/srv/a.img\", \"vdev\": \"xvda\", \"format\": \"raw\"},"
                              "{\"vdev\": \"hdc\", \"is_cdrom\": 1},"
                              "{\"pdev_path\": \"\\/srv\\/b\\u00e4.img\"}]}";
/* What xl of Xen 4.17 has written of a small guest. */
static const char xl_real[] =
        "{\n    \"c_info\": {\n        \"type\": \"pv\",\n        \"name\": \"win7\",\n"
        "        \"uuid\": \"9bd946d0-a72b-4072-b47d-bf408e6f22e4\",\n        \"run_hotplug_scripts\": \"True\"\n    "
        "},\n"
        "    \"b_info\": {\n        \"max_vcpus\": 1,\n        \"avail_vcpus\": [\n            0\n        ],\n"
        "        \"tsc_mode\": \"native\",\n        \"max_memkb\": 131072,\n        \"target_memkb\": 131072,\n"
        "        \"video_memkb\": 0,\n        \"sched_params\": {\n            \"sched\": \"credit2\",\n"
        "            \"weight\": 256,\n            \"cap\": 0\n        },\n        \"claim_mode\": \"True\",\n"
        "        \"kernel\": \"/guest/kernel\",\n        \"type.pv\": {\n\n        },\n        \"arch_arm\": {\n\n     "
        "   },\n"
        "        \"arch_x86\": {\n            \"msr_relaxed\": \"False\"\n        }\n    },\n    \"disks\": [\n        "
        "{\n"
        "            \"pdev_path\": \"/srv/images/b.img\",\n            \"vdev\": \"xvda\",\n"
        "            \"backend\": \"qdisk\",\n            \"format\": \"raw\",\n            \"readwrite\": 1,\n"
        "            \"discard_enable\": \"True\",\n            \"colo_restore_enable\": \"False\"\n        }\n    ],\n"
        "    \"on_reboot\": \"restart\",\n    \"on_soft_reset\": \"soft_reset\"\n}\n";
static const char xl_text[] =
        "name = \"win7\"\nkernel='/boot/k'\ndisk = ['phy:/dev/vg/a,xvda,w',\n'tap:aio:/srv/old.img,hda,w',"
        " \"format=raw,vdev=xvdb,target=/srv/a.img\" ]\n";
static const char libvirt_xml[] =
        "<domain type='kvm'>\n <name>w&amp;7</name>\n <devices>\n"
        "  <disk type='file' device='disk'><source file='/srv/a&apos;s &lt;b&gt;&quot;.img' index='1'/></disk>\n"
        "  <disk type='block'><source dev=\"/dev/vg/a\"/></disk>\n"
        "  <disk type='volume'><source pool='default' volume='pooled.img'/></disk>\n </devices>\n</domain>\n";

static void formats(void)
{
	reads("xl, JSON", xl_file(JSON_FLAG | 2, xl_json, -1), "win7", "/srv/a.img");
	reads("xl, JSON as it was written by one", xl_file(JSON_FLAG | 2, xl_real, -1), "win7", "/srv/images/b.img");
	reads("xl, JSON with what JSON escapes", xl_file(JSON_FLAG, xl_json, -1), "win7", "/srv/b\303\244.img");
	reads("xl, a configuration file: target=", xl_file(0, xl_text, -1), "", "/srv/a.img");
	reads("xl, a configuration file: the old syntax", xl_file(0, xl_text, -1), "", "/srv/old.img");
	reads("libvirt on Xen", libvirt_xen_file(libvirt_xml), "w&7", "/dev/vg/a");
	reads("libvirt on QEMU", libvirt_qemu_file(libvirt_xml, false), "w&7", "/srv/a's <b>\".img");
	reads("libvirt on QEMU, a host of the other byte order", libvirt_qemu_file(libvirt_xml, true), "w&7",
	      "/dev/vg/a");
	reads("libvirt, a volume of a pool", libvirt_qemu_file(libvirt_xml, false), "w&7", "pooled.img");
	reads("a name that is too long is cut",
	      xl_file(1,
	              "{\"c_info\":{\"name\":"
	              "\"0123456789012345678901234567890123456789012345678901234567890123456789\"},"
	              "\"disks\":[{\"pdev_path\":\"/a\"}]}",
	              -1),
	      "012345678901234567890123456789012345678901234567890123456789012", "/a");
}

static void lies(void)
{
	struct bytes file = xl_file(JSON_FLAG, xl_json, -1);
	fails("nothing", shortened(file, 0), -ENODATA);
	fails("less than a magic", shortened(file, 31), -ENODATA);
	fails("a magic and no more", shortened(file, 32), -EBADMSG);
	fails("a header and no more", shortened(file, 48), -EBADMSG);
	fails("a configuration cut off", shortened(file, 100), -EBADMSG);
	fails("no configuration", xl_file(JSON_FLAG, "", 0), -EBADMSG);
	fails("a configuration longer than the file", xl_file(JSON_FLAG, xl_json, 1 << 20), -EBADMSG);
	fails("a configuration longer than memory", xl_file(JSON_FLAG, xl_json, INT_MAX), -EBADMSG);
	file.data[48] = 0xff; /* longer than what the header says follows */
	fails("a configuration longer than what holds it", file, -EBADMSG);
	file = xl_file(JSON_FLAG, xl_json, -1);
	file.data[32] = 1;
	fails("xl, the other byte order", file, -EBADMSG);
	fails("no JSON", xl_file(JSON_FLAG, "disk=[]", -1), -EBADMSG);
	fails("JSON of something else", xl_file(JSON_FLAG, "[1,2]", -1), -EBADMSG);
	fails("no XML", libvirt_qemu_file("nothing", false), -EBADMSG);
	fails("XML cut off in a value", libvirt_qemu_file("<domain><source file='/srv/a.img", false), -EBADMSG);
	fails("an entity that libvirt does not write", libvirt_qemu_file("<domain a='/&#65;'/>", false), -EBADMSG);
	fails("another file", (struct bytes){.data = "\177ELF", .length = 4096}, -ENODATA);
	fails("a compressed one", (struct bytes){.data = "\037\213\010", .length = 4096}, -ENODATA);
}

/* Any answer will do; the sanitizers watch. */
static void mutations(void)
{
	const char *given = getenv("SEED");
	unsigned int seed = given ? (unsigned int)strtoul(given, NULL, 10) : (unsigned int)time(NULL);
	const struct bytes files[] = {xl_file(JSON_FLAG, xl_json, -1), xl_file(0, xl_text, -1),
	                              libvirt_xen_file(libvirt_xml), libvirt_qemu_file(libvirt_xml, false)};
	printf("# SEED=%u\n", seed);
	srand(seed);
	for (int round = 0; round < 20000; round++) {
		struct bytes file = files[round % 4];
		struct saved_file saved;
		for (int change = rand() % 4; change >= 0; change--)
			file.data[(size_t)rand() % file.length] =
			        (unsigned char)(rand() % 3 ? rand() : "\0'\"&</="[rand() % 7]);
		if (rand() % 8 == 0)
			file.length = (size_t)rand() % file.length;
		int fd = file_with(&file);
		saved_file_read(fd, &saved);
		saved_file_release(&saved);
		close(fd);
	}
	check(true, "20,000 damaged files do no harm");
}

/* ---- searching ---- */

static char directory[] = "/tmp/zcfs-test-XXXXXX", image_path[64], save_path[64];
static struct identity image;
static struct name_list directories;
static int doubts;

static void count_doubt(const char *path, const char *why)
{
	doubts += strcmp(path, save_path) == 0;
}

static void write_save_file(const char *disk)
{
	char config[256];
	snprintf(config, sizeof config, "{\"c_info\":{\"name\":\"win7\"},\"disks\":[{\"pdev_path\":\"%s\"}]}", disk);
	struct bytes file = xl_file(JSON_FLAG, config, -1);
	int fd = open(save_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, file.data, file.length) != (ssize_t)file.length || close(fd) < 0)
		abort();
}

static bool is_found(bool by_name)
{
	struct saved_domain found;
	return saved_domain_find(&directories, &image, "a.img", &found) && found.by_name == by_name &&
	       strcmp(found.name, "win7") == 0 && strcmp(found.file, save_path) == 0;
}

static void searches(void)
{
	char path[96];
	struct saved_domain found;
	check(!saved_domain_find(&directories, &image, "a.img", &found), "no save file, nothing found");
	write_save_file(image_path);
	check(is_found(false), "by its path");
	snprintf(path, sizeof path, "%s/../%s", directory, image_path + strlen("/tmp/"));
	write_save_file(path);
	check(is_found(false), "by another path that leads there");
	write_save_file("/no/such/mount/a.img");
	check(is_found(true), "by its name if the path leads nowhere now");
	write_save_file("/no/such/mount/b.img");
	check(!saved_domain_find(&directories, &image, "a.img", &found), "not by another name that leads nowhere");
	write_save_file("/etc/passwd");
	check(!saved_domain_find(&directories, &image, "passwd", &found),
	      "not by its name if the path leads elsewhere");
	saved_domains_doubtful(&directories, count_doubt);
	check(doubts == 0, "a save file that can be read leaves no doubt");
	if (truncate(save_path, 40) < 0)
		abort();
	saved_domains_doubtful(&directories, count_doubt);
	check(doubts == 1, "one that is cut off does");
	if (truncate(save_path, 0) < 0)
		abort();
	saved_domains_doubtful(&directories, count_doubt);
	check(doubts == 1, "an empty one does not");
	unlink(save_path);
	if (mkfifo(save_path, 0600) < 0)
		abort();
	check(!saved_domain_find(&directories, &image, "a.img", &found), "a FIFO is passed over");
}

int main(void)
{
	struct stat status;
	formats();
	lies();
	mutations();
	if (!mkdtemp(directory) || name_list_add(&directories, "/no/such/directory") < 0 ||
	    name_list_add(&directories, directory) < 0)
		return 1;
	snprintf(image_path, sizeof image_path, "%s.img", directory);
	snprintf(save_path, sizeof save_path, "%s/win7", directory);
	if (close(open(image_path, O_CREAT | O_WRONLY, 0600)) < 0 || stat(image_path, &status) < 0)
		return 1;
	image = (struct identity){.device = status.st_dev, .inode = status.st_ino};
	searches();
	unlink(image_path);
	unlink(save_path);
	rmdir(directory);
	name_list_release(&directories);
	printf("1..%d\n", cases);
	return failures != 0;
}
