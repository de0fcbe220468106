/* SPDX-License-Identifier: MIT */
/*
 * What the kernel gives: asked once at start, by trying.
 *
 * Ways to a userfaultfd, best first: the system call; /dev/userfaultfd, which an
 * administrator can open to a group; UFFD_USER_MODE_ONLY, which everybody gets
 * and with which system calls on migrated memory fail. Source: userfaultfd(2),
 * Documentation/admin-guide/mm/userfaultfd.rst.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mm/mm.h"
#include "mm/uapi.h"

#define NEED_MIRROR                                                                              \
	(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | \
	 UFFD_FEATURE_EVENT_UNMAP)
#define NEED_MIGRATE ((__u64)UFFD_FEATURE_MOVE | UFFD_FEATURE_POISON)
#define WANT                                                                \
	(NEED_MIRROR | NEED_MIGRATE | UFFD_FEATURE_MISSING_SHMEM |          \
	 UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | \
	 UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_THREAD_ID)

#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif

static int uffd_syscall(int flags)
{
	long fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);

	return fd < 0 ? -errno : (int)fd;
}

static int uffd_device(void)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd;

	if (dev < 0)
		return -errno;
	fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		fd = -errno;
	close(dev);
	return fd;
}

static int uffd_open(bool *user_mode_only)
{
	int first, fd;

	*user_mode_only = false;
	first = uffd_syscall(0);
	if (first >= 0 || first == -ENOSYS || first == -EMFILE || first == -ENFILE)
		return first;
	fd = uffd_device();
	if (fd >= 0)
		return fd;
	fd = uffd_syscall(UFFD_USER_MODE_ONLY);
	if (fd < 0)
		return first;
	*user_mode_only = true;
	return fd;
}

static int uffd_handshake(int fd, __u64 want, __u64 *have)
{
	struct uffdio_api api = { .api = UFFD_API, .features = want };

	if (ioctl(fd, UFFDIO_API, &api))
		return -errno;
	*have = api.features;
	return 0;
}

/* What is offered is told by a handshake, and a descriptor takes only one. */
static int uffd_features(__u64 *have)
{
	bool user_mode_only;
	int ret, fd = uffd_open(&user_mode_only);

	if (fd < 0)
		return fd;
	ret = uffd_handshake(fd, 0, have);
	close(fd);
	return ret;
}

static void features_explain(struct hmm_features *f, int error, const char *reason)
{
	f->error = error;
	snprintf(f->reason, sizeof(f->reason), "%s", reason);
}

static void features_refused(struct hmm_features *f, int error)
{
	switch (error) {
	case -ENOSYS:
		features_explain(f, -ENOSYS,
				 "this kernel has no userfaultfd (CONFIG_USERFAULTFD), or a "
				 "sandbox forbids it: use Linux 6.8 or newer, or allow the system "
				 "call");
		break;
	case -EMFILE:
	case -ENFILE:
		features_explain(f, error, "no file descriptor left: raise ulimit -n");
		break;
	case -ENOMEM:
		features_explain(f, error, "no memory for a userfaultfd");
		break;
	default:
		features_explain(f, -EPERM,
				 "userfaultfd is refused: run as root or with CAP_SYS_PTRACE, or "
				 "set sysctl vm.unprivileged_userfaultfd=1, or make "
				 "/dev/userfaultfd readable for this user; in a container also "
				 "allow the system call in its seccomp profile");
	}
}

static void features_judge(struct hmm_features *f)
{
	if ((f->uffd_features & NEED_MIRROR) != NEED_MIRROR) {
		features_explain(f, -EOPNOTSUPP,
				 "this kernel's userfaultfd lacks events or write protection: use "
				 "Linux 6.8 or newer");
		return;
	}
	f->can_mirror = true;
	if ((f->uffd_features & NEED_MIGRATE) != NEED_MIGRATE) {
		features_explain(f, -EOPNOTSUPP,
				 "this kernel's userfaultfd has no UFFDIO_MOVE: use Linux 6.8 or "
				 "newer (Debian 12: linux-image-amd64 from bookworm-backports)");
		return;
	}
	f->can_migrate = true;
	if (f->user_mode_only)
		snprintf(f->reason, sizeof(f->reason),
			 "only UFFD_USER_MODE_ONLY is allowed: system calls on migrated memory "
			 "would fail with EFAULT. To lift that, set sysctl "
			 "vm.unprivileged_userfaultfd=1, or make /dev/userfaultfd readable for "
			 "this user, or give the program CAP_SYS_PTRACE. To accept it, call "
			 "hmm_set_user_mode(true)");
}

static bool probe_scan(int pagemap)
{
	struct pm_scan_arg arg = { .size = sizeof(arg),
				   .category_anyof_mask = PAGE_IS_PRESENT,
				   .return_mask = PAGE_IS_PRESENT };
	struct page_region region;

	arg.start = page_round_down((unsigned long)&arg);
	arg.end = arg.start + hmm_page_size();
	arg.vec = (unsigned long)&region;
	arg.vec_len = 1;
	return ioctl(pagemap, PAGEMAP_SCAN, &arg) == 1;
}

