/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * saved_file: which disks a saved domain has, as the file says that holds its memory. Only the description at the
 * file's beginning is read, which is not compressed in any of these formats. The file is not trusted. Any thread.
 *
 * Sources of the formats: xl.h and xl_saverestore.c of Xen ("xl save"), libxl_conf.h and qemu_saveimage.h of libvirt
 * ("virsh save" and "managedsave" on Xen and QEMU).
 */
#ifndef ZCFS_SAVED_FILE_H
#define ZCFS_SAVED_FILE_H

#include <stddef.h>

#include "mapdb/name_list.h"

struct saved_file {
	char domain[64];        /* its name; "" if it is not to be found */
	struct name_list disks; /* paths or, where the file does not say more, names of what may be disks */
};

/* Reads from the beginning of an open file. -ENODATA: it is none of these formats; -EBADMSG: it is one, but does not
 * say what it should; -ENOMEM, or why it cannot be read. saved_file_release() is due in every case. */
int saved_file_read(int fd, struct saved_file *saved);
void saved_file_release(struct saved_file *saved);

#endif
