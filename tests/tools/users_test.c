/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: a domain that has an image for a disk is found by device and inode, whatever its state and whatever path
 * leads there; one that is gone is not; nothing that stands in a xenstore confuses the search. A Xen host is stood in
 * for by a table.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/tools/tap.h"
#include "tools/processes.h"
#include "tools/xen_domains.h"

/* ---- a host: nodes in a table, every domain in one state ---- */

#define NODES_MAX 16

struct host {
	struct xen interface;
	struct node {
		const char *path, *value;
	} nodes[NODES_MAX];
	enum domain_state state;
	char written[128];
};

static char *read_node(struct xen *xen, const char *path)
{
	const struct host *host = (const struct host *)xen;
	for (size_t i = 0; i < NODES_MAX && host->nodes[i].path; i++) {
		if (strcmp(host->nodes[i].path, path) == 0)
			return strdup(host->nodes[i].value);
	}
	return NULL;
}

/* One block, as libxenstore returns it; a child is named once for each node below it, which does no harm. */
static char **list_nodes(struct xen *xen, const char *path, unsigned int *count)
{
	const struct host *host = (const struct host *)xen;
	char **names = calloc(NODES_MAX, sizeof *names + 128);
	char *text = (char *)(names + NODES_MAX);
	size_t length = strlen(path);
	*count = 0;
	for (size_t i = 0; i < NODES_MAX && host->nodes[i].path; i++) {
		const char *node = host->nodes[i].path;
		if (strncmp(node, path, length) != 0 || node[length] != '/')
			continue;
		size_t name_length = strcspn(node + length + 1, "/");
		memcpy(text, node + length + 1, name_length);
		names[(*count)++] = text;
		text += name_length + 1;
	}
	return names;
}

static int write_node(struct xen *xen, const char *path, const char *value)
{
	struct host *host = (struct host *)xen;
	snprintf(host->written, sizeof host->written, "%s=%s", path, value);
	return 0;
}

static enum domain_state state_of(struct xen *xen, unsigned int domain)
{
	return ((struct host *)xen)->state;
}

static struct host host_with(const char *path, const char *params, enum domain_state state)
{
	return (struct host){
	        .interface = {.read = read_node, .list = list_nodes, .write = write_node, .domain_state = state_of},
	        .nodes = {{path, params}, {"/local/domain/5/name", "win7"}},
	        .state = state,
	};
}

/* ---- ---- */

static struct identity image;

static bool found(const char *path, const char *params, enum domain_state state)
{
	struct host host = host_with(path, params, state);
	struct image_user user = {0};
	bool is = xen_domain_find(&host.interface, &image, &user);
	return is && user.kind == USER_DOMAIN && user.id == 5 && strcmp(user.name, "win7") == 0 && user.state == state;
}

static void params(void)
{
	const struct {
		const char *params, *path;
	} wanted[] = {
	        {"aio:/srv/a.img", "/srv/a.img"},
	        {"/srv/a.img", "/srv/a.img"},
	        {"aio:/srv/a:b.img", "/srv/a:b.img"},
	        {"/srv/a:b.img", "/srv/a:b.img"},
	        {"aio:", NULL},
	        {"", NULL},
	        {":", NULL},
	        {"aio", NULL},
	        {"nbd:host:10809", NULL},
	        {"qcow2:/srv/a.qcow2", "/srv/a.qcow2"},
	};
	bool right = true;
	for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
		const char *path = xen_params_path(wanted[i].params);
		right &= path ? wanted[i].path && strcmp(path, wanted[i].path) == 0 : !wanted[i].path;
	}
	check(right, "the path in params is what follows the first colon, or all of it");
}

static void domains(const char *file, const char *link, const char *other, const char *missing)
{
	char aio[128], gone[128], elsewhere[128], linked[128];
	snprintf(aio, sizeof aio, "aio:%s", file);
	snprintf(linked, sizeof linked, "aio:%s", link);
	snprintf(elsewhere, sizeof elsewhere, "aio:%s", other);
	snprintf(gone, sizeof gone, "aio:%s", missing);
	check(found("backend/qdisk/5/51712/params", aio, DOMAIN_RUNNING), "a disk of qdisk");
	check(found("backend/vbd/5/51712/params", file, DOMAIN_RUNNING), "a disk of blkback");
	check(found("/libxl/5/device/vbd/51712/params", aio, DOMAIN_RUNNING),
	      "a disk that only the toolstack remembers");
	check(found("backend/qdisk/5/51712/params", linked, DOMAIN_RUNNING), "by a symbolic link");
	check(found("backend/qdisk/5/51712/params", aio, DOMAIN_PAUSED), "of a paused domain");
	check(found("backend/qdisk/5/51712/params", aio, DOMAIN_CRASHED), "of a crashed domain");
	check(found("backend/qdisk/5/51712/params", aio, DOMAIN_UNKNOWN), "of a domain whose state is not to be had");
	check(!found("backend/qdisk/5/51712/params", aio, DOMAIN_GONE), "not of a domain that is gone");
	check(!found("backend/qdisk/5/51712/params", elsewhere, DOMAIN_RUNNING), "not another file");
	check(!found("backend/qdisk/5/51712/params", gone, DOMAIN_RUNNING), "not a file that is not there");
	check(!found("backend/qdisk/5x/51712/params", aio, DOMAIN_RUNNING), "not below a name that is no number");
	check(!found("backend/qdisk/99999999999/51712/params", aio, DOMAIN_RUNNING), "not below too large a number");
	check(!found("backend/qdisk/32752/51712/params", aio, DOMAIN_RUNNING), "not of what is no domain");
}

