# SPDX-License-Identifier: MIT
#
# A thin front over Meson. Four build directories, each configured on first
# use: build (plain), build-asan (address and undefined-behaviour sanitizers),
# build-tsan (thread sanitizer), build-mutants (broken on purpose).
#
#   make                  install what is missing, build
#   make check            build everything, run every test in all three builds
#   make check-plain      the tests of one build
#   make check-asan
#   make check-tsan
#   make demo [FILE=...]  run the example program wordindex, and sort under hmm run
#   make bench            run every benchmark
#   make run-full         Debian's programs under hmm run, at full size
#   make conformance      Linux's own HMM test, over the dummy device
#   make stress [SECONDS=180]  the stress tests for so long, in each of the three builds
#   make mutants          the tests against each of libhmm's faults on purpose (docs/testing.md)
#   make mutants LIST=1   which there are; MUTANT="NAME ..." runs only these
#   make install [PREFIX=/usr/local] [DESTDIR=...]
#   make format           clang-format every source file in place
#   make clean            remove the build directories
#
# CHECKFLAGS="--suite unit" and the like go to `meson test`, MUTANTFLAGS="--times 3" and the
# like to scripts/mutants.

PREFIX ?= /usr/local
CHECKFLAGS ?=
FILE ?=
SECONDS ?= 180
LIST ?=
MUTANT ?=
MUTANTFLAGS ?=

options       := -Dprefix='$(PREFIX)'
options-asan  := -Db_sanitize=address,undefined -Dhmm_debug=true
options-tsan  := -Db_sanitize=thread -Dhmm_debug=true
options-mutants := -Dhmm_mutants=true -Dhmm_debug=true

# One shell word, whatever is in it.
quote = '$(subst ','\'',$(1))'

all: plain

setup:
	@scripts/setup

plain: setup
	@scripts/build build $(options)

asan: setup
	@scripts/build build-asan $(options-asan)

tsan: setup
	@scripts/build build-tsan $(options-tsan)

# What the conformance test is taken from; where it is not to be had the test is skipped.
linux-source:
	@scripts/setup linux-source-6.1 || \
		echo "setup: no linux-source-6.1: the conformance test will be skipped" >&2

# The programs that hmm run is tested with; what is not to be had is skipped. No service is
# installed: redis-tools has the server too.
run-programs:
	@for package in python3 sqlite3 xz-utils redis-tools libjemalloc2 libtcmalloc-minimal4; do \
		scripts/setup $$package || \
			echo "setup: no $$package: some tests of hmm run will be skipped" >&2; \
	done

check: plain asan tsan $(if $(CHECKFLAGS),,linux-source run-programs)
	@scripts/check build build-asan build-tsan -- $(CHECKFLAGS)

check-plain: plain
	@scripts/check build -- $(CHECKFLAGS)

check-asan: asan
	@scripts/check build-asan -- $(CHECKFLAGS)

check-tsan: tsan
	@scripts/check build-tsan -- $(CHECKFLAGS)

run-full: plain run-programs
	@scripts/run-full build

conformance: plain linux-source
	@scripts/check build -- --suite conformance

demo: plain
	@build/examples/wordindex $(if $(FILE),$(call quote,$(FILE)))
	@scripts/demo_run build $(if $(FILE),$(call quote,$(FILE)))

bench: plain
	@scripts/bench build

stress: plain asan tsan
	@for dir in build build-asan build-tsan; do \
		HMM_STRESS_SECONDS=$(SECONDS) meson test -C $$dir --no-rebuild --num-processes 1 \
			--timeout-multiplier 20 test_stress test_stress_devices test_mirror_stress || exit 1; \
	done

mutants: setup
	@scripts/build build-mutants $(options-mutants)
	@scripts/mutants build-mutants $(if $(LIST),--list) $(MUTANTFLAGS) $(MUTANT)

install: plain
	@scripts/install build $(call quote,$(PREFIX)) $(if $(DESTDIR),$(call quote,$(abspath $(DESTDIR))))

format:
	@scripts/format

clean:
	rm -rf build build-asan build-tsan build-mutants

.PHONY: all setup plain asan tsan linux-source run-programs check check-plain check-asan check-tsan \
	run-full conformance demo bench stress mutants install format clean