static bool probe_procmap(int maps)
{
	struct procmap_query query = {
		.size = sizeof(query),
		.query_addr = (unsigned long)&query,
		.query_flags = MM_PROCMAP_QUERY_COVERING_OR_NEXT_VMA,
	};

	return ioctl(maps, PROCMAP_QUERY, &query) == 0;
}

static int open_proc(struct mm *mm, struct hmm_features *f)
{
	mm->pagemap = hmm_fd_keep(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
	mm->maps = hmm_fd_keep(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
	if (mm->pagemap < 0 || mm->maps < 0) {
		bool full = errno == EMFILE || errno == ENFILE;

		f->can_mirror = f->can_migrate = false;
		features_explain(f, full ? -errno : -EOPNOTSUPP,
				 full ? "no file descriptor left: raise ulimit -n" :
					"/proc/self/pagemap or maps cannot be opened: mount /proc, "
					"and keep the process dumpable");
		return f->error;
	}
	mm->tasks = hmm_fd_keep(open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	mm->pagemap_scan = f->pagemap_scan = probe_scan(mm->pagemap);
	mm->procmap_query = f->procmap_query = probe_procmap(mm->maps);
	return 0;
}

/*
 * EVENT_FORK needs CAP_SYS_PTRACE whatever else is allowed: without it the
 * handshake fails with EPERM, and a descriptor whose handshake failed can be
 * asked again.
 */
static int open_uffd(struct mm *mm, struct hmm_features *f)
{
	__u64 have = 0, want;
	int ret = uffd_features(&have);

	if (ret) {
		features_refused(f, ret);
		return f->error;
	}
	f->uffd_features = have;
	ret = uffd_open(&f->user_mode_only);
	if (ret < 0) {
		features_refused(f, ret);
		return f->error;
	}
	mm->uffd = hmm_fd_keep(ret);
	mm->user_mode_only = f->user_mode_only;
	mm->probe = hmm_fd_keep(uffd_open(&f->user_mode_only));
	ret = mm->probe < 0 ? mm->probe : uffd_handshake(mm->probe, 0, &want);
	if (ret) {
		features_refused(f, ret);
		return f->error;
	}
	features_judge(f);
	want = have & WANT;
	mm->fork_event = !uffd_handshake(mm->uffd, want | UFFD_FEATURE_EVENT_FORK, &have);
	f->fork_event = mm->fork_event;
	if (!mm->fork_event && uffd_handshake(mm->uffd, want, &have)) {
		features_refused(f, -errno);
		return f->error;
	}
	return f->can_mirror ? 0 : f->error;
}

int features_open(struct mm *mm, struct hmm_features *f)
{
	int ret;

	mm->uffd = mm->probe = mm->pagemap = mm->maps = mm->tasks = mm->spare_fd = -1;
	mm->tasks_used = false;
	ret = open_uffd(mm, f);
	if (!ret)
		ret = open_proc(mm, f);
	if (ret)
		mm_forget(mm);
	return ret;
}

static void fd_drop(int *fd)
{
	hmm_fd_close(*fd);
	*fd = -1;
}

void mm_forget(struct mm *mm)
{
	fd_drop(&mm->uffd);
	fd_drop(&mm->probe);
	fd_drop(&mm->pagemap);
	fd_drop(&mm->maps);
	fd_drop(&mm->tasks);
	fd_drop(&mm->spare_fd);
}

int mm_init(struct mm *mm)
{
	struct hmm_features features = { .size = sizeof(features) };
	pthread_rwlockattr_t attr;
	int ret = features_open(mm, &features);

	if (ret) {
		log_err("cannot mirror: %s", features.reason);
		return ret;
	}
	/* The monitor must get in, however many ioctls are on their way. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&mm->gate, &attr);
	pthread_rwlockattr_destroy(&attr);
	mm->spare_fd = hmm_fd_keep(open("/dev/null", O_RDONLY | O_CLOEXEC));
	if (features.can_migrate) {
		ret = staging_init(mm);
		if (ret)
			mm_forget(mm);
	}
	return ret;
}

/* Closing the descriptor unregisters all, and wakes whoever waits for it. */
void mm_exit(struct mm *mm)
{
	mm_forget(mm);
	staging_exit(mm);
	pthread_rwlock_destroy(&mm->gate);
}

HMM_API int hmm_probe(struct hmm_features *features)
{
	struct hmm_features f = { .size = sizeof(f) };
	uint32_t size = features->size;
	struct mm mm;

	if (!size || size > sizeof(f))
		return -EINVAL;
	if (!features_open(&mm, &f))
		mm_forget(&mm);
	f.size = size;
	memcpy(features, &f, size);
	return 0;
}
