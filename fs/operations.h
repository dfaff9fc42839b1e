/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * operations: the handlers of FUSE requests, by the file that implements them. What each has to answer is told in
 * fuse_lowlevel.h. Called by libfuse's threads, several at a time, also for the same node.
 */
#ifndef ZCFS_OPERATIONS_H
#define ZCFS_OPERATIONS_H

#include "fs/fuse_api.h"

struct node;

extern const struct fuse_lowlevel_ops operations; /* dispatch.c */

/* names.c: what is under a name */
void fs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_forget(fuse_req_t req, fuse_ino_t number, uint64_t lookups);
void fs_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void fs_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void fs_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void fs_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void fs_readlink(fuse_req_t req, fuse_ino_t number);
void fs_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);

/* rename.c: names of images, which may be locked */
void fs_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_link(fuse_req_t req, fuse_ino_t number, fuse_ino_t parent, const char *name);
void fs_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent, const char *new_name,
               unsigned int flags);

/* directory.c */
void fs_opendir(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info);
void fs_readdir(fuse_req_t req, fuse_ino_t number, size_t size, off_t off, struct fuse_file_info *info);
void fs_readdirplus(fuse_req_t req, fuse_ino_t number, size_t size, off_t off, struct fuse_file_info *info);
void fs_releasedir(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info);
void fs_fsyncdir(fuse_req_t req, fuse_ino_t number, int data_only, struct fuse_file_info *info);

/* attributes.c */
void fs_getattr(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info);
void fs_setattr(fuse_req_t req, fuse_ino_t number, struct stat *attributes, int to_set, struct fuse_file_info *info);
void fs_access(fuse_req_t req, fuse_ino_t number, int mask);
void fs_statfs(fuse_req_t req, fuse_ino_t number);
void fs_setxattr(fuse_req_t req, fuse_ino_t number, const char *name, const char *value, size_t size, int flags);
void fs_getxattr(fuse_req_t req, fuse_ino_t number, const char *name, size_t size);
void fs_listxattr(fuse_req_t req, fuse_ino_t number, size_t size);
void fs_removexattr(fuse_req_t req, fuse_ino_t number, const char *name);

/* file.c */
void fs_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *info);
void fs_open(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info);
void fs_release(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info);
void fs_read(fuse_req_t req, fuse_ino_t number, size_t size, off_t off, struct fuse_file_info *info);
void fs_write(fuse_req_t req, fuse_ino_t number, const char *buffer, size_t size, off_t off,
              struct fuse_file_info *info);
void fs_flush(fuse_req_t req, fuse_ino_t number, struct fuse_file_info *info);
void fs_fsync(fuse_req_t req, fuse_ino_t number, int data_only, struct fuse_file_info *info);
void fs_fallocate(fuse_req_t req, fuse_ino_t number, int mode, off_t off, off_t length, struct fuse_file_info *info);
void fs_ioctl(fuse_req_t req, fuse_ino_t number, unsigned int command, void *argument, struct fuse_file_info *info,
              unsigned int flags, const void *in, size_t in_size, size_t out_size); /* settle.c */
void fs_lseek(fuse_req_t req, fuse_ino_t number, off_t off, int whence, struct fuse_file_info *info);
void fs_copy_file_range(fuse_req_t req, fuse_ino_t from, off_t from_off, struct fuse_file_info *from_info,
                        fuse_ino_t to, off_t to_off, struct fuse_file_info *to_info, size_t length, int flags);

/* Between these files: the entry of one name, with one lookup counted on its node. */
int entry_lookup(struct node *parent, const char *name, struct fuse_entry_param *entry);
/* 0, or why the name must not be made in the mount. */
int name_check_new(const struct node *parent, const char *name);
/* The same, and whether what is made could be told to the kernel. */
int name_check_made(const struct node *parent, const char *name);

#endif
