/* SPDX-License-Identifier: MIT */
/*
 * hmm doctor: can it be done here, and what is missing.
 *
 * It looks, and then tries: what counts in the end is that memory went to a device and came
 * back.
 */
#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "doctor.h"
#include "hmm.h"
#include "text.h"

#define MEANING_COLUMN 55
#define MEANING_WIDTH 45

static const char *const state_name[] = {
	[FINDING_OK] = "ok",
	[FINDING_NOTE] = "note",
	[FINDING_MISSING] = "missing",
};

static void help(FILE *to)
{
	fputs("usage: hmm doctor [OPTION...]\n"
	      "\n"
	      "Looks at what libhmm and `hmm run' need here (kernel, privilege, limits), says\n"
	      "what it means and which command mends it, and moves some memory to a device and\n"
	      "back.\n"
	      "\n"
	      "  -j, --json  as JSON\n"
	      "  -h, --help  this\n"
	      "\n"
	      "Exit status: 0 all that is needed is there; 1 something is missing; 125 if hmm\n"
	      "refuses.\n",
	      to);
}

static const struct option options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct finding *finding_add(struct doctor *doctor, enum finding_state state, const char *name,
			    const char *value, ...)
{
	struct finding *finding = &doctor->finding[doctor->findings];
	va_list args;

	if (doctor->findings + 1 < FINDINGS_MAX)
		doctor->findings++;
	*finding = (struct finding){ .name = name, .state = state };
	va_start(args, value);
	vsnprintf(finding->value, sizeof(finding->value), value, args);
	va_end(args);
	return finding;
}

void finding_means(struct finding *finding, const char *meaning, ...)
{
	va_list args;

	va_start(args, meaning);
	vsnprintf(finding->meaning, sizeof(finding->meaning), meaning, args);
	va_end(args);
}

void finding_remedy(struct finding *finding, const char *command, ...)
{
	va_list args;

	if (finding->remedies == REMEDIES_MAX)
		return;
	va_start(args, command);
	vsnprintf(finding->remedy[finding->remedies++], sizeof(finding->remedy[0]), command, args);
	va_end(args);
}

bool doctor_file(const char *path, char *buf, size_t size)
{
	FILE *file = fopen(path, "re");
	bool ok = file && fgets(buf, (int)size, file);

	if (file)
		fclose(file);
	if (ok)
		buf[strcspn(buf, "\n")] = 0;
	return ok;
}

/* ---- how it is shown ---- */

static bool complete(const struct doctor *doctor)
{
	unsigned int i;

	for (i = 0; i < doctor->findings; i++)
		if (doctor->finding[i].state == FINDING_MISSING)
			return false;
	return true;
}

static void user_name(char *buf, size_t size)
{
	struct passwd *user = getpwuid(geteuid());

	if (user)
		snprintf(buf, size, "%s", user->pw_name);
	else
		snprintf(buf, size, "user %u", (unsigned int)geteuid());
}

static void show_finding(const struct finding *finding)
{
	const char *text = finding->meaning;
	unsigned int i;
	int at;

	at = printf("%-8s %-28s %s", state_name[finding->state], finding->name, finding->value);
	if (at >= MEANING_COLUMN) {
		putchar('\n');
		at = 0;
	}
	/* As text_wrap(), but that the first line has begun. */
	while (*text) {
		size_t len = strlen(text), cut = len;

		if (len > MEANING_WIDTH)
			for (cut = MEANING_WIDTH; cut && text[cut] != ' '; cut--)
				;
		if (!cut)
			cut = len;
		printf("%*s%.*s\n", MEANING_COLUMN - at, "", (int)cut, text);
		text += cut;
		text += strspn(text, " ");
		at = 0;
	}
	if (!finding->meaning[0])
		putchar('\n');
	for (i = 0; i < finding->remedies; i++)
		printf("%9s%s%s\n", "", finding->remedy[i][0] == '#' ? "" : "    ",
		       finding->remedy[i] + (finding->remedy[i][0] == '#' ? 2 : 0));
}

static void show_text(const struct doctor *doctor)
{
	char user[64], memory[TEXT_NUMBER];
	struct utsname uts;
	unsigned int i;

	uname(&uts);
	user_name(user, sizeof(user));
	printf("Linux %s on %s, %ld CPUs, %s of memory; as %s\n\n", uts.release, uts.machine,
	       sysconf(_SC_NPROCESSORS_ONLN),
	       text_size(memory, (uint64_t)sysconf(_SC_PHYS_PAGES) * hmm_page_size()), user);
	for (i = 0; i < doctor->findings; i++)
		show_finding(&doctor->finding[i]);
	printf("\n%s\n", complete(doctor) ? "All that is needed is there." :
					    "Something is missing: see above.");
}

static void show_json(const struct doctor *doctor)
{
	unsigned int i, k;

	printf("{\"ok\": %s, \"can_mirror\": %s, \"can_migrate\": %s, \"user_mode_only\": %s, "
	       "\"findings\": [",
	       complete(doctor) ? "true" : "false", doctor->features.can_mirror ? "true" : "false",
	       doctor->features.can_migrate ? "true" : "false",
	       doctor->features.user_mode_only ? "true" : "false");
	for (i = 0; i < doctor->findings; i++) {
		const struct finding *finding = &doctor->finding[i];

		printf("%s\n  {\"name\": ", i ? "," : "");
		text_json(stdout, finding->name);
		printf(", \"state\": \"%s\", \"value\": ", state_name[finding->state]);
		text_json(stdout, finding->value);
		printf(", \"meaning\": ");
		text_json(stdout, finding->meaning);
		printf(", \"remedy\": [");
		for (k = 0; k < finding->remedies; k++) {
			printf(k ? ", " : "");
			text_json(stdout, finding->remedy[k]);
		}
		printf("]}");
	}
	printf("\n]}\n");
}

int hmm_doctor(int argc, char **argv)
{
	struct doctor *doctor;
	bool json = false;
	int c, ret;

	while ((c = hmm_option(argc, argv, ":jh", options)) != HMM_OPTION_END) {
		if (c == HMM_OPTION_BAD)
			return HMM_EXIT_REFUSED;
		if (c == 'h') {
			help(stdout);
			return text_end();
		}
		json = true;
	}
	if (optind < argc) {
		hmm_message("`%s' is one argument too many: see hmm doctor --help", argv[optind]);
		return HMM_EXIT_REFUSED;
	}
	doctor = calloc(1, sizeof(*doctor));
	if (!doctor) {
		hmm_message("no memory");
		return HMM_EXIT_REFUSED;
	}
	doctor->features.size = sizeof(doctor->features);
	hmm_probe(&doctor->features);
	doctor_kernel(doctor);
	doctor_limits(doctor);
	doctor_try(doctor);
	if (json)
		show_json(doctor);
	else
		show_text(doctor);
	ret = text_end();
	if (!ret && !complete(doctor))
		ret = HMM_EXIT_MISSING;
	free(doctor);
	return ret;
}
