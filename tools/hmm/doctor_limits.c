/* SPDX-License-Identifier: MIT */
/* Settings of the system, and limits of the process. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "doctor.h"
#include "hmm.h"
#include "text.h"

#define GIB (1ull << 30)

static uint64_t number(const char *path)
{
	char buf[64];

	return doctor_file(path, buf, sizeof(buf)) ? strtoull(buf, NULL, 10) : 0;
}

/* Of /proc/meminfo, bytes. */
static uint64_t meminfo(const char *name)
{
	FILE *file = fopen("/proc/meminfo", "re");
	size_t len = strlen(name);
	uint64_t kib = 0;
	char line[160];

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, len) && line[len] == ':')
			kib = strtoull(line + len + 1, NULL, 10);
	if (file)
		fclose(file);
	return kib << 10;
}

/* Each 2 MiB that a device uses may become a mapping of its own. */
static void check_maps(struct doctor *doctor)
{
	uint64_t maps = number("/proc/sys/vm/max_map_count"), memory = meminfo("MemTotal");
	struct finding *finding;
	char size[TEXT_NUMBER];
	bool enough;

	if (!maps)
		return;
	enough = maps << 21 >= 2 * memory;
	finding = finding_add(doctor, enough ? FINDING_OK : FINDING_NOTE, "vm.max_map_count",
			      "%llu", (unsigned long long)maps);
	finding_means(finding, "each 2 MiB on a device may take a mapping: enough for %s at least",
		      text_size(size, maps << 21));
	if (enough)
		return;
	finding_remedy(finding, "# as root:");
	finding_remedy(finding, "sysctl -w vm.max_map_count=%llu",
		       (unsigned long long)((2 * memory >> 21) + 65536));
}

static void check_huge(struct doctor *doctor)
{
	char buf[80], *mode;
	struct finding *finding;
	bool never;

	if (!doctor_file("/sys/kernel/mm/transparent_hugepage/enabled", buf, sizeof(buf)))
		return;
	mode = strchr(buf, '[');
	if (!mode)
		return;
	mode++;
	mode[strcspn(mode, "]")] = 0;
	never = !strcmp(mode, "never");
	finding = finding_add(doctor, never ? FINDING_NOTE : FINDING_OK, "huge pages", "%s", mode);
	finding_means(finding, never ? "2 MiB pages move several times as fast as small ones" :
			       !strcmp(mode, "always") ?
				       "programs get them; they move as a whole" :
				       "for programs that ask (madvise); they move as a "
				       "whole");
	if (!never)
		return;
	finding_remedy(finding, "# as root:");
	finding_remedy(finding, "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled");
}

static void check_overcommit(struct doctor *doctor)
{
	uint64_t limit = meminfo("CommitLimit"), used = meminfo("Committed_AS");
	uint64_t mode = number("/proc/sys/vm/overcommit_memory");
	struct finding *finding;
	char left[TEXT_NUMBER];

	if (mode != 2) {
		finding = finding_add(doctor, FINDING_OK, "vm.overcommit_memory", "%llu",
				      (unsigned long long)mode);
		finding_means(finding, "address space that libhmm reserves costs nothing");
		return;
	}
	finding = finding_add(doctor, FINDING_NOTE, "vm.overcommit_memory", "2");
	finding_means(finding,
		      "address space counts as memory: %s are left, and libhmm reserves "
		      "1.3G in each process",
		      text_size(left, limit > used ? limit - used : 0));
	finding_remedy(finding, "# as root:");
	finding_remedy(finding, "sysctl -w vm.overcommit_memory=0");
}

static uint64_t limit_of(int which)
{
	struct rlimit limit = { .rlim_cur = RLIM_INFINITY };

	getrlimit((__rlimit_resource_t)which, &limit);
	return limit.rlim_cur;
}

static void check_memlock(struct doctor *doctor)
{
	uint64_t limit = limit_of(RLIMIT_MEMLOCK);
	struct finding *finding;
	char size[TEXT_NUMBER];

	finding = finding_add(doctor, FINDING_OK, "locked memory (-l)", "%s",
			      limit == RLIM_INFINITY ? "unlimited" : text_size(size, limit));
	finding_means(finding, "pages that a program locks (mlock) stay where they are");
}

static void check_address_space(struct doctor *doctor)
{
	uint64_t limit = limit_of(RLIMIT_AS);
	struct finding *finding;
	char size[TEXT_NUMBER];
	bool low = limit != RLIM_INFINITY && limit < 4 * GIB;

	finding = finding_add(doctor, low ? FINDING_NOTE : FINDING_OK, "address space (-v)", "%s",
			      limit == RLIM_INFINITY ? "unlimited" : text_size(size, limit));
	finding_means(finding, "libhmm reserves 1.3G in each process, and what is on a device "
			       "counts too");
	if (low)
		finding_remedy(finding, "ulimit -v unlimited");
}

static void check_files(struct doctor *doctor)
{
	uint64_t limit = limit_of(RLIMIT_NOFILE);
	bool low = limit < 64;
	struct finding *finding;

	finding = finding_add(doctor, low ? FINDING_NOTE : FINDING_OK, "open files (-n)", "%llu",
			      (unsigned long long)limit);
	finding_means(finding, "libhmm needs six of each process");
	if (low)
		finding_remedy(finding, "ulimit -n 1024");
}

static void check_library(struct doctor *doctor)
{
	static const char *const name[] = { "libhmm-run.so", "libhmm.so." HMM_SOVERSION };
	static const char *const built[] = { "run", "src" };
	struct finding *finding;
	char path[PATH_MAX];
	unsigned int i;

	for (i = 0; i < 2; i++) {
		if (hmm_library(path, name[i], built[i]))
			continue;
		finding = finding_add(doctor, FINDING_MISSING, name[i], "not found");
		finding_means(finding, "hmm run puts it into the program; it belongs into %s",
			      HMM_LIBDIR);
		finding_remedy(finding, "# in libhmm's source, with the prefix that this hmm has:");
		finding_remedy(finding, "make install PREFIX=%s", HMM_PREFIX);
		return;
	}
	if (strpbrk(path, " :")) {
		finding = finding_add(doctor, FINDING_MISSING, name[0], "not usable");
		finding_means(finding, "no path with a space or a colon can be preloaded: %s",
			      path);
		finding_remedy(finding, "# move it to another folder");
		return;
	}
	finding = finding_add(doctor, FINDING_OK, name[0], "found");
	finding_means(finding, "hmm run puts it into the program");
}

void doctor_limits(struct doctor *doctor)
{
	check_library(doctor);
	check_maps(doctor);
	check_huge(doctor);
	check_overcommit(doctor);
	check_memlock(doctor);
	check_address_space(doctor);
	check_files(doctor);
}
