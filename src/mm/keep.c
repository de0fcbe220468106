/* SPDX-License-Identifier: MIT */
/*
 * What is never migrated, whatever range is asked for.
 *
 *  - The arena.
 *  - The writable segments of shared objects: libc, libhmm and drivers keep their
 *    state there. (Only .bss could move at all.) Where libhmm is linked into the
 *    program itself, the program's too.
 *  - Stacks: the main one by its name; a thread's by where its descriptor is. The
 *    descriptor is found by get_robust_list(2), which tells for every thread an
 *    address within its struct pthread. The kernel writes there on its own (rseq,
 *    clear_child_tid), and at thread exit it does not wait for a fault: the
 *    joiner would hang.
 *  - Robust mutexes that somebody holds: the kernel marks them when their owner ends, and
 *    does not wait for a fault there either.
 *  - What the caller's own stack and thread variables need while it migrates,
 *    wherever they are.
 *  - Pages that hold a registered struct hmm_device or hmm_mirror. (The core adds
 *    those of struct hmm_devmem.)
 *
 * A set is made for one call of hmm_mirror_fault() and used while it migrates. A
 * thread that starts meanwhile has its descriptor written from user space, which
 * brings the page back, before the kernel ever looks at it.
 */
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "mm/mm.h"

/*
 * Around struct pthread: static TLS below it, as much as the objects say and what their
 * alignment can take, the rest of the struct above. No more than that: the program's memory
 * may begin there.
 */
#define TLS_SLACK 1024
#define DESCRIPTOR_ABOVE 4096
/* Around the caller's stack pointer, while it is in libhmm and in the driver. */
#define CALLER_BELOW (256ul << 10)
#define CALLER_ABOVE (32ul << 10)
/* A descriptor this near to the end of its mapping: a stack that glibc made. */
#define STACK_TOP (128ul << 10)
#define KEEP_STRUCTS 256
#define ROBUST_MAX 2048 /* as the kernel */

static __thread char own_tls; /* lies among the thread variables of libhmm */
static HMM_DATA pthread_mutex_t structs_lock = PTHREAD_MUTEX_INITIALIZER;
static HMM_DATA struct span structs[KEEP_STRUCTS];

int keep_struct(const void *ptr, size_t size)
{
	unsigned long addr = (unsigned long)ptr;
	int i, ret = -ENOSPC;

	pthread_mutex_lock(&structs_lock);
	for (i = 0; i < KEEP_STRUCTS && ret; i++) {
		if (structs[i].end)
			continue;
		structs[i].start = addr;
		structs[i].end = addr + size;
		ret = 0;
	}
	pthread_mutex_unlock(&structs_lock);
	return ret;
}

void keep_forget(const void *ptr)
{
	int i;

	pthread_mutex_lock(&structs_lock);
	for (i = 0; i < KEEP_STRUCTS; i++)
		if (structs[i].end && structs[i].start == (unsigned long)ptr)
			structs[i] = (struct span){ 0 };
	pthread_mutex_unlock(&structs_lock);
}

/* In a child. */
void keep_forget_all(void)
{
	pthread_mutex_init(&structs_lock, NULL);
	memset(structs, 0, sizeof(structs));
}

static int keep_grow(struct keep *keep)
{
	unsigned int room = keep->room ? keep->room * 2 : 32;
	struct span *spans = hmm_alloc(room * sizeof(*spans));

	if (!spans)
		return -ENOMEM;
	if (keep->n)
		memcpy(spans, keep->spans, keep->n * sizeof(*spans));
	hmm_free(keep->spans);
	keep->spans = spans;
	keep->room = room;
	return 0;
}

/* Sorted by start; few enough for an insertion. */
int keep_add(struct keep *keep, unsigned long start, unsigned long end)
{
	unsigned int i;

	start = page_round_down(start);
	end = page_round_up(end);
	if (keep->n == keep->room && keep_grow(keep))
		return -ENOMEM;
	for (i = keep->n; i && keep->spans[i - 1].start > start; i--)
		keep->spans[i] = keep->spans[i - 1];
	keep->spans[i] = (struct span){ start, end };
	keep->n++;
	return 0;
}

struct objects {
	struct keep *keep;
	unsigned long start;
	unsigned long end;
	unsigned long tls; /* bytes of thread variables, of all objects */
	pid_t pid; /* asked for once: each system call counts for who moves a page */
	int ret;
};

