#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The demo's arguments: odd inputs end with 0 and a result, or with a message and
# the exit status that --help tells; never by a signal, never by a hang. (G9, G11)
#
# demo_args.sh BUILD-DIRECTORY
demo=$1/examples/wordindex
dir=$(mktemp -d /tmp/hmm-demo-XXXXXX) || exit 1
trap 'rm -rf "$dir"' EXIT
failed=0

# expect STATUSES ARGUMENT...
expect() {
	want=$1
	shift
	timeout 30 "$demo" "$@" >"$dir/out" 2>&1
	status=$?
	case " $want " in
	*" $status "*) ;;
	*)
		echo "FAILED: exit status $status, not $want: wordindex $*"
		cat "$dir/out"
		failed=1
		;;
	esac
	if [ $status -ne 0 ] && [ ! -s "$dir/out" ]; then
		echo "FAILED: no message: wordindex $*"
		failed=1
	fi
}

: >"$dir/empty"
printf 'word' >"$dir/one"
printf '\000\001\377\376' >"$dir/binary"
head -c 200000 /dev/zero | tr '\000' 'a' >"$dir/long"
i=0
while [ $i -lt 3000 ]; do
	echo "alpha beta $i gamma delta $((i * 7919 % 1000))"
	i=$((i + 1))
done >"$dir/text"

expect 0 --help
expect 2 --no-such-option
expect 2 --top
expect 2 --top x "$dir/text"
expect 2 --threads 0 "$dir/text"
expect 2 --threads 100000 "$dir/text"
expect 2 --device-memory 1Q "$dir/text"
expect "1 2" "$dir/there is none"
expect "0 1 2" "$dir/empty"
expect "0 1 2" "$dir/binary"
expect "0 77" "$dir/one"
expect "0 77" "$dir/long"
expect "0 77" "$dir/text"
expect "0 77" --top 0 "$dir/text"
expect "0 77" --threads 1 "$dir/text"
expect "0 77" --threads 64 "$dir/text"
expect "0 1 2 77" --device-memory 4K "$dir/text"
expect "0 77" "$dir"
exit $failed
