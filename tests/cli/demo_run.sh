#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The demo's second half: it shows a program under a limit, or says why it cannot be held.
#
# demo_run.sh BUILD-DIRECTORY SOURCE-DIRECTORY
. "$(dirname "$0")/cli.sh"
source=$2

awk 'BEGIN { for (i = 0; i < 200000; i++) printf "line %d of %d\n", i * 7919 % 200003, i }' >"$dir/text"

# shows STATUS : either of both
shows() {
	[ "$1" -eq 0 ] || fail "exit status $1"
	if grep -q 'cannot be held' "$dir/err"; then
		says 'vm.unprivileged_userfaultfd|UFFDIO_MOVE|userfaultfd' err
		return
	fi
	[ ! -s "$dir/err" ] || fail "a message"
	says '^  same output  *yes$'
	says '^  pages to the device  *[1-9]'
}

timeout 100 "$source/scripts/demo_run" "$build" "$dir/text" >"$dir/out" 2>"$dir/err"
shows $?
timeout 100 "$source/scripts/demo_run" "$build" "$dir/nothing" >"$dir/out" 2>"$dir/err"
says 'nothing to sort' err

ordinary || end
mkdir -p "$dir/user/build/tools/hmm" "$dir/user/scripts"
cp "$hmm" "$build"/src/libhmm.so.0 "$build"/drivers/*/libhmm-*.so.0 "$build"/run/libhmm-run.so \
	"$dir/user/build/tools/hmm" || exit 1
mkdir "$dir/user/build/src" "$dir/user/build/run"
cp "$build"/src/libhmm.so.0 "$build"/drivers/*/libhmm-*.so.0 "$dir/user/build/src"
cp "$build"/run/libhmm-run.so "$dir/user/build/run"
cp "$source/scripts/demo_run" "$dir/user/scripts"
chmod -R a+rX "$dir"
# shellcheck disable=SC2086
LD_LIBRARY_PATH=$dir/user/build/src timeout 100 $as "$dir/user/scripts/demo_run" build "$dir/text" \
	>"$dir/out" 2>"$dir/err"
shows $?
end
