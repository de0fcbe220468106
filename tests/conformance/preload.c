/* SPDX-License-Identifier: MIT */
/*
 * The program's calls: open, openat, close, ioctl and mmap, for the files that are ours.
 *
 * A file of ours has a real descriptor, of an empty memfd, so that the number is taken and
 * nothing else gets it. Which numbers are ours is in a table. A number that the program
 * gave to something else behind our back (dup2(), close_range()) is told by the memfd's
 * inode, and then belongs to that. So what is not ours passes through untouched; the look
 * at the table takes no lock, for libhmm's own calls come by here too, while a device is
 * being made and lock is held.
 *
 * dup() is not seen: a copy is an empty file. A child has its parent's descriptors, but not
 * its devices, since a mirror belongs to a process: there they are empty files as well.
 * owner is whose the table is; in the child of a vfork(), which has its parent's memory, it
 * is another's.
 */
#undef _FILE_OFFSET_BITS /* would make one of open() and open64() */
#undef _FORTIFY_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shim.h"

#define FILES 64

/* What programs that were built with _FORTIFY_SOURCE call. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/**
 * struct file - a descriptor of ours
 * @fd: its number; -1: none. Read without the lock
 * @kind: how it behaves
 * @state: of @kind
 * @dev: with @ino, of the memfd
 * @ino: see @dev; both are written before @fd
 * @users: calls under way, and one for the descriptor; 0: the entry is free
 */
struct file {
	int fd;
	const struct shim_file *kind;
	void *state;
	dev_t dev;
	ino_t ino;
	unsigned int users;
};

static struct file files[FILES] = { [0 ... FILES - 1] = { .fd = -1 } };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pid_t owner;

/*
 * What the program would have called. Found when we are loaded: libhmm's threads come by
 * here while they answer a fault, and must not wait for the dynamic linker then.
 */
static struct {
	bool found;
	__typeof__(&open) open, open64;
	__typeof__(&openat) openat, openat64;
	__typeof__(&__open_2) open_2, open64_2;
	__typeof__(&close) close;
	__typeof__(&ioctl) ioctl;
	__typeof__(&mmap) mmap;
	__typeof__(&mmap64) mmap64;
} real;

static void real_find(void)
{
	real.open = dlsym(RTLD_NEXT, "open");
	real.open64 = dlsym(RTLD_NEXT, "open64");
	real.openat = dlsym(RTLD_NEXT, "openat");
	real.openat64 = dlsym(RTLD_NEXT, "openat64");
	real.open_2 = dlsym(RTLD_NEXT, "__open_2");
	real.open64_2 = dlsym(RTLD_NEXT, "__open64_2");
	real.close = dlsym(RTLD_NEXT, "close");
	real.ioctl = dlsym(RTLD_NEXT, "ioctl");
	real.mmap = dlsym(RTLD_NEXT, "mmap");
	real.mmap64 = dlsym(RTLD_NEXT, "mmap64");
	real.found = true;
}

/* Another library's constructor may come before ours. */
#define REAL(name) (*(real.found ? (void)0 : real_find(), real.name))

/* ---- memory of the program ---- */

static int copy(struct iovec *here, struct iovec *there, bool write)
{
	pid_t self = getpid();
	ssize_t n;

	n = write ? process_vm_writev(self, here, 1, there, 1, 0) :
		    process_vm_readv(self, here, 1, there, 1, 0);
	return n == (ssize_t)there->iov_len ? 0 : -EFAULT;
}

int shim_read(void *to, uint64_t from, size_t len)
{
	struct iovec here = { to, len }, there = { (void *)from, len };

	return copy(&here, &there, false);
}

int shim_write(uint64_t to, const void *from, size_t len)
{
	struct iovec here = { (void *)from, len }, there = { (void *)to, len };

	return copy(&here, &there, true);
}

/* ---- the table ---- */

/* Is @fd ours? Without the lock: another thread may close it at any time, as ever. */
static struct file *file_look(int fd)
{
	struct stat st;
	unsigned int i;

