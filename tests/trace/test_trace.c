/* SPDX-License-Identifier: MIT */
/*
 * hmm_trace_start(), hmm_trace_stop(): what is in the file, against what hmm_get_stats()
 * counts; records that are dropped; calls that are refused. (test_trace_life.c: threads,
 * fork and exit.)
 */
#include "trace/trace_read.h"

#include "core/trace_file.h"

#define PAGES 600 /* two chunks, the second in part */
#define BYTES (PAGES * PAGE)

static char path[64];
static struct hmm_stats before;

static int setup(void **state)
{
	(void)state;
	strcpy(path, "/tmp/hmm-trace-XXXXXX");
	close(mkstemp(path));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	hmm_trace_stop();
	unlink(path);
	return 0;
}

static void begin(void)
{
	before.size = sizeof(before);
	assert_int_equal(hmm_get_stats(&before), 0);
	assert_int_equal(hmm_trace_start(path), 0);
}

static void end(struct trace *trace)
{
	assert_int_equal(hmm_trace_stop(), 0);
	trace_read(trace, path, true);
}

/* A bit of everything; all of it is over when this returns. */
static void work(void)
{
	struct dummy_options opt = { .memory = 300 * PAGE, .evict = true, .not_prompt = true };
	struct dummy_device *dev = device_new(2 * PAGES), *small;
	char *mem = map_aligned(BYTES);
	unsigned long pages;
	uint64_t val;
	size_t i;

	assert_int_equal(dummy_create(&small, &opt), 0);
	pattern_fill(mem, PAGES, 1);
	for (i = 0; i < PAGES; i += 16)
		assert_int_equal(dummy_load_u64(dev, addr_of(mem) + i * PAGE, &val), 0);
	migrate_all(dev, mem, PAGES);
	pattern_check(mem, PAGES, 1);
	migrate_all(dev, mem, PAGES);
	assert_int_equal(dummy_evict(dev, addr_of(mem), addr_of(mem) + 50 * PAGE, &pages), 0);
	assert_int_equal(dummy_store_u64(dev, addr_of(mem) + 100 * PAGE, 1), 0);
	assert_int_equal(dummy_migrate(small, addr_of(mem), addr_of(mem) + BYTES, NULL), 0);
	assert_int_equal(dummy_exclusive(dev, addr_of(mem), addr_of(mem) + 8 * PAGE, &pages), 0);
	mem[0] = 1;
	madvise(mem + 200 * PAGE, 100 * PAGE, MADV_DONTNEED);
	munmap(mem + 300 * PAGE, 300 * PAGE);
	assert_int_equal(dummy_destroy(small), 0);
	assert_int_equal(dummy_destroy(dev), 0);
	munmap(mem, 300 * PAGE);
}

/* An address at which it was tried again is not answered by that. */
static size_t faults_answered(const struct trace *trace)
{
	size_t i, n = 0;

	for (i = 0; i < trace->n; i++) {
		const struct event *event = &trace->event[i];
		long long error;

		if (event->phase != 'X' || strcmp(event->name, "cpu fault"))
			continue;
		error = event_value(event, "error");
		n += error != -EAGAIN && error != -ECANCELED && error != -ENOMEM;
	}
	return n;
}

static size_t spans(const struct trace *trace, const char *name, const char *but)
{
	size_t i, n = 0;

	for (i = 0; i < trace->n; i++)
		n += trace->event[i].phase == 'X' &&
		     !strncmp(trace->event[i].name, name, strlen(name)) &&
		     !strstr(but, trace->event[i].name);
	return n;
}

static size_t device_faults(const struct trace *trace)
{
	size_t i, n = 0;

	for (i = 0; i < trace->n; i++)
		n += !strcmp(trace->event[i].name, "device fault") &&
		     !event_value(&trace->event[i], "error");
	return n;
}

