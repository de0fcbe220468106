/* SPDX-License-Identifier: MIT */
/*
 * /dev/hmm_dmirror0 and 1: the commands of Linux's test_hmm driver, by a dummy device each.
 *
 * A device is made by the first open in a process and goes with the last close. All of a
 * command is done by the device: what it reads or writes for the program it loads and
 * stores through its own page table, and a page that was migrated is read where it is.
 * What the program is then given lies in a buffer of the arena first, so that a command
 * which fails has written nothing.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include <dummy.h>
#include <hmm/hmm.h>

#include "shim.h"
#include "uapi.h"

#define UNITS 2u
#define TRIES 1000u /* for a snapshot of a range that keeps changing */

/**
 * struct unit - a device of this process
 * @dev: NULL while nobody has it open
 * @users: open files
 */
struct unit {
	struct dummy_device *dev;
	unsigned int users;
};

static struct unit units[UNITS];
static pthread_mutex_t units_lock = PTHREAD_MUTEX_INITIALIZER;

static int dmirror_open(unsigned int number, void **state)
{
	static const struct dummy_options opt = {
		.memory = DUMMY_MEMORY_DEFAULT,
		.runs = true,
		.read_only = true,
	};
	struct unit *unit = &units[number];
	int ret = 0;

	pthread_mutex_lock(&units_lock);
	if (!unit->users)
		ret = dummy_create(&unit->dev, &opt);
	if (!ret)
		unit->users++;
	pthread_mutex_unlock(&units_lock);
	*state = unit;
	return ret;
}

static int dmirror_release(void *state)
{
	struct unit *unit = state;
	int ret = 0;

	pthread_mutex_lock(&units_lock);
	if (!--unit->users)
		ret = dummy_destroy(unit->dev);
	pthread_mutex_unlock(&units_lock);
	return ret;
}

static void dmirror_forget(void)
{
	pthread_mutex_init(&units_lock, NULL);
	memset(units, 0, sizeof(units));
}

static uint64_t cmd_end(const struct dmirror_cmd *cmd)
{
	return cmd->addr + (cmd->npages << hmm_page_shift());
}

static size_t cmd_bytes(const struct dmirror_cmd *cmd)
{
	return (size_t)(cmd_end(cmd) - cmd->addr);
}

/* ---- what is there ---- */

/*
 * As the device would find it. hmm_range_done() is for a device that keeps what it read;
 * here it says that all of it was true at once.
 */
static int snapshot(struct dummy_device *dev, const struct dmirror_cmd *cmd, hmm_pfn_t *pfns)
{
	struct hmm_range range = {
		.size = sizeof(range),
		.flags = HMM_RANGE_WRITE,
		.mirror = dummy_mirror(dev),
		.start = cmd->addr,
		.end = cmd_end(cmd),
		.pfns = pfns,
	};
	unsigned int tries;
	int ret;

	for (tries = 0; tries < TRIES; tries++) {
		ret = hmm_range_snapshot(&range);
		if (ret || hmm_range_done(&range))
			return ret;
	}
	return -EBUSY;
}

static uint8_t prot_of(hmm_pfn_t pfn)
{
	uint8_t prot;

	if (pfn & HMM_PFN_ERROR)
		return DMIRROR_PROT_ERROR;
	if (!(pfn & HMM_PFN_VALID))
		return DMIRROR_PROT_NONE;
	prot = pfn & HMM_PFN_WRITE ? DMIRROR_PROT_WRITE : DMIRROR_PROT_READ;
	if (pfn & HMM_PFN_DEVICE)
		prot |= DMIRROR_PROT_LOCAL;
	if (pfn & HMM_PFN_ZERO)
		prot |= DMIRROR_PROT_ZERO;
	if (pfn & HMM_PFN_HUGE)
		prot |= DMIRROR_PROT_PMD;
	return prot;
}

/* A snapshot of what cannot be snapshot (%HMM_PFN_SPECIAL) is an error, not a guess. */
static int do_snapshot(struct dummy_device *dev, struct dmirror_cmd *cmd, char *buf)
{
	hmm_pfn_t *pfns = (hmm_pfn_t *)buf;
	uint64_t i;
	int ret = snapshot(dev, cmd, pfns);

	for (i = 0; i < cmd->npages && !ret; i++) {
		if (pfns[i] & HMM_PFN_SPECIAL)
			ret = -EOPNOTSUPP;
		buf[i] = (char)prot_of(pfns[i]); /* behind where pfns[] is still read */
	}
	if (!ret)
		ret = shim_write(cmd->ptr, buf, cmd->npages);
	if (!ret)
		cmd->cpages = cmd->npages;
	return ret;
}