	if (fd < 0)
		return NULL;
	for (i = 0; i < FILES; i++) {
		struct file *file = &files[i];

		if (__atomic_load_n(&file->fd, __ATOMIC_ACQUIRE) != fd)
			continue;
		if (getpid() == owner && !fstat(fd, &st) && st.st_dev == file->dev &&
		    st.st_ino == file->ino)
			return file;
	}
	return NULL;
}

/* Nothing of @file changes until file_put(). */
static struct file *file_get(int fd)
{
	struct file *file = file_look(fd);

	if (!file)
		return NULL;
	pthread_mutex_lock(&lock);
	if (file->fd == fd)
		file->users++;
	else
		file = NULL;
	pthread_mutex_unlock(&lock);
	return file;
}

static int file_put(struct file *file)
{
	struct file last = { .users = 0 };

	pthread_mutex_lock(&lock);
	if (file->users == 1)
		last = *file;
	else
		file->users--;
	pthread_mutex_unlock(&lock);
	if (!last.users)
		return 0;
	file->users = 0; /* ours alone until here */
	return last.kind->release(last.state);
}

/* A place for a new one. What was closed behind our back is released first. */
static struct file *file_new(void)
{
	struct file *file = NULL;
	unsigned int i;

	for (i = 0; i < FILES; i++) {
		int fd = __atomic_load_n(&files[i].fd, __ATOMIC_ACQUIRE);

		if (fd >= 0 && !file_look(fd) &&
		    __atomic_compare_exchange_n(&files[i].fd, &fd, -1, false, __ATOMIC_ACQ_REL,
						__ATOMIC_RELAXED))
			file_put(&files[i]);
	}
	pthread_mutex_lock(&lock);
	for (i = 0; i < FILES && !file; i++)
		if (!files[i].users)
			file = &files[i];
	if (file)
		file->users = 1;
	pthread_mutex_unlock(&lock);
	return file;
}

static void forget(void)
{
	unsigned int i;

	pthread_mutex_init(&lock, NULL);
	owner = getpid();
	for (i = 0; i < FILES; i++)
		files[i] = (struct file){ .fd = -1 };
	dmirror_file.forget();
}

__attribute__((constructor)) static void loaded(void)
{
	real_find();
	owner = getpid();
	pthread_atfork(NULL, NULL, forget);
}

/* ---- open ---- */

#define DMIRROR "/dev/hmm_dmirror"
#define GUP_TEST "/sys/kernel/debug/gup_test"

/* Those of device-coherent memory, 2 and 3, are not there: see docs/conformance.md. */
static const struct shim_file *path_kind(const char *path, unsigned int *number)
{
	const char *digit = path + sizeof(DMIRROR) - 1;

	*number = 0;
	if (!strcmp(path, GUP_TEST))
		return &gup_file;
	if (digit[0] < '0' || digit[0] > '1' || digit[1])
		return NULL;
	*number = (unsigned int)(digit[0] - '0');
	return &dmirror_file;
}

/* A machine may have the one; that it has the other too must make no difference. */
static bool path_ours(const char *path)
{
	if (!path || path[0] != '/')
		return false;
	return !strncmp(path, DMIRROR, sizeof(DMIRROR) - 1) ||
	       (!strcmp(path, GUP_TEST) && access(path, R_OK | W_OK));
}

static int file_init(struct file *file, const struct shim_file *kind, int fd, unsigned int number)
{
	struct stat st;
	int ret;

	if (fstat(fd, &st))
		return -errno;
	ret = kind->open(number, &file->state);
	if (ret)
		return ret;
	file->kind = kind;
	file->dev = st.st_dev;
	file->ino = st.st_ino;
	__atomic_store_n(&file->fd, fd, __ATOMIC_RELEASE);
	return 0;
}

static int file_make(const struct shim_file *kind, int fd, unsigned int number)
{
	struct file *file = getpid() == owner ? file_new() : NULL;
	int ret;

	if (!file)
		return -ENFILE;
	ret = file_init(file, kind, fd, number);
	if (ret)
		file->users = 0;
	return ret;
}