static void what_is_counted_is_in_it(void **state)
{
	struct hmm_stats now = { .size = sizeof(now) };
	struct trace trace;

	(void)state;
	BEGIN(20);
	begin();
	work();
	end(&trace);
	assert_int_equal(hmm_get_stats(&now), 0);
	trace_check(&trace);
	assert_int_equal(trace_total(&trace, "dropped"), 0);
#define DELTA(name) (now.name - before.name)
	assert_int_equal(faults_answered(&trace), DELTA(cpu_faults));
	assert_int_equal(trace_count(&trace, 'i', "cpu fault read"), DELTA(cpu_faults));
	assert_int_equal(trace_count(&trace, 'i', "cpu fault deferred"),
			 DELTA(cpu_faults_deferred));
	assert_int_equal(device_faults(&trace), DELTA(device_faults));
	assert_int_equal(trace_sum(&trace, "moved", "pages"), DELTA(pages_to_device));
	assert_int_equal(trace_sum(&trace, "from device", "pages"), DELTA(pages_from_device));
	assert_int_equal(trace_sum(&trace, "from device cpu", "pages"), DELTA(pages_by_fault));
	assert_int_equal(spans(&trace, "event ", ""), DELTA(events));
	assert_int_equal(spans(&trace, "update ", "update rfault|update wfault|update exclusive"),
			 DELTA(invalidations));
	assert_true(DELTA(cpu_faults) && DELTA(device_faults) && DELTA(pages_to_device) &&
		    DELTA(events) && DELTA(invalidations));
	assert_true(trace_count(&trace, 'i', "evict") > 0);
	assert_true(trace_count(&trace, 'X', "from device evict") > 0);
	assert_true(trace_count(&trace, 'X', "from device driver") > 0);
	assert_true(trace_count(&trace, 'X', "from device device") > 0);
	assert_int_equal(trace_count(&trace, 'X', "exclusive"), 1);
	assert_true(trace_count(&trace, 'X', "copy to device") > 0);
	assert_true(trace_count(&trace, 'X', "event unmap") > 0);
	assert_true(trace_count(&trace, 'X', "event remove") > 0);
	trace_free(&trace);
}

/* One of each kind, with what it must say. */
static void an_event_says_what_it_is_of(void **state)
{
	struct dummy_device *dev;
	char *mem = map_aligned(BYTES), text[64];
	struct trace trace;
	bool found[4] = { false };
	size_t i;

	(void)state;
	BEGIN(10);
	pattern_fill(mem, PAGES, 1);
	begin();
	dev = device_new(PAGES);
	migrate_all(dev, mem, 20);
	pattern_check(mem + 7 * PAGE, 0, 1);
	((volatile char *)mem)[7 * PAGE] = 1;
	munmap(mem + 12 * PAGE, 5 * PAGE);
	assert_int_equal(dummy_destroy(dev), 0);
	end(&trace);
	trace_check(&trace);
	for (i = 0; i < trace.n; i++) {
		const struct event *event = &trace.event[i];

		if (!strcmp(event->name, "to device")) {
			assert_int_equal(event_value(event, "start"), addr_of(mem));
			assert_int_equal(event_value(event, "end"), addr_of(mem) + 20 * PAGE);
			assert_int_equal(event_value(event, "pages"), 20);
			assert_int_equal(event_value(event, "refused"), 0);
			event_text(event, "device", text, sizeof(text));
			assert_string_equal(text, "dummy");
			assert_int_equal(event->tid, gettid());
			found[0] = true;
		} else if (!strcmp(event->name, "cpu fault")) {
			assert_int_equal(event_value(event, "address"), addr_of(mem) + 7 * PAGE);
			assert_int_equal(event_value(event, "pages"), 1);
			assert_true(event_value(event, "waited_ns") > 0);
			assert_int_not_equal(event->tid, gettid());
			found[1] = true;
		} else if (!strcmp(event->name, "event unmap") && !found[2]) {
			assert_int_equal(event_value(event, "start"), addr_of(mem) + 12 * PAGE);
			assert_int_equal(event_value(event, "end"), addr_of(mem) + 17 * PAGE);
			found[2] = true;
		} else if (event->phase == 'M' && !strcmp(event->name, "thread_name")) {
			/* The first "name" is the kind, the other the thread's. */
			found[3] |= !!memmem(event->line, strcspn(event->line, "\n"), "hmm-monitor",
					     11);
		}
	}
	for (i = 0; i < 4; i++)
		assert_true(found[i]);
	trace_free(&trace);
	munmap(mem, BYTES);
}

static void another_trace_has_what_came_after(void **state)
{
	struct trace trace;
	int i;

	(void)state;
	BEGIN(20);
	for (i = 0; i < 3; i++) {
		size_t records;

		begin();
		work();
		end(&trace);
		trace_check(&trace);
		records = trace_count(&trace, 'X', "exclusive");
		trace_free(&trace);
		assert_int_equal(records, 1);
		work();
	}
	begin();
	end(&trace);
	trace_check(&trace);
	assert_int_equal(trace_total(&trace, "records"), 0);
	trace_free(&trace);
}

/* With hardly any room most are lost, and nothing waits, and the file is right. */
static void what_there_is_no_room_for_is_counted(void **state)
{
	uint64_t room = trace_room;
	struct trace trace;
	int i;

	(void)state;
	BEGIN(20);
	trace_room = 3;
	begin();
	for (i = 0; i < 3; i++)
		work();
	end(&trace);
	trace_room = room;
	trace_check(&trace);
	assert_true(trace_total(&trace, "dropped") > 100);
	assert_true(trace_total(&trace, "records") > 0);
	trace_free(&trace);

	begin();
	work();
	end(&trace);
	trace_check(&trace);
	assert_int_equal(trace_total(&trace, "dropped"), 0);
	trace_free(&trace);
}

