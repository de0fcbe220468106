#!/bin/sh
# SPDX-License-Identifier: MIT
#
# hmm, hmm devices and hmm bench: arguments, exit statuses, what they print.
#
# hmm_devices.sh BUILD-DIRECTORY [WRAPPER]
. "$(dirname "$0")/cli.sh"

expect 0 --help
for command in run stat top doctor devices bench; do
	says "^  $command "
done
expect 0 --version
says '^hmm [0-9]'
expect 125
expect 125 no-such-command
says 'no-such-command' err

help_of devices
expect 0 devices
says '^dummy'
says '^    around '
expect 0 devices dummy
says '^dummy'
expect 0 devices --names
[ "$(grep -vcE '^[a-z0-9]+$' "$dir/out")" = 0 ] || fail "more than names"
head -1 "$dir/out" >"$dir/first"
expect 0 devices
grep -q "^$(cat "$dir/first") (default)" "$dir/out" || fail "the first is not the default"
expect 0 devices --json
json
expect 0 devices --names
mv "$dir/out" "$dir/names"
expect 0 run --devices
cmp -s "$dir/out" "$dir/names" || fail "hmm run knows other devices"
for name in $(cat "$dir/names"); do
	expect 125 run --limit=64M --device="$name,no-such-option=1" true
	says 'no-such-option' err
	expect 125 run --limit=64M --device="$name,around" true
	for value in "" x 1x 1GG -1 0x10 ,; do
		expect 125 run --limit=64M --device="$name,around=$value" true
		says 'around=' err
	done
	# A sanitizer wants to be first in the program that is run.
	[ -n "$wrapper" ] || expect "0 125" run --limit=64M --device="$name,around=1" true
done
expect 1 devices no-such-device
says 'no-such-device' err

expect 125 run --limit=64M --trace= true
says 'empty' err
expect 125 run --limit=64M --stats=/no-such-folder/file true
says '/no-such-folder/file' err
expect 125 run --limit=64M -bZ true
says '`-Z.' err

help_of bench
expect 125 bench --size
expect 125 bench --size=0
expect 125 bench --size=x
expect 125 bench --size=1T
expect 125 bench --device
expect 125 bench --device=no-such-device
expect 125 bench too many

# Migration may be impossible here; then it says so.
for device in $($wrapper "$hmm" devices --names); do
	expect "0 1" bench --device="$device" --size=2M
	if [ $status -eq 1 ]; then
		says 'cannot move here' err
		continue
	fi
	[ "$(grep -c "^$device  *4 KiB " "$dir/out")" = 5 ] || fail "not five figures of $device"
	says "^$device  *2 MiB "
	expect 0 bench --device="$device" --size=2M --json
	json
done

# Standard output that cannot be written to is no success.
if [ -e /dev/full ]; then
	for command in devices doctor "devices --json" --help; do
		# shellcheck disable=SC2086
		$wrapper "$hmm" $command >/dev/full 2>"$dir/err" && fail "full, and 0: hmm $command"
	done
fi
end
