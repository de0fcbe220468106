/* SPDX-License-Identifier: MIT */
/*
 * One migration there and back, for what counts is that it works. In a child: whatever
 * happens to that, the doctor lives to tell of it.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device.h"
#include "doctor.h"
#include "memory.h"
#include "text.h"

#define BYTES ((size_t)16 << 20)
#define FAULTS 128
#define SECONDS 20

/**
 * struct trial - how it went; in memory that the child shares
 * @step: what it did last
 * @error: negative errno, or 0
 * @done: all went well
 * @to_ns: BYTES to the device
 * @fault_ns: one page back by a fault, median
 * @back_ns: what was left of BYTES back in one call
 */
struct trial {
	const char *step;
	int error;
	bool done;
	double to_ns;
	double fault_ns;
	double back_ns;
};

static bool fail(struct trial *trial, const char *step, int error)
{
	trial->step = step;
	trial->error = error;
	return false;
}

static bool faults(struct trial *trial, const char *range, const char *expect)
{
	size_t step = BYTES / FAULTS, i;
	static double ns[FAULTS];

	trial->step = "the CPU touched what was there";
	for (i = 0; i < FAULTS; i++) {
		const volatile char *at = range + i * step;
		uint64_t t0 = text_now();
		char got = *at;

		ns[i] = (double)(text_now() - t0);
		if (got != expect[i * step])
			return fail(trial, "a page came back with wrong content", 0);
	}
	trial->fault_ns = memory_percentile(ns, FAULTS, 0.5);
	return true;
}

static bool there_and_back(struct trial *trial, void *dev, char *range, char *expect)
{
	uint64_t start = (uintptr_t)range, t0;
	unsigned long pages = 0;
	int ret;

	trial->step = "memory was to go to the device";
	t0 = text_now();
	ret = tool_dummy.migrate(dev, start, start + BYTES, &pages);
	trial->to_ns = (double)(text_now() - t0);
	if (ret || pages != BYTES / hmm_page_size() || !memory_where(range, BYTES, true))
		return fail(trial, trial->step, ret);
	if (!faults(trial, range, expect))
		return false;
	trial->step = "memory was to come back";
	t0 = text_now();
	ret = tool_dummy.evict(dev, start, start + BYTES, &pages);
	trial->back_ns = (double)(text_now() - t0);
	if (ret || !memory_where(range, BYTES, false))
		return fail(trial, trial->step, ret);
	if (memcmp(range, expect, BYTES))
		return fail(trial, "memory came back with wrong content", 0);
	return true;
}

static void child(struct trial *trial, bool user_mode)
{
	char *range = memory_map(BYTES, false), *expect = memory_map(BYTES, false);
	void *dev;
	int ret;

	hmm_set_log(HMM_LOG_NONE, NULL);
	hmm_set_user_mode(user_mode);
	if (!range || !expect) {
		fail(trial, "memory for a trial was asked for", -errno);
		return;
	}
	memory_fill(range, BYTES, 1);
	memory_fill(expect, BYTES, 1);
	trial->step = "a device was made";
	ret = tool_dummy.create(&dev, BYTES);
	if (ret) {
		fail(trial, trial->step, ret);
		return;
	}
	if (!there_and_back(trial, dev, range, expect))
		return;
	trial->step = "the device was to end";
	ret = tool_dummy.destroy(dev);
	if (ret)
		fail(trial, trial->step, ret);
	else
		trial->done = true;
}

static void report(struct doctor *doctor, const struct trial *trial, int status)
{
	char to[TEXT_NUMBER], fault[TEXT_NUMBER], back[TEXT_NUMBER];
	struct finding *finding;

	if (trial->done) {
		finding = finding_add(doctor, FINDING_OK, "migration", "works");
		finding_means(finding,
			      "16M to the device in %s, a fault back in %s, the rest in "
			      "%s; content right",
			      text_time(to, trial->to_ns), text_time(fault, trial->fault_ns),
			      text_time(back, trial->back_ns));
		return;
	}
	finding = finding_add(doctor, FINDING_MISSING, "migration", "fails");
	if (WIFSIGNALED(status))
		finding_means(finding, "%s, and then: %s", trial->step ? trial->step : "it began",
			      WTERMSIG(status) == SIGALRM ? "nothing for 20 seconds" :
							    strsignal(WTERMSIG(status)));
	else
		finding_means(finding, "%s: %s", trial->step ? trial->step : "it began",
			      trial->error ? strerror(-trial->error) : "not so");
	finding_remedy(finding, "# what is missing above explains it; if nothing is, please report "
				"it as a bug");
}

void doctor_try(struct doctor *doctor)
{
	struct finding *finding;
	struct trial *trial;
	int status = 0;
	pid_t pid;

	if (!doctor->features.can_migrate) {
		finding = finding_add(doctor, FINDING_MISSING, "migration", "not tried");
		finding_means(finding, "memory cannot move here: see above");
		return;
	}
	trial = mmap(NULL, sizeof(*trial), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	if (trial == MAP_FAILED)
		return;
	pid = fork();
	if (!pid) {
		alarm(SECONDS);
		child(trial, doctor->features.user_mode_only);
		_exit(0);
	}
	if (pid < 0)
		fail(trial, "a process was to be made", -errno);
	else
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	report(doctor, trial, status);
	munmap(trial, sizeof(*trial));
}
