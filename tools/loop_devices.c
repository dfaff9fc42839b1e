/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/loop_devices.h"

#include <dirent.h>
#include <stdio.h>

/* /dev holds some that are attached to nothing; those have no directory "loop" in sysfs. */
static bool is_attached(unsigned int number)
{
	char path[64];

	snprintf(path, sizeof path, "/sys/block/loop%u/loop/backing_file", number);
	FILE *file = fopen(path, "re");
	if (file)
		fclose(file);
	return file != NULL;
}

bool loop_device_find(const struct identity *image, struct image_user *user)
{
	DIR *devices = opendir("/sys/block");
	struct dirent *entry;
	bool found = false;

	while (devices && !found && (entry = readdir(devices))) {
		unsigned int number;
		char path[32];

		if (sscanf(entry->d_name, "loop%u", &number) != 1 || !is_attached(number))
			continue;
		snprintf(path, sizeof path, "/dev/loop%u", number);
		found = identity_is_loop_device(image, path);
		if (found)
			*user = (struct image_user){.kind = USER_LOOP_DEVICE, .id = number};
	}
	if (devices)
		closedir(devices);
	return found;
}
