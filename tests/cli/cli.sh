# SPDX-License-Identifier: MIT
#
# What the tests of the `hmm` program share. Sourced, with BUILD-DIRECTORY and WRAPPER as
# the script's arguments: in a sanitizer build programs are started by the wrapper.
# shellcheck shell=sh disable=SC2034

build=$1
wrapper=$2
hmm=$build/tools/hmm/hmm
fake=$build/tests/fake_run
dir=$(mktemp -d /tmp/hmm-cli-XXXXXX) || exit 1
failed=0
cases=0

finish() {
	exec 9>&-
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

fail() {
	echo "FAILED: $*"
	for out in out err; do
		[ -s "$dir/$out" ] && sed "s/^/  $out: /" "$dir/$out"
	done
	failed=1
}

# expect STATUSES WORD... : the exit status is one of these. Then what was said is in out and
# err; where it is not 0 nor 1 there must be a message, on standard error alone.
expect() {
	want=$1
	shift
	cases=$((cases + 1))
	timeout 60 $wrapper "$hmm" "$@" >"$dir/out" 2>"$dir/err" </dev/null
	status=$?
	case " $want " in
	*" $status "*) ;;
	*) fail "exit status $status, not $want: hmm $*" ;;
	esac
	if [ $status -ne 0 ] && [ "$status" -ne 1 ]; then
		[ -s "$dir/err" ] || fail "no message: hmm $*"
		[ ! -s "$dir/out" ] || fail "a message on standard output: hmm $*"
	fi
	if [ $status -eq 0 ] && [ -s "$dir/err" ]; then
		fail "exit status 0 and a message: hmm $*"
	fi
}

# says REGEX [FILE]: what was said has such a line
says() {
	grep -Eq -- "$1" "$dir/${2:-out}" || fail "not there: $1"
}

# Standard output is JSON, if there is somebody to ask.
json() {
	command -v python3 >/dev/null || return 0
	python3 -m json.tool <"$dir/out" >/dev/null 2>"$dir/err" || fail "no JSON"
}

# A subcommand's --help and wrong options.
help_of() {
	expect 0 "$1" --help
	says "^usage: hmm $1 "
	says "^Exit status: "
	expect 0 "$1" -h
	expect 125 "$1" --no-such-option
	says "no-such-option.*--help" err
	expect 125 "$1" -Z
	says "\`-Z'" err
}

# start ARGUMENT... : a fake program under hmm run; then $pid and $addr
start() {
	rm -f "$dir/fifo" "$dir/fake"
	mkfifo "$dir/fifo"
	$wrapper "$fake" "$@" <"$dir/fifo" >"$dir/fake" 2>&1 9>&- &
	started=$!
	exec 9>"$dir/fifo"
	i=0
	while [ ! -s "$dir/fake" ] && [ $i -lt 300 ] && kill -0 $started 2>/dev/null; do
		sleep 0.1
		i=$((i + 1))
	done
	pid=
	read -r pid addr <"$dir/fake"
	[ -n "$pid" ] || fail "the fake program did not start: $*"
}

stop() {
	exec 9>&-
	wait "$started"
}

# As an ordinary user: sets $as to what makes a command be that, or skips.
ordinary() {
	as=
	[ "$(id -u)" -eq 0 ] || return 0
	command -v setpriv >/dev/null || {
		echo "skipped: no setpriv to become an ordinary user"
		return 1
	}
	as="setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all"
}

end() {
	[ $failed -ne 0 ] || echo "$cases calls"
	exit $failed
}
