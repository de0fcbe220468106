#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The completion for bash: knows the subcommands, and the options that --help tells of.
#
# completion.sh BUILD-DIRECTORY SOURCE-DIRECTORY
. "$(dirname "$0")/cli.sh"
wrapper=
source=$2

command -v bash >/dev/null || {
	echo "skipped: no bash"
	exit 77
}
PATH=$build/tools/hmm:$PATH
export PATH

# complete WORD... : what the last word could become, a line each
complete() {
	bash --norc -c '
		set -u
		. "$0" || exit 1
		COMP_WORDS=("$@")
		COMP_CWORD=$(($# - 1))
		_hmm 2>/dev/null
		[ ${#COMPREPLY[@]} -eq 0 ] || printf "%s\n" "${COMPREPLY[@]}"
	' "$source/completions/hmm" "$@" >"$dir/out" 2>"$dir/err"
	[ ! -s "$dir/err" ] || fail "complete $*"
}

bash -n "$source/completions/hmm" 2>"$dir/err" || fail "syntax"
bash --norc -c '. "$0" && complete -p hmm' "$source/completions/hmm" >"$dir/out" 2>"$dir/err" ||
	fail "hmm is not completed"

complete hmm ""
for command in $("$hmm" --help | sed -n 's/^  \([a-z]*\) .*/\1/p'); do
	complete hmm ""
	says "^$command\$"
	complete hmm "$command" -
	for option in $("$hmm" "$command" --help | grep -oE -- '^ .*  --[a-z][a-z-]*|^  -., --[a-z][a-z-]*' |
		sed 's/.*\(--\)/\1/' | sort -u); do
		says "^$option=?\$"
	done
done

complete hmm do
[ "$(cat "$dir/out")" = doctor ] || fail "not doctor"
complete hmm devices du
[ "$(cat "$dir/out")" = dummy ] || fail "not dummy"
complete hmm run --device = du
[ "$(cat "$dir/out")" = dummy ] || fail "not dummy after --device="
complete hmm run -d du
[ "$(cat "$dir/out")" = dummy ] || fail "not dummy after -d"
complete hmm bench -d =
complete hmm run --limit = 1G -- ls
says '^ls$'
complete hmm run -l 1G ls
says '^ls$'
touch "$dir/some-file"
complete hmm run --limit = 1G -- ls "$dir/some"
says 'some-file$'
complete hmm run --limit = 1G ls "$dir/some"
says 'some-file$'
complete hmm run -s "$dir/some"
says 'some-file$'
complete hmm top --delay = ""
says '^1$'

start
complete hmm stat ""
says "^$pid\$"
complete hmm top ""
says "^$pid\$"
stop
end