static bool object_holds(const struct dl_phdr_info *info, unsigned long addr)
{
	int i;

	for (i = 0; i < info->dlpi_phnum; i++) {
		unsigned long start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;

		if (info->dlpi_phdr[i].p_type == PT_LOAD && addr >= start &&
		    addr < start + info->dlpi_phdr[i].p_memsz)
			return true;
	}
	return false;
}

static int keep_object(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct objects *objects = arg;
	int i;

	(void)size;
	for (i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_TLS)
			objects->tls += info->dlpi_phdr[i].p_memsz + info->dlpi_phdr[i].p_align;
	/* The program itself has no name; its data is fair game without libhmm. */
	if (!info->dlpi_name[0] && !object_holds(info, (unsigned long)structs))
		return 0;
	for (i = 0; i < info->dlpi_phnum && !objects->ret; i++) {
		unsigned long start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
		unsigned long end = start + info->dlpi_phdr[i].p_memsz;

		if (info->dlpi_phdr[i].p_type == PT_LOAD && (info->dlpi_phdr[i].p_flags & PF_W) &&
		    start < objects->end && end > objects->start)
			objects->ret = keep_add(objects->keep, start, end);
	}
	return objects->ret;
}

/*
 * Is it at the upper end of its mapping, as in a stack that glibc made? Or is there a guard
 * page below: then the program's next mapping was made right above, and is one with it.
 */
static bool stack_like(struct mm *mm, const struct vma *vma, unsigned long addr)
{
	struct vma below;

	if (vma->end - addr <= STACK_TOP)
		return true;
	return !vma_find(mm, vma->start - hmm_page_size(), &below) && below.end == vma->start &&
	       !below.read && !below.write;
}

static int keep_descriptor(struct keep *keep, struct mm *mm, unsigned long addr, unsigned long tls,
			   bool stacks)
{
	unsigned long below = addr - tls - TLS_SLACK, above = addr + DESCRIPTOR_ABOVE;
	struct vma vma;

	if (!stacks && !vma_find(mm, addr, &vma) && vma.start <= addr && stack_like(mm, &vma, addr))
		below = vma.start;
	return keep_add(keep, below, above);
}

