/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "defrag/preflight.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h> /* the headers of libntfs-3g want these two, and do not say so */

#include <ntfs-3g/types.h>

#include <ntfs-3g/attrib.h>
#include <ntfs-3g/device.h>
#include <ntfs-3g/dir.h>
#include <ntfs-3g/logfile.h>
#include <ntfs-3g/volume.h>

#include "defrag/boot.h"
#include "defrag/names.h"
#include "defrag/record.h"
#include "mapdb/cleanup.h"

/* ---- a read-only device on a view ---- */

struct device {
	struct view *view;
	int64_t position;
};

static struct device *device_of(struct ntfs_device *dev)
{
	return dev->d_private;
}

static int device_open(struct ntfs_device *dev, int flags)
{
	(void)flags;
	NDevSetOpen(dev);
	NDevSetReadOnly(dev);
	return 0;
}

static int device_close(struct ntfs_device *dev)
{
	NDevClearOpen(dev);
	return 0;
}

static int64_t device_pread(struct ntfs_device *dev, void *buffer, int64_t count, int64_t off)
{
	struct view *view = device_of(dev)->view;
	if (count < 0 || off < 0) {
		errno = EINVAL;
		return -1;
	}
	if ((uint64_t)off >= view->length)
		return 0;
	if ((uint64_t)count > view->length - (uint64_t)off)
		count = (int64_t)(view->length - (uint64_t)off);
	int r = view_read(view, buffer, (uint64_t)count, (uint64_t)off);
	if (r < 0) {
		errno = -r;
		return -1;
	}
	return count;
}

static int64_t device_read(struct ntfs_device *dev, void *buffer, int64_t count)
{
	struct device *device = device_of(dev);
	int64_t done = device_pread(dev, buffer, count, device->position);
	if (done > 0)
		device->position += done;
	return done;
}

static int64_t device_seek(struct ntfs_device *dev, int64_t off, int whence)
{
	struct device *device = device_of(dev);
	int64_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? device->position : (int64_t)device->view->length;
	device->position = base + off;
	return device->position;
}

static int64_t device_write(struct ntfs_device *dev, const void *buffer, int64_t count)
{
	(void)dev, (void)buffer, (void)count;
	errno = EROFS;
	return -1;
}

static int64_t device_pwrite(struct ntfs_device *dev, const void *buffer, int64_t count, int64_t off)
{
	(void)off;
	return device_write(dev, buffer, count);
}

static int device_sync(struct ntfs_device *dev)
{
	NDevClearDirty(dev);
	return 0;
}

static int device_stat(struct ntfs_device *dev, struct stat *status)
{
	*status = (struct stat){.st_mode = S_IFREG | 0400, .st_size = (off_t)device_of(dev)->view->length};
	return 0;
}

static int device_ioctl(struct ntfs_device *dev, unsigned long request, void *argument)
{
	(void)dev, (void)request, (void)argument;
	errno = EOPNOTSUPP;
	return -1;
}

static struct ntfs_device_operations device_operations = {
        .open = device_open,
        .close = device_close,
        .seek = device_seek,
        .read = device_read,
        .write = device_write,
        .pread = device_pread,
        .pwrite = device_pwrite,
        .sync = device_sync,
        .stat = device_stat,
        .ioctl = device_ioctl,
};

/* libntfs-3g forgets for want of what it has failed, and then takes a volume for damaged or a file for missing; but it
 * has told its log before. */
static bool without_memory;

static int listen_for_memory(const char *function, const char *file, int line, u32 level, void *data,
                             const char *format, va_list arguments)
{
	(void)function, (void)file, (void)line, (void)level, (void)data, (void)format, (void)arguments;
	if (errno == ENOMEM)
		without_memory = true;
	return 0;
}

/* The volume owns the device from here on. NULL: errno says why. */
static ntfs_volume *mount_view(struct device *device)
{
	without_memory = false;
	ntfs_log_set_handler(listen_for_memory);
	errno = 0;
	struct ntfs_device *dev = ntfs_device_alloc("image", 0, &device_operations, device);
	if (!dev)
		return NULL;
	ntfs_volume *volume = ntfs_device_mount(dev, NTFS_MNT_RDONLY);
	if (!volume) {
		int error = without_memory ? ENOMEM : errno;
		ntfs_device_free(dev);
		errno = error;
	}
	return volume;
}

int preflight_can_mount(struct view *view)
{
	struct device device = {.view = view};
	ntfs_volume *volume = mount_view(&device);
	if (!volume)
		return errno ? -errno : -EIO;
	int r = ntfs_umount(volume, FALSE) ? -EIO : 0;
	return without_memory ? -ENOMEM : r;
}

/* A part of $Bitmap. */
struct bits {
	uint64_t first; /* byte */
	uint64_t count;
	uint8_t bytes[1 << 16];
};

