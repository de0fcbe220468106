#!/bin/sh
# SPDX-License-Identifier: MIT
#
# hmm doctor: what it says, as root and as an ordinary user; what it tells an ordinary user
# to do is enough.
#
# hmm_doctor.sh BUILD-DIRECTORY [WRAPPER]
. "$(dirname "$0")/cli.sh"

# shape: lines as they should be, and the exit status that goes with them
shape() {
	says '^Linux .* CPUs, .* of memory; as '
	says '^(ok|missing)  *kernel  '
	says '^(ok|note)  *vm.max_map_count  '
	says '^(ok|missing)  *migration  '
	if grep -q '^missing ' "$dir/out"; then
		[ "$1" -eq 1 ] || fail "something is missing, and exit status $1"
		says '^Something is missing'
	else
		[ "$1" -eq 0 ] || fail "nothing is missing, and exit status $1"
		says '^All that is needed is there'
		says '^ok  *migration  *works '
	fi
	awk 'length > 100 { print; bad = 1 } END { exit bad }' "$dir/out" || fail "a long line"
}

help_of doctor
expect 125 doctor too many
expect "0 1" doctor --json
json
# Where the kernel and the privileges are there, nothing may be said to be missing.
case $(head -1 "$dir/out") in
*'"can_migrate": true, "user_mode_only": false'*) want=0 ;;
*) want=1 ;;
esac
expect $want doctor
shape $status

# A copy where an ordinary user can reach it. With a sanitizer that needs more than a user has.
[ -z "$wrapper" ] || end
ordinary || end
mkdir "$dir/user"
cp "$hmm" "$build"/src/libhmm.so.0 "$build"/drivers/*/libhmm-*.so.0 "$dir/user" || exit 1
# What hmm run needs, where it is looked for; and not there.
LD_LIBRARY_PATH=$dir/user "$dir/user/hmm" doctor >"$dir/out" 2>"$dir/err"
if ! grep -q '^ok  *libhmm-run.so ' "$dir/out"; then # it may be installed here
	says '^missing  *libhmm-run.so  *not found '
	says '^ *make install PREFIX='
	LD_LIBRARY_PATH=$dir/user "$dir/user/hmm" run -l 64M true >"$dir/out" 2>"$dir/err"
	[ $? -eq 125 ] || fail "runs without its library"
	says 'hmm doctor' err
fi
chmod -R a+rX "$dir"
as_user() {
	# shellcheck disable=SC2086
	LD_LIBRARY_PATH=$dir/user timeout 60 $as "$dir/user/hmm" "$@" >"$dir/out" 2>"$dir/err"
	status=$?
}
as_user doctor
shape $status
[ ! -s "$dir/err" ] || fail "a message"
if grep -q '^missing  *privilege ' "$dir/out"; then
	says 'sysctl -w vm.unprivileged_userfaultfd=1|--device /dev/userfaultfd'
	# All else is there: memory moves, though not for system calls.
	says '^ok  *migration  *works '
fi
as_user doctor --json
json
as_user bench --size=2M
case $status in
0 | 1) ;;
*) fail "hmm bench as an ordinary user: exit status $status" ;;
esac

# Few descriptors: it says so, and does not crash.
(
	ulimit -n 6
	timeout 60 "$hmm" doctor
) >"$dir/out" 2>"$dir/err"
status=$?
[ $status -eq 1 ] || fail "without descriptors: exit status $status"
says '^(note|missing) '
end