struct dirent64_head {
	uint64_t ino;
	int64_t off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

/* The program's memory, which may be gone at any moment, or away: then it is no matter. */
static bool peek(pid_t pid, unsigned long addr, unsigned long *words, size_t n)
{
	struct iovec to = { words, n * sizeof(*words) };
	struct iovec from = { (void *)addr, n * sizeof(*words) };

	return process_vm_readv(pid, &to, 1, &from, 1, 0) == (ssize_t)to.iov_len;
}

enum robust_head { ROBUST_NEXT, ROBUST_OFFSET, ROBUST_PENDING, ROBUST_WORDS };

/*
 * Robust mutexes that the thread holds: if it ends, the kernel marks them, and an exiting
 * thread does not wait for a page. One that is locked later has been touched, and so
 * brought back, since.
 */
static int keep_robust(struct keep *keep, pid_t pid, unsigned long head)
{
	unsigned long words[ROBUST_WORDS], entry, offset, pending;
	int ret = 0, n;

	if (MUTANT(ROBUST_MOVED))
		return 0;
	if (!peek(pid, head, words, ROBUST_WORDS))
		return 0;
	entry = words[ROBUST_NEXT];
	offset = words[ROBUST_OFFSET];
	pending = words[ROBUST_PENDING];
	if (pending & ~1ul)
		ret = keep_add(keep, (pending & ~1ul) + offset, (pending & ~1ul) + offset + 4);
	for (n = 0; n < ROBUST_MAX && !ret && (entry & ~1ul) != head; n++) {
		unsigned long node = entry & ~1ul;

		ret = keep_add(keep, node, node + sizeof(node));
		if (!ret)
			ret = keep_add(keep, node + offset, node + offset + 4);
		if (!peek(pid, node, &entry, 1))
			break;
	}
	return ret;
}

static int keep_task(const struct objects *objects, struct mm *mm, const char *name, bool stacks)
{
	unsigned long start = objects->start, end = objects->end;
	struct keep *keep = objects->keep;
	void *head = NULL;
	size_t len;
	long tid = 0;

	for (; *name >= '0' && *name <= '9'; name++)
		tid = tid * 10 + (*name - '0');
	if (!tid || syscall(SYS_get_robust_list, tid, &head, &len) || !head)
		return 0;
	if (keep_robust(keep, objects->pid, (unsigned long)head))
		return -ENOMEM;
	if ((unsigned long)head + DESCRIPTOR_ABOVE < start)
		return 0;
	/* A stack lies below its descriptor: 8 MiB and more, so look up to there. */
	if ((unsigned long)head > end && (unsigned long)head - end > (1ul << 30))
		return 0;
	/* The main thread's lies in a mapping that grows with the program's own. */
	return keep_descriptor(keep, mm, (unsigned long)head, objects->tls,
			       stacks || tid == objects->pid);
}

/* Opening it is a third of the whole look; of those who come at once one has it open already. */
static int tasks_open(struct mm *mm)
{
	if (!__atomic_exchange_n(&mm->tasks_used, true, __ATOMIC_ACQUIRE)) {
		if (mm->tasks >= 0 && !lseek(mm->tasks, 0, SEEK_SET))
			return mm->tasks;
		__atomic_store_n(&mm->tasks_used, false, __ATOMIC_RELEASE);
	}
	return open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void tasks_close(struct mm *mm, int fd)
{
	if (fd == mm->tasks)
		__atomic_store_n(&mm->tasks_used, false, __ATOMIC_RELEASE);
	else
		close(fd);
}

static int keep_threads(const struct objects *objects, struct mm *mm, bool stacks)
{
	char buf[2048] __attribute__((aligned(8)));
	int ret = 0, fd = tasks_open(mm);
	long n;

	if (fd < 0)
		return -errno;
	while (!ret && (n = syscall(SYS_getdents64, fd, buf, sizeof(buf))) > 0) {
		long pos = 0;

		while (!ret && pos < n) {
			struct dirent64_head *entry = (void *)(buf + pos);

			ret = keep_task(objects, mm, entry->name, stacks);
			pos += entry->reclen;
		}
	}
	tasks_close(mm, fd);
	return ret;
}

static int keep_structs(struct keep *keep)
{
	int i, ret = 0;

	pthread_mutex_lock(&structs_lock);
	for (i = 0; i < KEEP_STRUCTS && !ret; i++)
		if (structs[i].end)
			ret = keep_add(keep, structs[i].start, structs[i].end);
	pthread_mutex_unlock(&structs_lock);
	return ret;
}

static int keep_arena(struct keep *keep, unsigned long start, unsigned long end)
{
	while (start < end) {
		unsigned long from = start, to = end;

		if (!arena_next(&from, &to))
			return 0;
		if (keep_add(keep, from, to))
			return -ENOMEM;
		start = to;
	}
	return 0;
}

int keep_init(struct keep *keep, struct mm *mm, unsigned long start, unsigned long end, bool stacks)
{
	struct objects objects = { .keep = keep, .start = start, .end = end, .pid = getpid() };
	unsigned long sp = (unsigned long)__builtin_frame_address(0);
	int ret;

	*keep = (struct keep){ 0 };
	ret = keep_add(keep, sp - CALLER_BELOW, sp + CALLER_ABOVE);
	if (!ret)
		ret = keep_add(keep, (unsigned long)&own_tls, (unsigned long)&own_tls + 1);
	if (!ret)
		ret = keep_add(keep, (unsigned long)&errno, (unsigned long)&errno + 1);
	if (!ret)
		ret = keep_arena(keep, start, end);
	if (!ret)
		ret = keep_structs(keep);
	if (!ret) {
		dl_iterate_phdr(keep_object, &objects);
		ret = objects.ret;
	}
	if (!ret)
		ret = keep_threads(&objects, mm, stacks);
	if (ret)
		keep_fini(keep);
	return ret;
}

void keep_fini(struct keep *keep)
{
	hmm_free(keep->spans);
	*keep = (struct keep){ 0 };
}

bool keep_allowed(const struct keep *keep, unsigned long *start, unsigned long *end)
{
	unsigned int i;

	for (i = 0; i < keep->n && *start < *end; i++) {
		const struct span *span = &keep->spans[i];

		if (span->end <= *start)
			continue;
		if (span->start >= *end)
			break;
		if (span->start > *start) {
			*end = span->start;
			break;
		}
		*start = span->end;
	}
	return *start < *end;
}
