#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Checks the model of the page protocol (page.pml) with spin: that what it says holds, over every state there is, and
# that each broken variant is found out.
#
#	run.sh [DIR]	DIR: where to build; else a temporary folder, removed at the end
#
# Needs spin and a C compiler (CC, or cc); else skipped, 77. Takes 900 MB and, on an idle core, less than a minute.
set -eu

model=$(cd "$(dirname "$0")" && pwd)/page.pml
cc=${CC:-cc}
for tool in spin "${cc%% *}"; do
	if ! command -v "$tool" > /dev/null; then
		echo "1..0 # SKIP there is no $tool"
		exit 77
	fi
done
if [ $# -gt 0 ]; then
	dir=$1
	mkdir -p "$dir"
else
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	trap 'exit 1' INT TERM
fi

n=0
failed=0
events="-DUNMAP -DDONTNEED"
live="-DLIVE -DORDER $events"

# build OPTIMIZE MODEL_FLAGS: leaves ./pan in $dir/$n; with LIVE, for acceptance cycles with weak fairness
build() {
	mkdir -p "$dir/$n"
	cd "$dir/$n"
	rm -f pan* page.pml*
	cp "$model" .
	case $2 in
	*-DLIVE*) flags="-DNFAIR=3" search="-a -f" ;;
	*) flags="-DSAFETY -DNOFAIR" search= ;;
	esac
	# shellcheck disable=SC2086
	{ spin $2 -a page.pml && $cc -w "$1" $flags -DMEMLIM=2800 -o pan pan.c; } > build.log 2>&1
}

# run: what pan says is in pan.log
run() {
	# shellcheck disable=SC2086
	./pan -m3000000 $search > pan.log 2>&1
}

states() {
	sed -n 's/^ *\([0-9][0-9]*\) states, stored.*/\1/p' pan.log
}

# result OK NAME
result() {
	taken=$(($(date +%s) - began))
	count=$(states 2> /dev/null || true)
	if [ "$1" = yes ]; then
		echo "ok $n - $2 (${count:-0} states, $taken s)"
		return
	fi
	failed=1
	echo "not ok $n - $2 (${count:-0} states, $taken s)"
	cat build.log pan.log 2> /dev/null | grep -v '^$' | head -40 | sed 's/^/# /'
}

# holds NAME FLOOR MODEL_FLAGS: no error, and the search was complete. FLOOR: fewer states, and something cannot happen
holds() {
	n=$((n + 1))
	began=$(date +%s)
	ok=no
	if build -O2 "$3" && run && grep -q 'errors: 0$' pan.log &&
		! grep -q -e 'depth too small' -e 'not completed' -e 'Bit statespace' pan.log &&
		[ "$(states)" -ge "$2" ]; then
		ok=yes
	fi
	result $ok "$1"
}

# fails NAME MODEL_FLAGS: an error is found, of the model's and not of the tools
fails() {
	n=$((n + 1))
	began=$(date +%s)
	ok=no
	if build -O0 "$2"; then
		run || true
		if grep -q '^pan:1: \(assertion violated\|acceptance cycle\|invalid end state\)' pan.log; then
			ok=yes
		fi
	fi
	result $ok "$1"
}

echo "1..24"

holds "pages go and come, two CPU threads and a device" 500000 "-DMIGRATE"
holds "MADV_DONTNEED, and a device that looks by itself" 2000000 "-DDONTNEED -DALONE"
holds "munmap, and a mapping at the same place at once" 800000 "-DUNMAP"
holds "mremap and back" 1500000 "-DREMAP"
holds "every CPU fault ends" 150000 "$live"

fails "found: no settling after MADV_DONTNEED" "-DDONTNEED -DBREAK=NO_SETTLE"
fails "found: an ioctl that does not back off" "-DDONTNEED -DBREAK=NO_BACKOFF"
fails "found: a zero page for what is away" "-DUNMAP -DBREAK=NO_LOOK"
fails "found: an event that does not wait for the active" "-DUNMAP -DBREAK=NO_WAIT"
fails "found: mapped before the device has lost it" "-DMIGRATE -DBREAK=MAP_FIRST"
fails "found: freed before it is mapped" "-DREMAP -DBREAK=DROP_FIRST"
fails "found: recorded after the gate" "-DDONTNEED -DBREAK=LATE_RECORD"
fails "found: an isolated page recycled, not staged" "-DREMAP -DBREAK=NO_STAGE"
fails "found: a CPU fault dropped" "$live -DBREAK=DROP_FAULT"
fails "found: a CPU fault of an unmapped page not woken" "$live -DBREAK=NO_WAKE"
fails "found: a device fault that trusts a stale entry" "-DUNMAP -DBREAK=NO_QUIET"
fails "found: a sync that does not wait" "-DDONTNEED -DBREAK=NO_SYNC"
fails "found: a device page never freed" "-DUNMAP -DBREAK=LEAK"
fails "found: a migration before an event that waits" "-DUNMAP -DBREAK=OUT_EARLY"
fails "found: a hole filled where a page is about to move" "-DREMAP -DBREAK=NO_MOVES"
fails "found: registration remembered for too long" "-DUNMAP -DBREAK=NO_FORGET"
fails "found: a fault that backs off for ever" "$live -DBREAK=STAY_BACK"
fails "found: migrations that starve a CPU fault" "$live -DBREAK=NO_ORDER"
fails "known limit: MADV_DONTNEED of a migrated page takes effect twice" "-DDONTNEED -DONCE"

exit $failed