static int read_bits(ntfs_volume *volume, uint64_t first, struct bits *bits)
{
	errno = 0;
	int64_t count = ntfs_attr_pread(volume->lcnbmp_na, (int64_t)first, sizeof(bits->bytes), bits->bytes);
	bits->first = first;
	bits->count = count > 0 ? (uint64_t)count : 0;
	return count > 0 ? 0 : errno == ENOMEM ? -ENOMEM : 1;
}

static int run_is_free(ntfs_volume *volume, const struct run *run, struct bits *bits)
{
	uint64_t last = run->lcn + run->length - 1;
	for (uint64_t byte = run->lcn / 8; byte <= last / 8; byte++) {
		unsigned int mask = byte == run->lcn / 8 ? 0xffu << run->lcn % 8 : 0xff;
		if (byte == last / 8)
			mask &= 0xffu >> (7 - last % 8);
		int r = byte - bits->first < bits->count ? 0 : read_bits(volume, byte, bits);
		if (r || bits->bytes[byte - bits->first] & mask)
			return r ? r : 1;
	}
	return 0;
}

static int volume_are_free(ntfs_volume *volume, const struct run_list *runs)
{
	cleanup_free struct bits *bits = calloc(1, sizeof(*bits));
	int r = bits ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < runs->count; i++)
		r = run_is_free(volume, &runs->runs[i], bits);
	return r;
}

int preflight_are_free(struct view *view, const struct run_list *runs)
{
	struct device device = {.view = view};
	ntfs_volume *volume = mount_view(&device);
	if (!volume)
		return errno ? -errno : -EIO;
	int r = volume_are_free(volume, runs);
	ntfs_umount(volume, FALSE);
	return without_memory ? -ENOMEM : r;
}

/* ---- what forbids a change ---- */

#define REMEDY_SHUTDOWN                                                                                                \
	"boot the guest and shut it down fully (shutdown /s /t 0, not hibernation; powercfg /h off ends Fast Startup " \
	"for good)"

static void check_flags(ntfs_volume *volume, struct volume_report *report)
{
	unsigned int flags = le16_to_cpu(volume->flags);
	if (volume->major_ver != 3 || volume->minor_ver > 1)
		report_result(report, VOLUME_UNSUPPORTED, "let Windows upgrade the volume",
		              "NTFS version %u.%u; only 3.0 and 3.1 are supported", volume->major_ver,
		              volume->minor_ver);
	else if (flags & le16_to_cpu(VOLUME_IS_DIRTY))
		report_result(report, VOLUME_REFUSED, REMEDY_CHKDSK, "the volume is marked dirty");
	else if (flags & 0x0002)
		report_result(report, VOLUME_REFUSED, REMEDY_SHUTDOWN, "a resize of the volume's log file is pending");
	else if (flags & 0x0004)
		report_result(report, VOLUME_REFUSED, REMEDY_SHUTDOWN, "an upgrade of the volume is pending");
	else if (flags & 0x0010)
		report_result(report, VOLUME_REFUSED, REMEDY_SHUTDOWN, "a deletion of the USN journal is under way");
	else if (flags & 0x4000)
		report_result(report, VOLUME_REFUSED, REMEDY_CHKDSK, "chkdsk was interrupted on this volume");
}

static void check_log(ntfs_volume *volume, struct volume_report *report)
{
	ntfs_inode *inode = ntfs_inode_open(volume, FILE_LogFile);
	ntfs_attr *attr = inode ? ntfs_attr_open(inode, AT_DATA, AT_UNNAMED, 0) : NULL;
	RESTART_PAGE_HEADER *restart = NULL;
	if (!attr)
		report_result(report, VOLUME_DAMAGED, REMEDY_CHKDSK, "$LogFile cannot be read");
	else if (!ntfs_check_logfile(attr, &restart))
		report_result(report, VOLUME_REFUSED, REMEDY_CHKDSK, "$LogFile is damaged or of an unknown kind");
	else if (restart && le16_to_cpu(restart->major_ver) >= 2)
		report_result(report, VOLUME_REFUSED, REMEDY_SHUTDOWN,
		              "the volume was not detached cleanly ($LogFile version %u.%u: Fast Startup, or still "
		              "cached by Windows)",
		              le16_to_cpu(restart->major_ver), le16_to_cpu(restart->minor_ver));
	else if (!ntfs_is_logfile_clean(attr, restart))
		report_result(report, VOLUME_REFUSED, REMEDY_SHUTDOWN,
		              "$LogFile holds changes that were not carried out yet (unclean shutdown)");
	free(restart);
	if (attr)
		ntfs_attr_close(attr);
	if (inode)
		ntfs_inode_close(inode);
}

/* hiberfil.sys begins with zeros or "wake" when nothing is suspended; whatever else is there, Windows may resume from.
 */
