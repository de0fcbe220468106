#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Programs under hmm run that want more memory than they may have: they end, and nothing is
# lost, whatever locks they hold while they wait.
#
# hmm_run_limit.sh BUILD-DIRECTORY [WRAPPER]
. "$(dirname "$0")/cli.sh"

program=$build/tests/limit_program

"$hmm" run --limit=16M -- /bin/true 2>"$dir/err" || {
	echo "skipped: $(cat "$dir/err")"
	exit 77
}
for threads in 1 2 4; do
	expect 0 run --quiet --limit=16M --stats="$dir/stats" -- "$program" fill $threads 64
	says '^ok$'
	says '^held 1$' stats
done
# An eviction needs the dynamic linker's lock: the limit is not held, for as long as it has it.
expect 0 run --quiet --limit=16M -- "$program" lock 48
says '^ok$'
# fork() needs malloc()'s, whose holder waits at the gate.
expect 0 run --quiet --limit=16M -- "$program" fork 48
says '^ok$'

[ $failed -eq 0 ] && echo "$cases cases"
exit $failed
