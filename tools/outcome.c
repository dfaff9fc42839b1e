/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/outcome.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int graver_exit_code(int a, int b)
{
	static const int gravity[] = {
	        [EXIT_DONE] = 0,   [EXIT_IN_USE] = 1,  [EXIT_REFUSED] = 2,
	        [EXIT_FAILED] = 3, [EXIT_DAMAGED] = 4, [EXIT_USAGE] = 5,
	};
	return gravity[a] >= gravity[b] ? a : b;
}

int exit_code_of_report(const struct pass_report *report)
{
	switch (report->result) {
	case VOLUME_REFUSED:
		return EXIT_REFUSED;
	case VOLUME_DAMAGED:
		return EXIT_DAMAGED;
	case VOLUME_FAILED:
		return EXIT_FAILED;
	default:
		return EXIT_DONE;
	}
}

#define ANY_STEP (-1)

/* The first row that fits is used. An exit code of EXIT_FAILED promises that nothing changed, unless its row says
 * otherwise. */
static const struct {
	int step;
	int error;
	int exit_code;
	const char *cause;
	const char *remedy;
} explanations[] = {
        {STEP_LOCATE, ENOENT, EXIT_FAILED, "no such image", ""},
        {STEP_LOCATE, EISDIR, EXIT_FAILED, "is the root of a file system, not an image", ""},
        {STEP_LOCATE, ENOTUNIQ, EXIT_FAILED, "is a part of a bundle, not an image", ""},
        {STEP_LOCATE, ENOTCONN, EXIT_FAILED, "the zcfs that served this mount is gone",
         "unmount what it left (fusermount3 -u), or start zcfs again"},
        {STEP_LOCATE, ELOOP, EXIT_FAILED, "is a symbolic link that leads back to itself", ""},
        {STEP_LOCATE, ENOTDIR, EXIT_FAILED, "no such image: a part of its path is not a directory", ""},
        {STEP_LOCATE, EXDEV, EXIT_FAILED, "the store below this mount cannot be reached",
         "give the path in the store itself"},

        {STEP_OPEN, EBUSY, EXIT_IN_USE, "is in use (through the mount, or by another program)",
         "shut its guest down or stop what uses it (see fuser -v), or use --wait"},
        {STEP_UNDO, EBUSY, EXIT_IN_USE, "was opened by somebody meanwhile; nothing has been changed",
         "try again when it is no longer in use, or with --wait"},
        {STEP_PASS, EBUSY, EXIT_IN_USE, "was opened by somebody meanwhile; nothing has been changed",
         "try again when it is no longer in use, or with --wait"},
        {STEP_UNDO, EINPROGRESS, EXIT_FAILED,
         "the host's disk failed in the commit: it is not known whether the pass is undone; nothing is lost either way",
         "check the disk (dmesg, df); --analyze shows what the guest will see"},
        {STEP_PASS, EINPROGRESS, EXIT_FAILED,
         "the host's disk failed in the commit: it is not known whether the pass is done; nothing is lost either way",
         "check the disk (dmesg, df); --analyze shows what the guest will see"},
        {STEP_PLAIN, EBUSY, EXIT_IN_USE, "was opened by somebody meanwhile; it is still a bundle",
         "try again when it is no longer in use, or with --wait"},
        {STEP_PLAIN, EINPROGRESS, EXIT_FAILED,
         "the host's disk failed in the middle; the guest's view of it is unchanged, but it may still be a bundle, "
         "now or after a crash of the host",
         "check the disk (dmesg), and run zcfs-check on the image before anything is written to it"},
        {STEP_PLAIN, EOPNOTSUPP, EXIT_FAILED, "its file system cannot share blocks between files (reflinks)",
         "--plain without a method copies where it must"},
        {STEP_PLAIN, EINVAL, EXIT_FAILED, "its map is not the identity: an exchange of names does not make it plain",
         "--plain without a method does what it takes"},
        {STEP_PLAIN, ENOSPC, EXIT_FAILED, "no space left; it is still a bundle, and the guest's view of it unchanged",
         "make room on the host's file system, or move the bundle to one with reflinks (XFS, btrfs)"},
        {STEP_PLAIN, EDQUOT, EXIT_FAILED,
         "a disk quota is used up; it is still a bundle, and the guest's view of it unchanged",
         "raise it (the owner's, or that of the project or subvolume) or make room"},
        {STEP_PLAIN, ENOMEM, EXIT_FAILED,
         "not enough memory; it is still a bundle, and the guest's view of it unchanged", ""},
        {STEP_PLAIN, ECANCELED, EXIT_FAILED, "stopped; it is still a bundle, and the guest's view of it unchanged", ""},
        {STEP_PLAIN, EINTR, EXIT_FAILED, "stopped; it is still a bundle, and the guest's view of it unchanged", ""},
        {STEP_OPEN, EISDIR, EXIT_FAILED, "is a directory, not an image", "name the images in it, or use --all"},
        {STEP_OPEN, EINVAL, EXIT_FAILED, "is neither a regular file nor a bundle", ""},

        {STEP_UNDO, ENODATA, EXIT_FAILED,
         "there is nothing to undo: no pass has changed it, or it was changed since (by a write, or chown, chmod ...)",
         ""},
        {STEP_PASS, ECHILD, EXIT_FAILED,
         "the process that reads the guest's metadata died or returned a plan that breaks an invariant; nothing has "
         "been changed",
         "keep the image as it is and report this: it is a bug in zcfs or a malicious image"},
        {STEP_PASS, ETIME, EXIT_FAILED,
         "reading the guest's metadata took more than an hour of processor time; nothing has been changed",
         "if the volume is not that large, keep the image as it is and report this"},
        {STEP_PASS, ENOMEM, EXIT_FAILED,
         "the guest's metadata takes more memory than three quarters of this machine's; nothing has been changed",
         "use a machine with more memory"},
        {STEP_PASS, ENOSYS, EXIT_FAILED,
         "the process that reads the guest's metadata could not be shut off from the rest of the system; nothing has "
         "been changed",
         "let it use seccomp, Landlock (if the kernel has it) and /proc, which a container or a service may forbid"},
        {STEP_PASS, EUSERS, EXIT_FAILED,
         "no process could be started that reads the guest's metadata; nothing has been changed",
         "raise the limit of processes (ulimit -u, a service's TasksMax)"},
        {STEP_PASS, EFBIG, EXIT_FAILED, "it is longer than a limit allows files to be; nothing has been changed",
         "raise the limit of 'ulimit -f'"},
        {STEP_PASS, ECANCELED, EXIT_FAILED, "stopped; nothing has been changed", ""},
        {ANY_STEP, ETIMEDOUT, EXIT_FAILED, "the time of --time-limit is up; nothing has been changed",
         "give it more time; the next pass starts over"},

        {STEP_SETTLE, EINTR, EXIT_FAILED, "stopped; what has been moved so far stays moved",
         "run the same command again to continue"},
        {STEP_SETTLE, EBUSY, EXIT_IN_USE,
         "is in use by a program that does not go through a zcfs mount, or by another --settle; what has been moved so "
         "far stays "
         "moved",
         "stop what uses it (see fuser -v), or use --wait; then run the same command again to continue"},
        {STEP_SETTLE, ENOTTY, EXIT_FAILED, "the zcfs that serves it is older than this command",
         "unmount the store and start zcfs again"},
        {STEP_SETTLE, EFBIG, EXIT_FAILED, "the host's file system has no files long enough to move anything to",
         "raise the limit of 'ulimit -f', if there is one, or move the store to a file system with longer files, XFS "
         "or "
         "btrfs for example"},
        {STEP_SETTLE, ENOSPC, EXIT_FAILED,
         "too little space is free on the host's file system to copy even a small piece; what has been moved so far "
         "stays moved",
         "make some room (150 MB is plenty) and run the same command again to continue"},
        {STEP_SETTLE, EDQUOT, EXIT_FAILED, "a disk quota is used up; what has been moved so far stays moved",
         "raise it (the owner's, or that of the project or subvolume) or make room; then run the same command again to "
         "continue"},
        {STEP_SETTLE, ENOMEM, EXIT_FAILED, "not enough memory; what has been moved so far stays moved",
         "run the same command again to continue"},
        {STEP_SETTLE, EOPNOTSUPP, EXIT_FAILED, "its file system cannot free a part of a file (punch a hole)",
         "move the store to a local file system such as ext4, XFS or btrfs"},
        {STEP_SETTLE, EINPROGRESS, EXIT_FAILED,
         "it is not known whether the map was written; nothing is lost either way",
         "check the host's disk (dmesg, df), then close the image and open it again"},
        {STEP_SETTLE, EROFS, EXIT_FAILED, "is served read-only",
         "mount the store without -o ro, or see the system log"},
        {STEP_SETTLE, EIO, EXIT_FAILED,
         "input/output error while data was copied; what could not be copied stays where it was",
         "check the kernel's log (dmesg) first"},

        {STEP_DISCARD, EINTR, EXIT_FAILED, "stopped; what has been given back so far stays so", ""},
        {STEP_DISCARD, EBUSY, EXIT_IN_USE, "was opened by somebody meanwhile; what has been given back so far stays so",
         "try again when it is no longer in use, or with --wait"},
        {STEP_DISCARD, EOPNOTSUPP, EXIT_FAILED,
         "its file system cannot free a part of a file (punch a hole), or is a network file system, where other hosts "
         "could use the image unnoticed; nothing has been given back",
         "run it on the host that has the network file system, or move the image to a local file system such as ext4, "
         "XFS or btrfs"},
        {STEP_DISCARD, ENOSPC, EXIT_FAILED,
         "no space left on the host's file system to note in its map database what is done; what has been given back "
         "so far stays so",
         "make room (some KiB) and try again"},
        {STEP_DISCARD, EDQUOT, EXIT_FAILED,
         "a disk quota is used up: its map database cannot note what is done; what has been given back so far stays so",
         "raise it (the owner's, or that of the project or subvolume) or make room"},
        {STEP_DISCARD, EROFS, EXIT_FAILED,
         "its file system has become read-only; what has been given back so far stays so",
         "see the kernel's log (dmesg)"},
        {STEP_DISCARD, ENOMEM, EXIT_FAILED, "not enough memory; what has been given back so far stays so", ""},
        {STEP_DISCARD, EIO, EXIT_FAILED, "input/output error; what has been given back so far stays so",
         "check the kernel's log (dmesg) first"},

        {ANY_STEP, EINTR, EXIT_FAILED, "stopped; nothing has been changed", ""},
        {ANY_STEP, ENOENT, EXIT_FAILED, "was renamed or removed meanwhile", "look where it is now and try again"},
        {ANY_STEP, ESTALE, EXIT_FAILED, "was renamed or removed meanwhile", "look where it is now and try again"},
        {ANY_STEP, EUCLEAN, EXIT_DAMAGED, "its image map is damaged; nothing has been changed",
         "run zcfs-check to see what is wrong; restore a backup of the bundle"},
        {ANY_STEP, EMEDIUMTYPE, EXIT_FAILED, "its map.db belongs to a newer zcfs or to another program",
         "use the zcfs that made it, or a newer one"},
        {ANY_STEP, EMLINK, EXIT_FAILED, "has another hard link, under which its bytes would appear scrambled",
         "remove the other name (find -samefile finds it), or make a copy with cp --reflink=auto"},
        {ANY_STEP, EOPNOTSUPP, EXIT_FAILED,
         "its file system cannot hold a bundle (it is a network file system, has no RENAME_EXCHANGE, or ignores case)",
         "move it to a local file system such as ext4, XFS or btrfs"},
        {ANY_STEP, ENAMETOOLONG, EXIT_FAILED, "no such image: its name or its path is longer than can be",
         "give a shorter path, for example from the directory that it is in"},
        {STEP_OPEN, EINPROGRESS, EXIT_FAILED,
         "the last step of the previous pass still cannot be completed; nothing has been changed",
         "make room on the host's file system or check its disk (df, dmesg), and try again: the next open completes "
         "it"},
        {ANY_STEP, EROFS, EXIT_FAILED, "its file system is mounted read-only",
         "remount it read-write; --analyze and --dry-run work"},
        {ANY_STEP, ENOSPC, EXIT_FAILED, "no space left on the host's file system; nothing has been changed",
         "make room (a few MiB and about 100 bytes a fragment; on btrfs also for the metadata that changes) and try "
         "again"},
        {ANY_STEP, EDQUOT, EXIT_FAILED, "a disk quota is used up; nothing has been changed",
         "raise it (the owner's, or that of the project or subvolume) or make room"},
        {ANY_STEP, EACCES, EXIT_FAILED, "permission denied", "run as root, or as the owner of the store"},
        {ANY_STEP, EPERM, EXIT_FAILED, "not permitted", "run as root, or as the owner of the store"},
        {ANY_STEP, ENOMEM, EXIT_FAILED, "not enough memory; nothing has been changed", ""},
        {ANY_STEP, EIO, EXIT_FAILED, "input/output error", "check the kernel's log (dmesg) first"},
};

