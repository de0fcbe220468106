/* SPDX-License-Identifier: MIT */
/*
 * Too few descriptors, too little address space, too many mappings.
 *
 * G11: an errno, not a crash. G4, G7: what could not be moved is where it was,
 * with its content, and everything works again once there is room.
 */
#include "faults/harness.h"

#define PAGES 1500
#define CANNOT 77

static unsigned long bytes(size_t pages)
{
	return pages * hmm_page_size();
}

static void in_child(int (*fn)(unsigned int), unsigned int arg, const char *what)
{
	int status;
	pid_t pid;

	limit(20, what);
	flush();
	pid = fork();
	if (!pid) {
		child_begin();
		hmm_set_log(HMM_LOG_NONE, NULL);
		_exit(fn(arg));
	}
	status = child_wait(pid);
	limit(0, "");
	if (status == CANNOT)
		skip();
	assert_int_equal(status, 0);
}

/* All of the device's life, each call either well or with an expected errno. */
static bool live(const int *errors, unsigned int n)
{
	struct dummy_options opt = { .memory = 16 * MIB };
	unsigned char *mem = map_bytes(bytes(PAGES));
	unsigned long start = (unsigned long)mem;
	struct dummy_device *dev;
	unsigned int i;
	int ret;

	fill_pages(mem, PAGES, 1);
	ret = dummy_create(&dev, &opt);
	if (!ret) {
		ret = dummy_migrate(dev, start, start + bytes(PAGES), NULL);
		CHILD_CHECK(check_pages(mem, PAGES, 1) == PAGES);
		CHILD_CHECK(dummy_destroy(dev) == 0);
	}
	CHILD_CHECK(check_pages(mem, PAGES, 1) == PAGES);
	for (i = 0; i < n && ret != errors[i]; i++)
		;
	CHILD_CHECK(ret == 0 || i < n);
	munmap(mem, bytes(PAGES));
	return ret == 0;
}

/* ---- descriptors ---- */

static int few_descriptors(unsigned int extra)
{
	static const int errors[] = { -EMFILE };
	struct hmm_features f = { .size = sizeof(f) };
	struct rlimit old, few;
	int lowest = dup(STDERR_FILENO);

	close(lowest);
	CHILD_CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
	few = old;
	few.rlim_cur = (rlim_t)lowest + extra;
	CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
	CHILD_CHECK(hmm_probe(&f) == 0);
	CHILD_CHECK(f.error == 0 || (f.error == -EMFILE && strstr(f.reason, "ulimit -n")));
	CHILD_CHECK(f.error == 0 || extra < 4);
	CHILD_CHECK(!live(errors, 1) || extra >= 5);
	CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
	CHILD_CHECK(live(NULL, 0));
	return 0;
}

static void with_few_descriptors(void **state)
{
	unsigned int extra;

	(void)state;
	for (extra = 0; extra < 12; extra++)
		in_child(few_descriptors, extra, __func__);
}

/* ---- address space ---- */

static unsigned long address_space(void)
{
	unsigned long pages = 0;
	char text[64] = "";
	int fd = open("/proc/self/statm", O_RDONLY);

	CHILD_CHECK(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	pages = strtoul(text, NULL, 10);
	return bytes(pages);
}

static int little_address_space(unsigned int mib)
{
	static const int errors[] = { -ENOMEM, -EAGAIN };
	struct rlimit old, little;

	CHILD_CHECK(getrlimit(RLIMIT_AS, &old) == 0);
	little = old;
	little.rlim_cur = address_space() + 8 * MIB + mib * MIB;
	CHILD_CHECK(setrlimit(RLIMIT_AS, &little) == 0);
	live(errors, 2);
	CHILD_CHECK(setrlimit(RLIMIT_AS, &old) == 0);
	CHILD_CHECK(live(NULL, 0));
	return 0;
}

static void with_little_address_space(void **state)
{
	unsigned int mib;

	(void)state;
	if (SLOWER > 1) {
		print_message("skipped: sanitizers need all of the address space\n");
		skip();
	}
	for (mib = 0; mib <= 64; mib += 8)
		in_child(little_address_space, mib, __func__);
	for (mib = 128; mib <= 1u << 19; mib *= 2)
		in_child(little_address_space, mib, __func__);
	for (mib = 1000; mib < 1200; mib += 15)
		in_child(little_address_space, mib, __func__);
}

/* ---- mappings ---- */

static unsigned long max_map_count(void)
{
	char text[32] = "";
	int fd = open("/proc/sys/vm/max_map_count", O_RDONLY);

	CHILD_CHECK(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	return strtoul(text, NULL, 10);
}

/* Fills the table of mappings; all but @spare of it. */
static unsigned char *take_mappings(unsigned long max, unsigned int spare)
{
	unsigned char *p = map_bytes(bytes(max));
	unsigned long i;

	for (i = 1; i < max; i += 2)
		if (mprotect(p + bytes(i), bytes(1), PROT_READ))
			break;
	CHILD_CHECK(i < max);
	for (; spare > 0 && i > 2; spare -= spare > 1 ? 2 : spare) {
		i -= 2;
		CHILD_CHECK(mprotect(p + bytes(i), bytes(1), PROT_READ | PROT_WRITE) == 0);
	}
	return p;
}

static int many_mappings(unsigned int spare)
{
	struct dummy_options opt = { .memory = 32 * MIB };
	unsigned long max = max_map_count(), start, n = 0;
	struct dummy_device *dev;
	unsigned char *mem, *taken;
	uint64_t val;
	int ret;

	if (max > 1u << 20) {
		limit_say("skipped: vm.max_map_count is too large to be reached\n");
		return CANNOT;
	}
	CHILD_CHECK(dummy_create(&dev, &opt) == 0);
	mem = map_chunks(6);
	start = (unsigned long)mem;
	fill_pages(mem, 6 * 512, 1);
	taken = take_mappings(max, spare);
	/* From the second chunk on, and not to the end: it takes three mappings of one. */
	ret = dummy_migrate(dev, start + CHUNK, start + 3 * CHUNK, &n);
	CHILD_CHECK(ret == -ENOMEM || (ret == 0 && n <= 1024));
	CHILD_CHECK(spare || ret == -ENOMEM);
	ret = dummy_load_u64(dev, start + 4 * CHUNK, &val);
	CHILD_CHECK(ret == -ENOMEM || (ret == 0 && val == page_word(1, 4 * 512, 0)));
	CHILD_CHECK(check_pages(mem, 6 * 512, 1) == 6 * 512);
	dummy_migrate(dev, start, start + 6 * CHUNK, &n);
	CHILD_CHECK(check_pages(mem, 6 * 512, 1) == 6 * 512);
	munmap(taken, bytes(max));
	CHILD_CHECK(dummy_migrate(dev, start, start + 6 * CHUNK, &n) == 0 && n == 6 * 512);
	CHILD_CHECK(check_pages(mem, 6 * 512, 1) == 6 * 512);
	CHILD_CHECK(dummy_destroy(dev) == 0);
	return 0;
}

static void with_too_many_mappings(void **state)
{
	static const unsigned int spare[] = { 0, 1, 2, 3, 4, 6 };
	unsigned int i;

	(void)state;
	if (SLOWER > 1) {
		print_message("skipped: sanitizers need mappings of their own\n");
		skip();
	}
	for (i = 0; i < sizeof(spare) / sizeof(spare[0]); i++)
		in_child(many_mappings, spare[i], __func__);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(with_few_descriptors),
		cmocka_unit_test(with_little_address_space),
		cmocka_unit_test(with_too_many_mappings),
	};

	limit_lead();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
