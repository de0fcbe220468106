/* SPDX-License-Identifier: MIT */
/* What the kernel has, and what of it this user gets. */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "doctor.h"

#define MOVE ((uint64_t)1 << 16) /* UFFD_FEATURE_MOVE */
#define POISON ((uint64_t)1 << 14)
#define MIRROR                                                                  \
	((uint64_t)(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_REMAP | \
		    UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP))

static const char *const sysctl_file = "/proc/sys/vm/unprivileged_userfaultfd";
static const char *const device_file = "/dev/userfaultfd";

static bool debian(const char *codename)
{
	FILE *file = fopen("/etc/os-release", "re");
	char line[200], want[80];
	bool found = false;

	snprintf(want, sizeof(want), "VERSION_CODENAME=%s", codename);
	while (file && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = 0;
		found |= !strcmp(line, want);
	}
	if (file)
		fclose(file);
	return found;
}

static void remedy_kernel(struct finding *finding)
{
	if (debian("bookworm")) {
		finding_remedy(finding, "# as root, with bookworm-backports among the sources, and "
					"restart:");
		finding_remedy(finding, "apt-get install -t bookworm-backports linux-image-amd64");
	} else {
		finding_remedy(finding, "# install Linux 6.8 or newer, and restart");
	}
}

static bool in_container(void)
{
	char buf[80];

	return !access("/.dockerenv", F_OK) || !access("/run/.containerenv", F_OK) ||
	       doctor_file("/run/systemd/container", buf, sizeof(buf));
}

/* How this user gets all of userfaultfd: any one of these. */
static void remedy_access(struct finding *finding)
{
	struct passwd *user = getpwuid(geteuid());

	if (in_container()) {
		finding_remedy(finding, "# start the container with one of:");
		finding_remedy(finding, "--device /dev/userfaultfd    (and make it readable and "
					"writable for the user)");
		finding_remedy(finding, "--cap-add SYS_PTRACE --security-opt seccomp=unconfined");
		return;
	}
	finding_remedy(finding, "# one of these, as root (the first is for everybody, until the "
				"next start):");
	finding_remedy(finding, "sysctl -w vm.unprivileged_userfaultfd=1");
	finding_remedy(finding, "echo vm.unprivileged_userfaultfd=1 >/etc/sysctl.d/60-hmm.conf && "
				"sysctl --system");
	if (!access(device_file, F_OK))
		finding_remedy(finding, "setfacl -m u:%s:rw %s    (until the next start)",
			       user ? user->pw_name : "USER", device_file);
}

static void check_kernel(struct doctor *doctor)
{
	unsigned int major = 0, minor = 0;
	struct finding *finding;
	struct utsname uts;
	bool new;

	uname(&uts);
	sscanf(uts.release, "%u.%u", &major, &minor);
	new = major > 6 || (major == 6 && minor >= 8) || doctor->features.can_migrate;
	finding = finding_add(doctor, new ? FINDING_OK : FINDING_MISSING, "kernel", "%u.%u", major,
			      minor);
	finding_means(finding,
		      new ? "6.8 or newer: memory can move" : "memory can move from Linux 6.8 on");
	if (!new)
		remedy_kernel(finding);
}

static void check_userfaultfd(struct doctor *doctor)
{
	const struct hmm_features *f = &doctor->features;
	struct finding *finding;

	if (f->uffd_features) {
		finding = finding_add(doctor, FINDING_OK, "userfaultfd", "there");
		finding_means(finding, "the kernel tells a program of its own page faults");
		return;
	}
	finding = finding_add(doctor, FINDING_MISSING, "userfaultfd", "%s",
			      f->error == -ENOSYS ? "not there" :
			      f->error == -EPERM  ? "refused" :
						    strerrorname_np(-f->error));
	finding_means(finding, "%s", f->reason);
	if (f->error == -EPERM || (f->error == -ENOSYS && in_container()))
		remedy_access(finding);
	else if (f->error == -ENOSYS)
		remedy_kernel(finding);
	else if (f->error == -EMFILE)
		finding_remedy(finding, "ulimit -n 1024");
}

static void check_feature(struct doctor *doctor, uint64_t need, const char *name, const char *means)
{
	uint64_t have = doctor->features.uffd_features;
	bool there = (have & need) == need;
	struct finding *finding;

	if (!have)
		return; /* the kernel could not be asked */
	finding = finding_add(doctor, there ? FINDING_OK : FINDING_MISSING, name, "%s",
			      there ? "there" : "not there");
	finding_means(finding, "%s", means);
	if (!there)
		remedy_kernel(finding);
}