static void python_reads_it(void **state)
{
	char command[160];
	int status;

	(void)state;
	BEGIN(30);
	snprintf(command, sizeof(command),
		 "command -v python3 >/dev/null || exit 77; python3 -m json.tool %s >/dev/null",
		 path);
	begin();
	work();
	assert_int_equal(hmm_trace_stop(), 0);
	status = system(command);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		skip_because("no python3");
	assert_int_equal(status, 0);
}

/* ---- calls that are refused ---- */

static void bad_calls_change_nothing(void **state)
{
	char other[] = "/tmp/hmm-trace-other-XXXXXX", *text, *longest = malloc(5000);
	int fd = mkstemp(other);

	(void)state;
	BEGIN(5);
	assert_int_equal(hmm_trace_stop(), -EINVAL);
	assert_int_equal(hmm_trace_start(NULL), -EINVAL);
	assert_int_equal(hmm_trace_start("/tmp/there is/none"), -ENOENT);
	assert_int_equal(hmm_trace_start("/tmp"), -EISDIR);
	memset(longest, 'x', 4999);
	longest[4999] = 0;
	assert_int_equal(hmm_trace_start(longest), -ENAMETOOLONG);
	free(longest);
	assert_int_equal(hmm_trace_stop(), -EINVAL);

	assert_int_equal(write(fd, "keep", 4), 4);
	assert_int_equal(hmm_trace_start(path), 0);
	assert_int_equal(hmm_trace_start(path), -EBUSY);
	assert_int_equal(hmm_trace_start(other), -EBUSY);
	text = file_read(other);
	assert_string_equal(text, "keep");
	free(text);
	assert_int_equal(hmm_trace_stop(), 0);
	assert_int_equal(hmm_trace_stop(), -EINVAL);
	/* What was there goes. */
	assert_int_equal(hmm_trace_start(other), 0);
	assert_int_equal(hmm_trace_stop(), 0);
	text = file_read(other);
	assert_true(json_valid(text));
	free(text);
	close(fd);
	unlink(other);
}

static void a_full_disk_is_told(void **state)
{
	(void)state;
	BEGIN(10);
	assert_int_equal(hmm_trace_start("/dev/full"), 0);
	work();
	assert_int_equal(hmm_trace_stop(), -ENOSPC);
	assert_int_equal(hmm_trace_start(path), 0);
	assert_int_equal(hmm_trace_stop(), 0);
}

static int in_update[2];

static int toy_update(struct hmm_mirror *mirror, struct hmm_event *event)
{
	(void)mirror;
	(void)event;
	in_update[0] = hmm_trace_start("/dev/null");
	in_update[1] = hmm_trace_stop();
	return 0;
}

static void not_from_an_op(void **state)
{
	static const struct hmm_device_ops ops = {
		.size = sizeof(ops),
		.version = HMM_DEVICE_OPS_VERSION,
		.update = toy_update,
	};
	/* A name that JSON would not have as it is, longer than there is room for. */
	struct hmm_device device = {
		.size = sizeof(device),
		.name = "\"toy\\\n\xff, and much more than anybody wants to know of it",
		.ops = &ops,
	};
	struct hmm_mirror mirror = { .size = sizeof(mirror), .device = &device };
	char *mem = map_aligned(THP);
	struct hmm_event event = {
		.start = addr_of(mem),
		.end = addr_of(mem) + PAGE,
		.etype = HMM_DEVICE_WFAULT,
	};
	struct trace trace;

	(void)state;
	BEGIN(5);
	assert_int_equal(hmm_device_register(&device), 0);
	assert_int_equal(hmm_mirror_register(&mirror), 0);
	begin();
	assert_int_equal(hmm_mirror_fault(&mirror, &event), 0);
	assert_int_equal(in_update[0], -EDEADLK);
	assert_int_equal(in_update[1], -EDEADLK);
	assert_int_equal(hmm_mirror_unregister(&mirror), 0);
	assert_int_equal(hmm_device_unregister(&device), 0);
	end(&trace);
	trace_check(&trace);
	assert_int_equal(trace_count(&trace, 'X', "update wfault"), 1);
	assert_non_null(strstr(trace.text, "\"device\":\"?toy???, and much more"));
	trace_free(&trace);
	munmap(mem, THP);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(what_is_counted_is_in_it),
		T(an_event_says_what_it_is_of),
		T(another_trace_has_what_came_after),
		T(what_there_is_no_room_for_is_counted),
		T(python_reads_it),
		T(bad_calls_change_nothing),
		T(a_full_disk_is_told),
		T(not_from_an_op),
	};

	test_init();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
