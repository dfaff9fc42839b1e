/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Input: a file in a directory of saved domains.
 *
 * Promise: a file that begins like none of the formats is told from the others; one that can be read yields a name that
 * ends and disks that have one.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"
#include "tests/mapdb/check.h"
#include "tools/saved_file.h"

static bool has_magic(const uint8_t *data, size_t size)
{
	static const char xl[32] = "Xen saved domain, xl format\n \0 \r";
	static const char libvirt_xen[16] = "libvirt-xml\n \0 \r", libvirt_qemu[16] = "LibvirtQemudSave";
	return (size >= 32 && !memcmp(data, xl, 32)) ||
	       (size >= 16 && (!memcmp(data, libvirt_xen, 16) || !memcmp(data, libvirt_qemu, 16)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int file = -1;
	struct saved_file saved;
	if (file < 0)
		file = memfd_create("saved", MFD_CLOEXEC);
	CHECK(file >= 0 && ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size);
	int error = saved_file_read(file, &saved);
	CHECK(error == 0 || error == -ENODATA || error == -EBADMSG);
	CHECK((error == -ENODATA) == !has_magic(data, size));
	CHECK(memchr(saved.domain, '\0', sizeof saved.domain));
	for (size_t i = 0; i < saved.disks.count; i++)
		CHECK(error || saved.disks.names[i]);
	saved_file_release(&saved);
	return 0;
}
