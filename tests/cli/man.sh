#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The manual pages are without a warning of the formatter, there is one of each subcommand,
# and each option that --help tells of is in it.
#
# man.sh BUILD-DIRECTORY SOURCE-DIRECTORY
. "$(dirname "$0")/cli.sh"
wrapper=
source=$2

if command -v mandoc >/dev/null; then
	check() { mandoc -T lint -W warning "$1"; }
elif command -v groff >/dev/null; then
	check() { groff -ww -mandoc -Tutf8 -z "$1"; }
elif command -v man >/dev/null; then
	check() { man --warnings=all -l "$1" >/dev/null; }
else
	echo "skipped: neither mandoc nor groff nor man is there"
	exit 77
fi

for page in "$source"/man/*.1; do
	check "$page" >"$dir/out" 2>&1
	[ ! -s "$dir/out" ] || fail "$page"
	sed -n 's/^\.Xr \(hmm[a-z-]*\) 1.*/\1/p' "$page" | while read -r name; do
		[ -e "$source/man/$name.1" ] || echo "$page refers to $name"
	done >"$dir/out"
	[ ! -s "$dir/out" ] || fail "a page that is not there"
done
: >"$dir/out"

for command in $("$hmm" --help | sed -n 's/^  \([a-z]*\) .*/\1/p'); do
	page=$source/man/hmm-$command.1
	[ -e "$page" ] || fail "no page hmm-$command(1)"
	for option in $("$hmm" "$command" --help | sed -nE 's/^  (-., )?(--[a-z][a-z-]*).*/\2/p' | sort -u); do
		grep -q -- "Fl .*${option#-}" "$page" || fail "hmm-$command(1) lacks $option"
	done
done
end
