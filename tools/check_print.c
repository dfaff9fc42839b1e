/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tools/check_print.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tools/json_text.h"
#include "tools/text.h"

static const char backup[] =
        "restore a backup of the bundle; until then do not use the image, and never its data file alone";

/* What to do about an error that is not repairable, or has not been repaired. */
static const char *remedy_of(const struct finding *finding)
{
	static const char *const remedies[FINDING_KINDS] = {
	        [FINDING_BUNDLE] = "undo what was done to the bundle by hand, or restore a backup of it",
	        [FINDING_DATABASE] = backup,
	        [FINDING_SCHEMA] = backup,
	        [FINDING_MAP] = backup,
	        [FINDING_REDO] = backup,
	        [FINDING_UNDO] = backup,
	        [FINDING_HISTORY] = "the image is not affected; delete the row with sqlite3 when it is not in use",
	        [FINDING_DATA] = backup,
	        [FINDING_FOREIGN] = "move it elsewhere; zcfs would leave it behind",
	};

	if (!finding->error || finding->repaired)
		return "";
	if (finding->repairable)
		return "zcfs-check --repair";
	return remedies[finding->kind] ? remedies[finding->kind] : "";
}

static const char *verdict(const struct check_result *result)
{
	size_t left = check_errors(&result->report, false), repaired = check_errors(&result->report, true);

	if (!result->checked)
		return "not checked";
	return left ? "damaged" : repaired ? "repaired" : "clean";
}

static bool all_repairable(const struct check_report *report)
{
	for (size_t i = 0; i < report->count; i++) {
		const struct finding *finding = &report->findings[i];

		if (finding->error && !finding->repaired && !finding->repairable)
			return false;
	}
	return !report->omitted;
}

/* For a person: what --repair mends without loss is no damage. */
static const char *printed_verdict(const struct check_result *result)
{
	const struct check_report *report = &result->report;

	return check_errors(report, false) && all_repairable(report) ? "to be repaired" : verdict(result);
}

static void print_verdict(const struct check_result *result)
{
	const struct check_report *report = &result->report;
	char number[TEXT_NUMBER_MAX];

	text_print(stdout, result->path);
	printf(": %s", printed_verdict(result));
	if (result->directory) {
		putchar('\n');
		return;
	}
	if (report->kind == NAME_FILE)
		printf(", a plain image: %s", text_bytes(number, report->size));
	if (report->map_known) {
		printf(": %s", text_bytes(number, report->size));
		printf(", %s extents", text_number(number, report->extents));
	}
	printf("%s\n", report->in_use ? ", in use" : "");
}

static void print_finding(const struct finding *finding)
{
	printf("  %s: %s: ",
	       finding->repaired ? "repaired"
	       : finding->error  ? "error"
	                         : "note",
	       finding_kind_name(finding->kind));
	text_print(stdout, finding->text);
	putchar('\n');
}

/* Each once, however often it is due. */
static void print_remedies(const struct check_report *report)
{
	for (size_t i = 0; i < report->count; i++) {
		const char *remedy = remedy_of(&report->findings[i]);
		bool told = false;

		for (size_t j = 0; j < i; j++)
			told |= !strcmp(remedy_of(&report->findings[j]), remedy);
		if (*remedy && !told)
			printf("  what to do: %s\n", remedy);
	}
}

static bool shown(const struct finding *finding, const struct check_options *options)
{
	return finding->error || options->verbose;
}

void check_print(const struct check_result *result, const struct check_options *options)
{
	const struct check_report *report = &result->report;
	bool wrong = check_errors(report, false) || check_errors(report, true);

	bool interesting = result->directory ? report->count > 0
	                                     : result->named || report->kind == NAME_BUNDLE || options->verbose;

	if (result->checked && !options->json && (wrong || (!options->quiet && interesting))) {
		print_verdict(result);
		for (size_t i = 0; i < report->count; i++) {
			if (shown(&report->findings[i], options))
				print_finding(&report->findings[i]);
		}
		if (report->omitted && (wrong || options->verbose))
			printf("  and %u more of these\n", report->omitted);
		print_remedies(report);
	}
	fflush(stdout);
	if (!result->cause[0])
		return;
	fputs("zcfs-check: ", stderr);
	text_print(stderr, result->path);
	fprintf(stderr, ": %s\n", result->cause);
	if (result->remedy[0])
		fprintf(stderr, "  what to do: %s\n", result->remedy);
}

void check_print_totals(const char *directory, const struct check_totals *totals)
{
	text_print(stdout, directory);
	printf(": %u bundle%s, %u plain image%s: ", totals->bundles, totals->bundles == 1 ? "" : "s", totals->plain,
	       totals->plain == 1 ? "" : "s");
	if (totals->errors == 0 && totals->repaired == 0)
		printf("nothing wrong");
	else
		printf("%u errors left, %u repaired", totals->errors, totals->repaired);
	if (totals->unchecked)
		printf(", but %u could not be checked", totals->unchecked);
	putchar('\n');
}

static json_t *finding_json(const struct finding *finding)
{
	return json_pack("{s:s, s:b, s:b, s:b, s:I, s:o, s:s}", "kind", finding_kind_name(finding->kind), "error",
	                 finding->error, "repairable", finding->repairable, "repaired", finding->repaired, "bytes",
	                 (json_int_t)finding->bytes, "text", json_text(finding->text), "remedy", remedy_of(finding));
}

json_t *check_json(const struct check_result *result)
{
	const struct check_report *report = &result->report;
	json_t *findings = json_array();

	for (size_t i = 0; i < report->count; i++)
		json_array_append_new(findings, finding_json(&report->findings[i]));
	json_t *json = json_pack(
	        "{s:o, s:s, s:s, s:i, s:s, s:s, s:b, s:o, s:i}", "image", json_text(result->path), "kind",
	        result->directory             ? "directory"
	        : report->kind == NAME_BUNDLE ? "bundle"
	                                      : "plain",
	        "result", verdict(result), "exit_code", result->exit_code, "cause", result->cause, "remedy",
	        result->remedy, "in_use", report->in_use, "findings", findings, "omitted", (int)report->omitted);
	if (json && (report->map_known || report->kind == NAME_FILE))
		json_object_set_new(json, "size", json_integer((json_int_t)report->size));
	if (json && report->map_known) {
		json_object_set_new(json, "extents", json_integer((json_int_t)report->extents));
		json_object_set_new(json, "generation", json_integer((json_int_t)report->generation));
	}
	return json;
}
