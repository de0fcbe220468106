/* SPDX-License-Identifier: MIT */
/*
 * hmm doctor: what it finds.
 *
 *	doctor.c         arguments, and how it is shown
 *	doctor_kernel.c  what the kernel has, and what it gives to this user
 *	doctor_limits.c  settings and limits
 *	doctor_try.c     one migration there and back
 */
#ifndef HMM_DOCTOR_H
#define HMM_DOCTOR_H

#include <stdbool.h>
#include <stddef.h>

#include <hmm/hmm.h>

#define FINDINGS_MAX 24
#define REMEDIES_MAX 6

/**
 * enum finding_state - how it is
 * @FINDING_OK: as it should be, or of no importance here
 * @FINDING_NOTE: it works, but slower, or not for everybody or everything
 * @FINDING_MISSING: it does not work without
 */
enum finding_state { FINDING_OK, FINDING_NOTE, FINDING_MISSING };

/**
 * struct finding - one thing that was looked at
 * @name: what
 * @state: how it is
 * @value: what was found
 * @meaning: what that means
 * @remedy: commands that mend it, any one of them; "# ..." says who and where
 * @remedies: how many
 */
struct finding {
	const char *name;
	enum finding_state state;
	char value[48];
	char meaning[240];
	char remedy[REMEDIES_MAX][160];
	unsigned int remedies;
};

struct doctor {
	struct hmm_features features;
	struct finding finding[FINDINGS_MAX];
	unsigned int findings;
};

struct finding *finding_add(struct doctor *doctor, enum finding_state state, const char *name,
			    const char *value, ...) __attribute__((format(printf, 4, 5)));
void finding_means(struct finding *finding, const char *meaning, ...)
	__attribute__((format(printf, 2, 3)));
void finding_remedy(struct finding *finding, const char *command, ...)
	__attribute__((format(printf, 2, 3)));

/* The first word of a small file, or all of its line; false: it cannot be read. */
bool doctor_file(const char *path, char *buf, size_t size);

void doctor_kernel(struct doctor *doctor);
void doctor_limits(struct doctor *doctor);
void doctor_try(struct doctor *doctor);

#endif