static int shim_open(const char *path, int flags)
{
	unsigned int number;
	const struct shim_file *kind = path_kind(path, &number);
	int fd = -1, ret = -ENOENT;

	if (kind)
		fd = memfd_create("shim", flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
	if (kind)
		ret = fd < 0 ? -errno : file_make(kind, fd, number);
	if (!ret)
		return fd;
	if (fd >= 0)
		REAL(close)(fd);
	errno = -ret;
	return -1;
}

/* Only then is there a third argument. */
static bool needs_mode(int flags)
{
	return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;
}

#define MODE(flags)                                  \
	({                                           \
		mode_t mode_ = 0;                    \
		if (needs_mode(flags)) {             \
			va_list ap_;                 \
			va_start(ap_, flags);        \
			mode_ = va_arg(ap_, mode_t); \
			va_end(ap_);                 \
		}                                    \
		mode_;                               \
	})

int open(const char *path, int flags, ...)
{
	if (path_ours(path))
		return shim_open(path, flags);
	return REAL(open)(path, flags, MODE(flags));
}

int open64(const char *path, int flags, ...)
{
	if (path_ours(path))
		return shim_open(path, flags);
	return REAL(open64)(path, flags, MODE(flags));
}

int openat(int dir, const char *path, int flags, ...)
{
	if (path_ours(path))
		return shim_open(path, flags);
	return REAL(openat)(dir, path, flags, MODE(flags));
}

int openat64(int dir, const char *path, int flags, ...)
{
	if (path_ours(path))
		return shim_open(path, flags);
	return REAL(openat64)(dir, path, flags, MODE(flags));
}

int __open_2(const char *path, int flags)
{
	return path_ours(path) ? shim_open(path, flags) : REAL(open_2)(path, flags);
}

int __open64_2(const char *path, int flags)
{
	return path_ours(path) ? shim_open(path, flags) : REAL(open64_2)(path, flags);
}

/* ---- the others ---- */

int close(int fd)
{
	struct file *file = file_get(fd);
	int ret, err = 0;

	if (!file)
		return REAL(close)(fd);
	pthread_mutex_lock(&lock);
	if (file->fd == fd) {
		__atomic_store_n(&file->fd, -1, __ATOMIC_RELEASE);
		file->users--; /* the descriptor's */
	}
	pthread_mutex_unlock(&lock);
	ret = REAL(close)(fd);
	err = file_put(file);
	if (ret || !err)
		return ret;
	errno = -err;
	return -1;
}

int ioctl(int fd, unsigned long request, ...)
{
	struct file *file = NULL;
	va_list ap;
	void *arg;
	int ret;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (_IOC_TYPE(request) == 'H' || _IOC_TYPE(request) == 'g') /* of our files */
		file = file_get(fd);
	if (!file)
		return REAL(ioctl)(fd, request, arg);
	/* The kernel takes 32 bits of it, and programs have it in an int. */
	ret = file->kind->ioctl(file->state, (unsigned int)request, arg);
	file_put(file);
	if (!ret)
		return 0;
	errno = -ret;
	return -1;
}

/* Pages of zeros, there at once, which belong to the file: a private one copies on write. */
static void *map_zeros(void *addr, size_t len, int prot, int flags)
{
	int fd = memfd_create("shim-map", MFD_CLOEXEC);
	void *mem = MAP_FAILED;
	int err;

	if (fd < 0)
		return mem;
	if (!ftruncate(fd, (off_t)len))
		mem = REAL(mmap)(addr, len, prot, flags, fd, 0);
	err = errno;
	if (mem != MAP_FAILED)
		madvise(mem, len, MADV_POPULATE_READ);
	REAL(close)(fd);
	errno = err;
	return mem;
}

static bool maps_ours(int flags, int fd)
{
	struct file *file = flags & MAP_ANONYMOUS ? NULL : file_look(fd);

	return file && file->kind->mapped;
}

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	if (maps_ours(flags, fd))
		return map_zeros(addr, len, prot, flags);
	return REAL(mmap)(addr, len, prot, flags, fd, offset);
}

void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t offset)
{
	if (maps_ours(flags, fd))
		return map_zeros(addr, len, prot, flags);
	return REAL(mmap64)(addr, len, prot, flags, fd, offset);
}