/* Is something of the range not mapped, or not readable? */
static int range_broken(struct dummy_device *dev, const struct dmirror_cmd *cmd, int error)
{
	hmm_pfn_t *pfns = hmm_map(cmd->npages * sizeof(*pfns));
	uint64_t i;
	int ret;

	if (!pfns)
		return -ENOMEM;
	ret = snapshot(dev, cmd, pfns);
	for (i = 0; i < cmd->npages && !ret; i++)
		if (pfns[i] & HMM_PFN_ERROR)
			ret = error;
	hmm_unmap(pfns, cmd->npages * sizeof(*pfns));
	return ret;
}

/* ---- read and write ---- */

/* -EPERM: readable, but not to be written; libhmm says -EFAULT to both. */
static int fault(struct dummy_device *dev, const struct dmirror_cmd *cmd, size_t done, bool write)
{
	struct hmm_event event = {
		.start = cmd->addr + done,
		.end = cmd_end(cmd),
		.etype = write ? HMM_DEVICE_WFAULT : HMM_DEVICE_RFAULT,
	};
	int ret = hmm_mirror_fault(dummy_mirror(dev), &event);

	if (ret != -EFAULT || !write)
		return ret;
	ret = range_broken(dev, cmd, -EFAULT);
	return ret ? ret : -EPERM;
}

/*
 * The device reads or writes all of the range. Where it first misses a translation it asks
 * for all of the rest at once; that is a fault of the command. What is missing after
 * that never stays (HMM_PTE_ONCE) or has gone again: there it asks for the page alone.
 */
static int transfer(struct dummy_device *dev, struct dmirror_cmd *cmd, char *buf, bool write)
{
	size_t n, done = 0, page = hmm_page_size(), len = cmd_bytes(cmd);
	int ret = 0;

	while (done < len && !ret) {
		uint64_t addr = cmd->addr + done;

		ret = write ? dummy_store_present(dev, addr, buf + done, len - done, &n) :
			      dummy_load_present(dev, addr, buf + done, len - done, &n);
		done += n;
		if (ret != -EAGAIN)
			continue;
		if (!cmd->faults) {
			ret = fault(dev, cmd, done, write);
			cmd->faults++;
			continue;
		}
		addr = cmd->addr + done;
		ret = write ? dummy_store(dev, addr, buf + done, page) :
			      dummy_load(dev, addr, buf + done, page);
		done += ret ? 0 : page;
	}
	cmd->cpages = done >> hmm_page_shift();
	return ret;
}

static int do_read(struct dummy_device *dev, struct dmirror_cmd *cmd, char *buf)
{
	int ret = transfer(dev, cmd, buf, false);

	return ret ? ret : shim_write(cmd->ptr, buf, cmd_bytes(cmd));
}

static int do_write(struct dummy_device *dev, struct dmirror_cmd *cmd, char *buf)
{
	int ret = shim_read(buf, cmd->ptr, cmd_bytes(cmd));

	return ret ? ret : transfer(dev, cmd, buf, true);
}

/* ---- migration ---- */

/*
 * The kernel's driver takes system pages only, so here too what another device has stays
 * there. @results: where the pages are afterwards.
 */
static int migrate(struct dummy_device *dev, const struct dmirror_cmd *cmd, const hmm_pfn_t *pfns,
		   uint8_t *results)
{
	unsigned int shift = hmm_page_shift();
	uint64_t i, end;
	int ret = 0;

	for (i = 0; i < cmd->npages && !ret; i = end) {
		bool elsewhere = pfns[i] & HMM_PFN_ELSEWHERE;

		for (end = i + 1; end < cmd->npages; end++)
			if (elsewhere != !!(pfns[end] & HMM_PFN_ELSEWHERE))
				break;
		if (!elsewhere)
			ret = dummy_migrate_vma(dev, cmd->addr + (i << shift),
						cmd->addr + (end << shift), results + i, NULL);
	}
	return ret;
}

static int migrate_range(struct dummy_device *dev, struct dmirror_cmd *cmd, hmm_pfn_t *pfns,
			 uint8_t *results)
{
	uint64_t i;
	int ret = snapshot(dev, cmd, pfns);

	for (i = 0; i < cmd->npages && !ret; i++)
		if (pfns[i] & HMM_PFN_ERROR)
			ret = -EINVAL;
	if (!ret)
		ret = migrate(dev, cmd, pfns, results);
	for (i = 0; i < cmd->npages && !ret; i++)
		if (results[i] != HMM_MIGRATE_DONE)
			ret = -ENOENT;
	return ret;
}

/* The program gets what the device has then; @buf is large enough for both arrays. */
static int do_migrate_to_dev(struct dummy_device *dev, struct dmirror_cmd *cmd, char *buf)
{
	hmm_pfn_t *pfns = (hmm_pfn_t *)buf;
	int ret = migrate_range(dev, cmd, pfns, (uint8_t *)(pfns + cmd->npages));

	if (ret)
		return ret;
	ret = do_read(dev, cmd, buf);
	cmd->faults = 0;
	return ret;
}