static void shutting_down(void)
{
	struct host host = host_with("/", "", DOMAIN_RUNNING);
	check(xen_domain_shut_down(&host.interface, 5) == 0 &&
	              strcmp(host.written, "/local/domain/5/control/shutdown=poweroff") == 0,
	      "a running domain is asked to power off");
	host = host_with("/", "", DOMAIN_PAUSED);
	check(xen_domain_shut_down(&host.interface, 5) == -EINVAL && !*host.written, "a paused one is not");
	host = host_with("/", "", DOMAIN_RUNNING);
	check(xen_domain_shut_down(&host.interface, 0) == -EINVAL && !*host.written, "the host itself never is");
}

static void described(const struct image_user *user, const char *wanted)
{
	char text[256];
	user_describe(user, text, sizeof text);
	check(strcmp(text, wanted) == 0, wanted);
}

static void descriptions(void)
{
	described(&(struct image_user){.kind = USER_DOMAIN, .id = 5, .name = "win7", .state = DOMAIN_RUNNING},
	          "domain 5 \"win7\" (running)");
	described(&(struct image_user){.kind = USER_LOOP_DEVICE, .id = 3}, "loop device /dev/loop3");
	described(&(struct image_user){.kind = USER_PROCESS, .id = 1234, .name = "qemu-system-x86"},
	          "qemu-system-x86 (process 1234)");
	described(&(struct image_user){.kind = USER_PROCESS, .id = 1234, .name = "qemu-system-x86", .guest = "w"},
	          "qemu-system-x86 (process 1234, guest \"w\")");
}

static void guest_name(const char *what, const char *arguments, size_t length, const char *wanted)
{
	/* exactly as long as it is, so that a sanitizer sees what reads past it */
	char *copy = malloc(length + 1), name[8];
	memcpy(copy, arguments, length);
	copy[length] = '\0';
	process_guest_name(copy, length, name, sizeof name);
	check(strcmp(name, wanted) == 0, what);
	free(copy);
}

#define GUEST_NAME(what, arguments, wanted) guest_name(what, arguments, sizeof(arguments) - 1, wanted)

static void guest_names(void)
{
	GUEST_NAME("libvirt's -name", "qemu\0-name\0guest=w7,debug-threads=on\0-S\0", "w7");
	GUEST_NAME("a plain -name", "qemu\0-name\0w7\0", "w7");
	GUEST_NAME("no -name", "qemu\0-m\0001G\0", "");
	GUEST_NAME("-name at the end", "qemu\0-name", "");
	GUEST_NAME("a name cut off at the end", "qemu\0-name\0guest=", "");
	GUEST_NAME("a name that is too long", "qemu\0-name\0guest=0123456789\0", "0123456");
	GUEST_NAME("no arguments", "", "");
}

int main(void)
{
	char directory[] = "/tmp/zcfs-test-XXXXXX", file[64], link[64], other[64], missing[64];
	struct stat status;
	if (!mkdtemp(directory))
		return 1;
	snprintf(file, sizeof file, "%s/a.img", directory);
	snprintf(link, sizeof link, "%s/link", directory);
	snprintf(other, sizeof other, "%s/b.img", directory);
	snprintf(missing, sizeof missing, "%s/missing", directory);
	if (close(open(file, O_CREAT | O_WRONLY, 0600)) < 0 || close(open(other, O_CREAT | O_WRONLY, 0600)) < 0 ||
	    symlink("a.img", link) < 0 || stat(file, &status) < 0)
		return 1;
	image = (struct identity){.device = status.st_dev, .inode = status.st_ino};
	params();
	domains(file, link, other, missing);
	shutting_down();
	descriptions();
	guest_names();
	unlink(file);
	unlink(link);
	unlink(other);
	rmdir(directory);
	printf("1..%d\n", cases);
	return failures != 0;
}