static void check_speed(struct doctor *doctor, bool there, const char *name, const char *since)
{
	struct finding *finding;

	if (!doctor->features.can_mirror)
		return;
	finding = finding_add(doctor, there ? FINDING_OK : FINDING_NOTE, name, "%s",
			      there ? "there" : "not there");
	finding_means(finding, "for speed alone; from Linux %s on", since);
	if (!there)
		finding_remedy(finding, "# install Linux %s or newer, and restart", since);
}

/* The capabilities of this process, from /proc. */
static bool has_ptrace(void)
{
	FILE *file = fopen("/proc/self/status", "re");
	unsigned long long caps = 0;
	char line[200];

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, "CapEff:", 7))
			caps = strtoull(line + 7, NULL, 16);
	if (file)
		fclose(file);
	return caps >> 19 & 1; /* CAP_SYS_PTRACE */
}

static void check_privilege(struct doctor *doctor)
{
	const struct hmm_features *f = &doctor->features;
	struct finding *finding;

	if (!f->uffd_features)
		return;
	if (!f->user_mode_only) {
		finding = finding_add(doctor, FINDING_OK, "privilege", "%s",
				      has_ptrace() ? "CAP_SYS_PTRACE" : "enough");
		finding_means(finding, "system calls wait for memory that is on a device, as "
				       "programs do");
		return;
	}
	finding = finding_add(doctor, FINDING_MISSING, "privilege", "user faults only");
	finding_means(finding, "system calls on memory that is on a device would fail with EFAULT: "
			       "hmm run refuses, programs must accept it (hmm_set_user_mode())");
	remedy_access(finding);
}

static void check_ways(struct doctor *doctor)
{
	bool lacks = doctor->features.user_mode_only || !doctor->features.uffd_features;
	struct finding *finding;
	char value[16] = "";
	struct stat st;

	if (doctor_file(sysctl_file, value, sizeof(value))) {
		finding = finding_add(doctor, lacks ? FINDING_NOTE : FINDING_OK,
				      "vm.unprivileged_userfaultfd", "%s", value);
		finding_means(finding, !strcmp(value, "1") ?
					       "ordinary users get all of userfaultfd" :
					       "ordinary users get the faults of "
					       "programs, not those of system calls");
	}
	if (stat(device_file, &st)) {
		finding = finding_add(doctor, lacks ? FINDING_NOTE : FINDING_OK, device_file,
				      "not there");
		finding_means(finding, "another way to userfaultfd, where the kernel has it (6.1)");
		return;
	}
	finding = finding_add(doctor, lacks ? FINDING_NOTE : FINDING_OK, device_file, "mode %04o",
			      (unsigned int)st.st_mode & 07777);
	finding_means(finding, access(device_file, R_OK | W_OK) ?
				       "who can open it gets all of userfaultfd; this user cannot" :
				       "who can open it gets all of userfaultfd; this user can");
}

static void check_fork(struct doctor *doctor)
{
	struct finding *finding;

	if (!doctor->features.can_migrate)
		return;
	finding = finding_add(doctor, FINDING_OK, "fork event",
			      doctor->features.fork_event ? "there" : "not there");
	finding_means(finding, doctor->features.fork_event ?
				       "each fork is seen, however it is called" :
				       "fork() by libc is complete all the same; one by a bare "
				       "system call needs CAP_SYS_PTRACE");
}

static void check_sandbox(struct doctor *doctor)
{
	FILE *file = fopen("/proc/self/status", "re");
	struct finding *finding;
	bool filtered = false;
	char line[200];

	while (file && fgets(line, sizeof(line), file))
		filtered |= !strncmp(line, "Seccomp:", 8) && atoi(line + 8) == 2;
	if (file)
		fclose(file);
	if (!filtered && !in_container())
		return;
	finding = finding_add(doctor, doctor->features.can_migrate ? FINDING_OK : FINDING_NOTE,
			      "sandbox", "%s%s%s", in_container() ? "container" : "",
			      in_container() && filtered ? ", " : "", filtered ? "seccomp" : "");
	finding_means(finding, doctor->features.can_migrate ? "does not stand in the way" :
							      "may be what forbids userfaultfd");
}

void doctor_kernel(struct doctor *doctor)
{
	check_kernel(doctor);
	check_userfaultfd(doctor);
	check_feature(doctor, MIRROR, "events", "what the program does to its memory is told");
	check_feature(doctor, MOVE | POISON, "UFFDIO_MOVE", "pages can be taken out and put back");
	check_speed(doctor, doctor->features.pagemap_scan, "PAGEMAP_SCAN", "6.7");
	check_speed(doctor, doctor->features.procmap_query, "PROCMAP_QUERY", "6.11");
	check_privilege(doctor);
	check_ways(doctor);
	check_fork(doctor);
	check_sandbox(doctor);
}