static int do_migrate_to_sys(struct dummy_device *dev, struct dmirror_cmd *cmd, char *buf)
{
	unsigned long pages = 0;
	int ret = range_broken(dev, cmd, -EINVAL);

	(void)buf;
	if (!ret)
		ret = dummy_evict(dev, cmd->addr, cmd_end(cmd), &pages);
	cmd->cpages = pages;
	return ret;
}

static int do_release(struct dummy_device *dev, struct dmirror_cmd *cmd, char *buf)
{
	(void)cmd, (void)buf;
	return dummy_evict_all(dev, NULL);
}

/* ---- exclusive access ---- */

static int do_exclusive(struct dummy_device *dev, struct dmirror_cmd *cmd, char *buf)
{
	unsigned long pages;
	int ret = range_broken(dev, cmd, -EFAULT);

	if (!ret)
		ret = dummy_exclusive(dev, cmd->addr, cmd_end(cmd), &pages);
	if (!ret && pages < cmd->npages)
		ret = -EBUSY;
	if (!ret)
		ret = do_read(dev, cmd, buf);
	cmd->faults = 0;
	return ret;
}

static int do_check_exclusive(struct dummy_device *dev, struct dmirror_cmd *cmd, char *buf)
{
	unsigned long pages;
	int ret = dummy_exclusive_pages(dev, cmd->addr, cmd_end(cmd), &pages);

	(void)buf;
	if (!ret && pages)
		ret = -EPERM;
	return ret;
}

/* ---- the commands ---- */

static int do_flags(struct dummy_device *dev, struct dmirror_cmd *cmd, char *buf)
{
	(void)buf;
	if (cmd->npages & ~(uint64_t)DMIRROR_FLAG_FAIL_ALLOC)
		return -EINVAL;
	dummy_inject(dev, DUMMY_FAIL_RUN, !!(cmd->npages & DMIRROR_FLAG_FAIL_ALLOC), 1);
	return 0;
}

static const struct command {
	unsigned long request;
	int (*fn)(struct dummy_device *dev, struct dmirror_cmd *cmd, char *buf);
	bool buffer; /* of as many bytes as the range has, at least */
} commands[] = {
	{ DMIRROR_READ, do_read, true },
	{ DMIRROR_WRITE, do_write, true },
	{ DMIRROR_MIGRATE_TO_DEV, do_migrate_to_dev, true },
	{ DMIRROR_MIGRATE_TO_SYS, do_migrate_to_sys, false },
	{ DMIRROR_SNAPSHOT, do_snapshot, true },
	{ DMIRROR_EXCLUSIVE, do_exclusive, true },
	{ DMIRROR_CHECK_EXCLUSIVE, do_check_exclusive, false },
	{ DMIRROR_RELEASE, do_release, false },
	{ DMIRROR_FLAGS, do_flags, false },
};

static bool cmd_valid(const struct dmirror_cmd *cmd)
{
	uint64_t first = cmd->addr >> hmm_page_shift(), last = HMM_USER_END >> hmm_page_shift();

	return !(cmd->addr & (hmm_page_size() - 1)) && cmd->npages && first < last &&
	       cmd->npages <= last - first;
}

static int run(struct dummy_device *dev, const struct command *command, struct dmirror_cmd *cmd)
{
	char *buf = NULL;
	int ret;

	cmd->cpages = 0;
	cmd->faults = 0;
	if (!command->buffer)
		return command->fn(dev, cmd, NULL);
	buf = hmm_map(cmd_bytes(cmd));
	if (!buf)
		return -ENOMEM;
	ret = command->fn(dev, cmd, buf);
	hmm_unmap(buf, cmd_bytes(cmd));
	return ret;
}

static int dmirror_ioctl(void *state, unsigned long request, void *arg)
{
	struct unit *unit = state;
	struct dmirror_cmd cmd;
	unsigned int i;
	int ret;

	for (i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		if (commands[i].request != request)
			continue;
		if (shim_read(&cmd, (uint64_t)arg, sizeof(cmd)))
			return -EFAULT;
		if (request != DMIRROR_FLAGS && !cmd_valid(&cmd))
			return -EINVAL;
		ret = run(unit->dev, &commands[i], &cmd);
		return ret ? ret : shim_write((uint64_t)arg, &cmd, sizeof(cmd));
	}
	return -EINVAL;
}

const struct shim_file dmirror_file = {
	.open = dmirror_open,
	.ioctl = dmirror_ioctl,
	.release = dmirror_release,
	.forget = dmirror_forget,
	.mapped = true,
};
