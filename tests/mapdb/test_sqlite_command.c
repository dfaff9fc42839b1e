/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Promise: the database of a bundle is an ordinary one for the sqlite3 command: it finds nothing wrong with it, its
 * views work, and it and we keep out of each other's transactions.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "mapdb/map_db.h"
#include "scenario.h"

static int bundle_fd;

/* Runs the command on the bundle's database; its whole output in text. */
static void sqlite_command(const char *sql, char *text, size_t size)
{
	char command[512];

	snprintf(command, sizeof command, "sqlite3 -batch /proc/%d/fd/%d/" MAP_DB_NAME " \"%s\" 2>&1", getpid(),
	         bundle_fd, sql);
	FILE *pipe = popen(command, "r");
	CHECK(pipe);
	size_t length = fread(text, 1, size - 1, pipe);
	text[length] = '\0';
	pclose(pipe);
}

static void expect(const char *sql, const char *expected)
{
	char text[4096];

	check_context("%s", sql);
	sqlite_command(sql, text, sizeof text);
	if (strcmp(text, expected) != 0)
		fprintf(stderr, "got: %s", text);
	CHECK(!strcmp(text, expected));
	check_context("%s", "");
}

/* The command in the middle of a transaction, for as long as its input is open. */
static FILE *start_transaction(const char *sql)
{
	char command[256], path[32];

	snprintf(command, sizeof command, "sqlite3 -batch /proc/%d/fd/%d/" MAP_DB_NAME " > /dev/null", getpid(),
	         bundle_fd);
	FILE *pipe = popen(command, "w");
	CHECK(pipe);
	snprintf(path, sizeof path, "started");
	unlinkat(bundle_fd, path, 0);
	fprintf(pipe, "%s;\n.output /proc/%d/fd/%d/started\nSELECT 1;\n.output\n", sql, getpid(), bundle_fd);
	fflush(pipe);
	while (faccessat(bundle_fd, path, F_OK, 0) < 0)
		usleep(1000);
	return pipe;
}

static void check_views(void)
{
	expect("PRAGMA integrity_check", "ok\n");
	expect("SELECT size, generation, extents, identity, redo_pending, undo_recorded, runs FROM summary",
	       "32768|2|8|0|0|1|1\n");
	expect("SELECT * FROM fragmentation", "4 KiB to 64 KiB|8|32768\n");
	expect("SELECT run, operation, options, seconds, files_moved FROM run_history", "1|defrag|--pack|0.007|1\n");
	expect("SELECT * FROM worst_files", "1|/a/b|$DATA|4096|0|0\n");
	expect("PRAGMA foreign_key_check; PRAGMA journal_mode; PRAGMA application_id; PRAGMA user_version",
	       "delete\n2053334643\n2\n");
}

static void check_their_transaction(void)
{
	struct map_db *db;
	struct map_state state;

	FILE *writer = start_transaction("BEGIN EXCLUSIVE");
	CHECK_IS(map_db_open(&io_fast, bundle_fd, 0, &db), -EBUSY);
	pclose(writer);

	writer = start_transaction("BEGIN IMMEDIATE");
	CHECK_IS(map_db_open(&io_fast, bundle_fd, 0, &db), 0);
	CHECK_IS(map_db_read_state(db, &state), 0);
	CHECK_IS(map_db_begin(db), -EBUSY);
	pclose(writer);

	FILE *reader = start_transaction("BEGIN; SELECT count(*) FROM extent");
	CHECK_IS(map_db_begin(db), 0);
	struct run_record run = {.operation = "defrag"};
	CHECK_IS(map_db_put_run(db, &run), 0);
	CHECK_IS(map_db_commit(db), -EBUSY);
	pclose(reader);
	CHECK_IS(map_db_commit(db), 0); /* tried again */
	map_db_close(db);
}

/* Who tries again is told at once, and before he has done anything. */
static void check_no_wait(void)
{
	static const char *const theirs[] = {"BEGIN; SELECT count(*) FROM extent", "BEGIN IMMEDIATE",
	                                     "BEGIN EXCLUSIVE"};
	struct map_db *db;
	struct timespec before, after;

	CHECK_IS(map_db_open(&io_fast, bundle_fd, MAP_DB_NO_WAIT, &db), 0);
	CHECK_IS(map_db_look_alone(db), 0);
	for (int i = 0; i < 3; i++) {
		FILE *pipe = start_transaction(theirs[i]);

		clock_gettime(CLOCK_MONOTONIC, &before);
		for (int again = 0; again < 10; again++)
			CHECK_IS(map_db_look_alone(db), -EBUSY);
		clock_gettime(CLOCK_MONOTONIC, &after);
		CHECK(after.tv_sec - before.tv_sec < 10);
		pclose(pipe);
	}
	CHECK_IS(map_db_look_alone(db), 0);
	map_db_close(db);
}

static void check_our_transaction(void)
{
	struct map_db *db;
	struct run_record run = {.operation = "defrag"};

	CHECK_IS(map_db_open(&io_fast, bundle_fd, 0, &db), 0);
	CHECK_IS(map_db_begin(db), 0);
	CHECK_IS(map_db_put_run(db, &run), 0);
	expect("SELECT count(*) FROM run", "2\n"); /* readers see the old state, and take nothing for a hot journal */
	char text[256];
	sqlite_command("DELETE FROM extent", text, sizeof text);
	CHECK(strstr(text, "locked"));
	CHECK_IS(map_db_commit(db), 0);
	expect("SELECT count(*) FROM run", "3\n");
	map_db_close(db);
}

int main(void)
{
	if (system("sqlite3 --version > /dev/null 2>&1") != 0)
		check_skip("no sqlite3 command");
	int dir_fd = scratch_directory();

	scenario_start(dir_fd);
	CHECK_IS(scenario_run(&io_fast, dir_fd, scenario_find("adopt")), 0);
	bundle_fd = io_posix.open(&io_posix, dir_fd, "a.img", O_RDONLY | O_DIRECTORY, 0);
	CHECK(bundle_fd >= 0);
	check_views();
	check_their_transaction();
	check_no_wait();
	check_our_transaction();
	return 0;
}