void outcome_explain(struct outcome *outcome, enum step step, int error)
{
	const char *cause = strerror(-error), *remedy = "";
	outcome->exit_code = EXIT_FAILED;
	for (size_t i = 0; i < sizeof(explanations) / sizeof(explanations[0]); i++) {
		if (explanations[i].error == -error &&
		    (explanations[i].step == ANY_STEP || explanations[i].step == (int)step)) {
			cause = explanations[i].cause;
			remedy = explanations[i].remedy;
			outcome->exit_code = explanations[i].exit_code;
			break;
		}
	}
	snprintf(outcome->cause, sizeof(outcome->cause), "%s", cause);
	if (!outcome->remedy[0])
		snprintf(outcome->remedy, sizeof(outcome->remedy), "%s", remedy);
}

static const char *remedy_for_user(const struct image_user *user, bool asked)
{
	if (user->kind == USER_LOOP_DEVICE)
		return "detach it (losetup -d), or use --wait";
	if (user->kind == USER_PROCESS)
		return *user->guest ? "shut it down, or use --wait" : "stop it, or use --wait";
	switch (user->state) {
	case DOMAIN_PAUSED:
		return "if it is not just being created: unpause it (xl unpause) and shut it down, or use --wait";
	case DOMAIN_SHUT_DOWN:
	case DOMAIN_CRASHED:
		return "find out why it was kept, then xl destroy it, or use --wait";
	default:
		return asked ? "it was asked to shut down: see its console, or give it more time with --wait"
		             : "shut it down, or use --wait or --shutdown";
	}
}