static void check_hibernation(ntfs_volume *volume, struct volume_report *report, uint64_t *hiberfil)
{
	static const char zeros[4];
	char magic[4096] = {0};
	if (ntfs_set_ignore_case(volume) < 0) { /* as Windows does */
		without_memory = true;
		return;
	}
	ntfs_inode *inode = ntfs_pathname_to_inode(volume, NULL, "hiberfil.sys");
	if (!inode) /* or the index is damaged, which libntfs-3g does not say */
		return;
	*hiberfil = inode->mft_no;
	ntfs_attr *attr = ntfs_attr_open(inode, AT_DATA, AT_UNNAMED, 0);
	int64_t count = attr ? ntfs_attr_pread(attr, 0, sizeof(magic), magic) : -1;
	if (count < (int64_t)sizeof(magic) ||
	    (memcmp(magic, zeros, 4) != 0 && memcmp(magic, "wake", 4) != 0 && memcmp(magic, "WAKE", 4) != 0))
		report_result(report, VOLUME_REFUSED, REMEDY_SHUTDOWN,
		              "Windows is hibernated or in Fast Startup (hiberfil.sys is in use)");
	if (attr)
		ntfs_attr_close(attr);
	ntfs_inode_close(inode);
}

/* ---- shadow copies; format: libyal's "Volume Shadow Snapshot (VSS) format" ---- */

#define VSS_HEADER_OFF         0x1e00u
#define VSS_CATALOG_BLOCK      16384u
#define VSS_ENTRY_SIZE         128u
#define VSS_CATALOG_BLOCKS_MAX 1024u /* a catalog is one block or two; more is a loop */
#define REMEDY_SHADOWS                                                                                                 \
	"in the guest run vssadmin delete shadows /all and turn System Protection off for the volume, then shut it "   \
	"down"

static const uint8_t vss_guid[16] = {0x6b, 0x87, 0x08, 0x38, 0x76, 0xc1, 0x48, 0x4e,
                                     0xb7, 0xae, 0x04, 0x04, 0x6e, 0x6c, 0xc7, 0x52};

static uint64_t u64_at(const uint8_t *p)
{
	uint64_t value;
	memcpy(&value, p, sizeof(value));
	return le64_to_cpu(value);
}

/* 1: snapshots or their stores, or a catalog that cannot be understood; 0: none. */
static int catalog_has_snapshots(struct view *view, uint64_t off)
{
	cleanup_free uint8_t *block = malloc(VSS_CATALOG_BLOCK);
	if (!block)
		return -ENOMEM;
	for (unsigned int blocks = 0; off; blocks++) {
		int r = blocks < VSS_CATALOG_BLOCKS_MAX ? view_read(view, block, VSS_CATALOG_BLOCK, off) : -ERANGE;
		if (r == -ERANGE || (r == 0 && memcmp(block, vss_guid, sizeof(vss_guid)) != 0))
			return 1;
		if (r < 0)
			return r;
		for (uint32_t at = VSS_ENTRY_SIZE; at < VSS_CATALOG_BLOCK; at += VSS_ENTRY_SIZE)
			if (u64_at(block + at) > 1)
				return 1;
		off = u64_at(block + 40);
	}
	return 0;
}

/* The header names the volume and the one that holds its shadow copies; zeros name none. */
static bool stored_elsewhere(const uint8_t *header)
{
	static const uint8_t none[16];
	const uint8_t *volume = header + 64, *storage = header + 80;
	return memcmp(volume, none, 16) != 0 && memcmp(storage, none, 16) != 0 && memcmp(volume, storage, 16) != 0;
}

static int check_shadows(struct view *view, struct volume_report *report)
{
	uint8_t header[512];
	int r = view_read(view, header, sizeof(header), VSS_HEADER_OFF);
	if (r < 0 || memcmp(header, vss_guid, sizeof(vss_guid)) != 0)
		return r;
	r = stored_elsewhere(header) ? 1 : catalog_has_snapshots(view, u64_at(header + 48));
	if (r == 1)
		report_result(report, VOLUME_REFUSED, REMEDY_SHADOWS,
		              "the volume has shadow copies (restore points), which refer to places on the volume");
	return r < 0 ? r : 0;
}

int preflight_check(struct view *view, struct volume_report *report, uint64_t *hiberfil)
{
	struct device device = {.view = view};
	*hiberfil = 0;
	int r = report->result == VOLUME_DONE ? check_shadows(view, report) : 0;
	if (r < 0)
		return r;
	ntfs_volume *volume = mount_view(&device);
	if (!volume && errno == ENOMEM)
		return -ENOMEM;
	if (!volume) {
		if (report->result == VOLUME_DONE)
			report_result(report, VOLUME_DAMAGED, REMEDY_CHKDSK, "libntfs-3g cannot open the volume: %s",
			              strerror(errno ? errno : EIO));
		return 0;
	}
	snprintf(report->label, sizeof(report->label), "%s", volume->vol_name ? volume->vol_name : "");
	if (report->result == VOLUME_DONE)
		check_flags(volume, report);
	if (report->result == VOLUME_DONE)
		check_log(volume, report);
	if (report->result == VOLUME_DONE)
		check_hibernation(volume, report, hiberfil);
	ntfs_umount(volume, FALSE);
	return without_memory ? -ENOMEM : 0;
}
