/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/saved_domains.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "mapdb/cleanup.h"
#include "tools/saved_file.h"

static const char *const known_places[] = {
        "/var/lib/xen/save",           /* xendomains */
        "/var/lib/libvirt/libxl/save", /* virsh managedsave, libvirt-guests */
        "/var/lib/libvirt/qemu/save",
};

/* Shell variables, in a file that init scripts read. */
static const char *const xendomains_settings[] = {"/etc/default/xendomains", "/etc/sysconfig/xendomains"};

static int add_configured(struct name_list *directories, const char *settings)
{
	FILE *file = fopen(settings, "re");
	cleanup_free char *line = NULL;
	size_t capacity = 0;
	int error = 0;

	while (file && !error && getline(&line, &capacity, file) > 0) {
		static const char variable[] = "XENDOMAINS_SAVE=";
		char *value = line + strspn(line, " \t");
		if (strncmp(value, variable, strlen(variable)) != 0)
			continue;
		value += strlen(variable);
		value += strspn(value, "\"'");
		value[strcspn(value, "\"' \t\n#")] = '\0';
		if (value[0] == '/' && strcmp(value, known_places[0]) != 0)
			error = name_list_add(directories, value);
	}
	if (file)
		fclose(file);
	return error;
}

int saved_places_add(struct name_list *directories)
{
	int error = 0;

	for (size_t i = 0; !error && i < sizeof known_places / sizeof known_places[0]; i++)
		error = name_list_add(directories, known_places[i]);
	for (size_t i = 0; !error && i < sizeof xendomains_settings / sizeof xendomains_settings[0]; i++)
		error = add_configured(directories, xendomains_settings[i]);
	return error;
}

/* ---- looking through directories ---- */

/* error: why the file, or the directory, could not be read; 0. True: no more of them. */
typedef bool visitor(const char *path, const struct saved_file *saved, int error, void *context);

static bool visit_file(int directory_fd, const char *directory, const char *name, visitor *visit, void *context)
{
	cleanup_free char *path = NULL;
	struct saved_file saved = {0};
	struct stat status;
	cleanup_fd int fd = openat(directory_fd, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	int error = fd < 0 ? -errno : 0;

	if (error == -ENOENT || asprintf(&path, "%s/%s", directory, name) < 0)
		return false;
	if (!error && fstat(fd, &status) == 0 && (!S_ISREG(status.st_mode) || status.st_size == 0))
		return false;
	if (!error)
		error = saved_file_read(fd, &saved);
	bool done = visit(path, &saved, error, context);
	saved_file_release(&saved);
	return done;
}

static bool visit_directory(const char *path, visitor *visit, void *context)
{
	DIR *directory = opendir(path);
	struct dirent *entry;
	bool done = false;

	if (!directory)
		return errno != ENOENT && visit(path, NULL, -errno, context);
	while (!done && (entry = readdir(directory))) {
		if (entry->d_type != DT_DIR)
			done = visit_file(dirfd(directory), path, entry->d_name, visit, context);
	}
	closedir(directory);
	return done;
}

static void visit_all(const struct name_list *directories, visitor *visit, void *context)
{
	bool done = false;

	for (size_t i = 0; i < directories->count && !done; i++)
		done = visit_directory(directories->names[i], visit, context);
}

/* ---- one image ---- */

struct search {
	const struct identity *image;
	const char *image_name;
	struct saved_domain *found;
	bool is_found;
};

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* A path that leads nowhere may be the image's in a mount that is not there now. */
static bool names_image(struct search *search, const char *disk)
{
	int error = 0;

	search->found->by_name = false;
	if (disk[0] == '/' && identity_is_path(search->image, disk, &error))
		return true;
	if ((disk[0] == '/' && !error) || strcmp(last_part(disk), search->image_name) != 0)
		return false;
	search->found->by_name = true;
	return true;
}

static bool compare_with_image(const char *path, const struct saved_file *saved, int error, void *context)
{
	struct search *search = context;

	for (size_t i = 0; !error && i < saved->disks.count && !search->is_found; i++)
		search->is_found = names_image(search, saved->disks.names[i]);
	if (search->is_found) {
		snprintf(search->found->file, sizeof search->found->file, "%s", path);
		snprintf(search->found->name, sizeof search->found->name, "%s", saved->domain);
	}
	return search->is_found;
}

bool saved_domain_find(const struct name_list *directories, const struct identity *image, const char *image_name,
                       struct saved_domain *found)
{
	struct search search = {.image = image, .image_name = image_name, .found = found};

	visit_all(directories, compare_with_image, &search);
	return search.is_found;
}

/* ---- what cannot be read ---- */

struct doubts {
	void (*tell)(const char *path, const char *why);
};

static bool tell_doubt(const char *path, const struct saved_file *saved, int error, void *context)
{
	struct doubts *doubts = context;

	if (error)
		doubts->tell(path, error == -ENODATA   ? "neither xl nor libvirt has written it, or it is compressed"
		                   : error == -EBADMSG ? "it is damaged, or does not say what disks the domain has"
		                                       : strerror(-error));
	return false;
}

void saved_domains_doubtful(const struct name_list *directories, void (*tell)(const char *path, const char *why))
{
	struct doubts doubts = {.tell = tell};

	visit_all(directories, tell_doubt, &doubts);
}