void outcome_explain_user(struct outcome *outcome, bool asked)
{
	char user[256];
	user_describe(&outcome->user, user, sizeof(user));
	snprintf(outcome->cause, sizeof(outcome->cause), "is in use by %s", user);
	snprintf(outcome->remedy, sizeof(outcome->remedy), "%s", remedy_for_user(&outcome->user, asked));
	outcome->exit_code = EXIT_IN_USE;
}

void outcome_explain_saved(struct outcome *outcome, const struct saved_domain *saved)
{
	snprintf(outcome->cause, sizeof(outcome->cause), "refused: it %s a disk of the saved domain \"%s\"%s: %.300s",
	         saved->by_name ? "may be" : "is", *saved->name ? saved->name : "?",
	         saved->by_name ? ", whose save file names one of this name that is not there now" : "", saved->file);
	snprintf(outcome->remedy, sizeof(outcome->remedy),
	         "restore the domain (xl restore, virsh start) and shut it down, or remove the save file if it is not "
	         "needed");
	outcome->exit_code = EXIT_REFUSED;
}

void outcome_explain_overlay(struct outcome *outcome, const struct overlay *overlay)
{
	snprintf(outcome->cause, sizeof(outcome->cause),
	         "refused: it %s the backing file of the overlay (snapshot) \"%s\" beside it%s; changing it would "
	         "destroy the guest's data there",
	         overlay->by_name ? "may be" : "is", overlay->name, overlay->by_name ? ", going by its name" : "");
	snprintf(outcome->remedy, sizeof(outcome->remedy),
	         "commit the overlay (virsh blockcommit, qemu-img commit) and delete it, make it independent (qemu-img "
	         "rebase -b \"\"), or delete it if it is not needed");
	outcome->exit_code = EXIT_REFUSED;
}

