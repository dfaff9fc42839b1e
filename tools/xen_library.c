/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Xen's libraries, loaded when they are needed.
 *
 * libxenctrl only tells more about a domain that xenstore has named. It must be the running hypervisor's own release,
 * which sysfs knows. Of what it fills in only the first two fields are read, which are where they were in every
 * release; the rest of the structure grows, so it gets ample room and is asked for one domain at a time.
 */
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <xenctrl.h>
#include <xenstore.h>

#include "mapdb/cleanup.h"
#include "tools/xen.h"

#define STORE_LIBRARY  "libxenstore.so.4"
#define INFO_BYTES_MAX 4096

struct library {
	struct xen interface;
	void *store_library;
	struct xs_handle *store;
	__typeof__(&xs_open) open;
	__typeof__(&xs_close) close;
	__typeof__(&xs_read) read;
	__typeof__(&xs_write) write;
	__typeof__(&xs_directory) directory;
	__typeof__(&xs_is_domain_introduced) introduced;
	__typeof__(&xs_watch) watch;
	__typeof__(&xs_fileno) fileno;
	__typeof__(&xs_check_watch) check_watch;
	bool watching;

	void *control_library; /* NULL: what it knows is not to be had */
	xc_interface *control;
	__typeof__(&xc_interface_open) control_open;
	__typeof__(&xc_interface_close) control_close;
	__typeof__(&xc_domain_getinfolist) control_info;
};

/* ---- xenstore ---- */

static char *read_node(struct xen *xen, const char *path)
{
	struct library *library = (struct library *)xen;
	unsigned int length;

	return library->read(library->store, XBT_NULL, path, &length);
}

static char **list_nodes(struct xen *xen, const char *path, unsigned int *count)
{
	struct library *library = (struct library *)xen;

	return library->directory(library->store, XBT_NULL, path, count);
}

static int write_node(struct xen *xen, const char *path, const char *value)
{
	struct library *library = (struct library *)xen;

	return library->write(library->store, XBT_NULL, path, value, (unsigned int)strlen(value)) ? 0 : -errno;
}

static int wait_for_change(struct xen *xen, int timeout_ms)
{
	struct library *library = (struct library *)xen;

	if (!library->watching) {
		if (!library->watch(library->store, "@releaseDomain", "domain") ||
		    !library->watch(library->store, "backend", "backend"))
			return -errno;
		library->watching = true;
	}
	struct pollfd waiting = {.fd = library->fileno(library->store), .events = POLLIN};
	int ready = poll(&waiting, 1, timeout_ms);
	if (ready < 0 && errno != EINTR)
		return -errno;
	if (ready <= 0)
		return 0;
	char **event = library->check_watch(library->store);
	if (!event && errno != EAGAIN)
		return -errno; /* xenstored is gone */
	for (; event; event = library->check_watch(library->store))
		free(event);
	return 0;
}

/* ---- domains ---- */

static enum domain_state state_of_flags(uint32_t flags)
{
	if (flags & XEN_DOMINF_dying)
		return DOMAIN_GONE;
	if (flags & XEN_DOMINF_shutdown) {
		switch ((flags >> XEN_DOMINF_shutdownshift) & XEN_DOMINF_shutdownmask) {
		case SHUTDOWN_suspend:
			return DOMAIN_SUSPENDED;
		case SHUTDOWN_crash:
		case SHUTDOWN_watchdog:
			return DOMAIN_CRASHED;
		default:
			return DOMAIN_SHUT_DOWN;
		}
	}
	return flags & XEN_DOMINF_paused ? DOMAIN_PAUSED : DOMAIN_RUNNING;
}

static enum domain_state domain_state(struct xen *xen, unsigned int domain)
{
	struct library *library = (struct library *)xen;
	union {
		xc_domaininfo_t info;
		char room[INFO_BYTES_MAX];
	} answer;

	if (library->control) {
		int count = library->control_info(library->control, domain, 1, &answer.info);
		if (count >= 0) /* the first one from that number on */
			return count > 0 && answer.info.domain == domain ? state_of_flags(answer.info.flags)
			                                                 : DOMAIN_GONE;
	}
	return domain == 0 || library->introduced(library->store, domain) ? DOMAIN_UNKNOWN : DOMAIN_GONE;
}

/* ---- loading ---- */

static bool load_symbol(void *library, const char *name, void *pointer)
{
	void *symbol = dlsym(library, name);

	memcpy(pointer, &symbol, sizeof symbol); /* POSIX: a function's address fits; ISO C has no cast for it */
	return symbol != NULL;
}

static int open_store(struct library *library)
{
	void *store = library->store_library = dlopen(STORE_LIBRARY, RTLD_NOW | RTLD_LOCAL);

	if (!store || !load_symbol(store, "xs_open", &library->open) ||
	    !load_symbol(store, "xs_close", &library->close) || !load_symbol(store, "xs_read", &library->read) ||
	    !load_symbol(store, "xs_write", &library->write) ||
	    !load_symbol(store, "xs_directory", &library->directory) ||
	    !load_symbol(store, "xs_is_domain_introduced", &library->introduced) ||
	    !load_symbol(store, "xs_watch", &library->watch) || !load_symbol(store, "xs_fileno", &library->fileno) ||
	    !load_symbol(store, "xs_check_watch", &library->check_watch))
		return -ENOENT;
	errno = ENOENT;
	library->store = library->open(0);
	return library->store ? 0 : errno == EACCES || errno == EPERM ? -EACCES : -ENOENT;
}

static bool read_number(const char *path, unsigned int *number)
{
	FILE *file = fopen(path, "re");
	bool valid = file && fscanf(file, "%u", number) == 1;

	if (file)
		fclose(file);
	return valid;
}

/* Given no logger the library prints to standard error. */
static void discard_message(struct xentoollog_logger *logger, xentoollog_level level, int error, const char *context,
                            const char *format, va_list arguments)
{
}

static void keep_logger(struct xentoollog_logger *logger)
{
}

static struct xentoollog_logger silence = {.vmessage = discard_message, .destroy = keep_logger};

static void open_control(struct library *library)
{
	unsigned int major, minor;
	char name[64];

	if (!read_number("/sys/hypervisor/version/major", &major) ||
	    !read_number("/sys/hypervisor/version/minor", &minor))
		return;
	snprintf(name, sizeof name, "libxenctrl.so.%u.%u", major, minor);
	void *control = library->control_library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	if (control && load_symbol(control, "xc_interface_open", &library->control_open) &&
	    load_symbol(control, "xc_interface_close", &library->control_close) &&
	    load_symbol(control, "xc_domain_getinfolist", &library->control_info))
		library->control = library->control_open(&silence, &silence, 0);
}

static void close_library(struct xen *xen)
{
	struct library *library = (struct library *)xen;

	if (library->control)
		library->control_close(library->control);
	if (library->store)
		library->close(library->store);
	if (library->control_library)
		dlclose(library->control_library);
	if (library->store_library)
		dlclose(library->store_library);
	free(library);
}

int xen_open(struct xen **out)
{
	struct library *library = calloc(1, sizeof *library);

	*out = NULL;
	if (!library)
		return -ENOMEM;
	library->interface = (struct xen){
	        .read = read_node,
	        .list = list_nodes,
	        .write = write_node,
	        .domain_state = domain_state,
	        .wait = wait_for_change,
	        .close = close_library,
	};
	int error = open_store(library);
	if (error) {
		close_library(&library->interface);
		return error;
	}
	open_control(library);
	*out = &library->interface;
	return 0;
}