void outcome_explain_undo(struct outcome *outcome)
{
	snprintf(outcome->cause, sizeof(outcome->cause), "refused: the last pass could no longer be undone afterwards");
	snprintf(outcome->remedy, sizeof(outcome->remedy),
	         "start the guest first and check that it works, or use --discard=forget-undo");
	outcome->exit_code = EXIT_REFUSED;
}

enum gist outcome_gist(const struct outcome *outcome, enum defrag_mode mode)
{
	enum gist gist = GIST_NO_VOLUME;
	if (outcome->exit_code != EXIT_DONE || !outcome->reported)
		return GIST_PROBLEM;
	for (size_t i = 0; i < outcome->report.volume_count; i++) {
		const struct volume_report *volume = &outcome->report.volumes[i];
		bool changed = mode == MODE_ANALYZE ? volume->fragmented_before > 0
		               : mode == MODE_DISCARD
		                       ? outcome->discard.allocated_after < outcome->discard.allocated_before
		                       : volume->attributes_moved || volume->clusters_moved;
		if (volume->result != VOLUME_DONE)
			continue;
		if (changed)
			return GIST_CHANGED;
		gist = GIST_NOTHING;
	}
	return gist;
}

bool outcome_has_figures(const struct volume_report *volume, enum defrag_mode mode)
{
	return volume->result == VOLUME_DONE ||
	       (mode == MODE_ANALYZE && volume->result <= VOLUME_REFUSED && volume->attributes > 0);
}

void outcome_release(struct outcome *outcome)
{
	free(outcome->image);
	pass_report_free(&outcome->report);
	file_list_release(&outcome->files);
	*outcome = (struct outcome){0};
}
