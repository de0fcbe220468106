#!/bin/sh
# SPDX-License-Identifier: MIT
#
# hmm stat and hmm top --once, on a program that has the counters of one under hmm run.
#
# hmm_stat.sh BUILD-DIRECTORY [WRAPPER]
. "$(dirname "$0")/cli.sh"

help_of stat
expect 125 stat
expect 125 stat x
expect 125 stat 0
expect 125 stat -1
expect 125 stat 99999999999
expect 125 stat $$ 0
expect 125 stat $$ x
expect 125 stat $$ 1 0
expect 125 stat $$ 1 1 1
expect 1 stat 2147483647
says 'no such process' err
expect 1 stat $$
says 'not under hmm run' err
help_of top
expect 125 top x
expect 125 top 1 2
expect 125 top --delay
expect 125 top --delay=0
expect 125 top
says 'no terminal' err
expect 1 top --once $$
says 'not under hmm run' err
expect 0 top --once
says '^ *PID USER '

# Rates: 1100 faults a second, of which 10 of 11 take 4 to 8 us, one 1 to 2 ms. Each look
# is of a busy machine, so they need not be right but about.
rates() {
	expect 0 stat "$pid" 0.5 3
	[ "$(wc -l <"$dir/out")" -eq 4 ] || fail "not a header and three lines"
	head -1 "$dir/out" | grep -q '^state .* p99$' || fail "no header"
	tail -1 "$dir/out" | awk '{
		exit !(NF == 11 && $1 == "holding" && $2 == "19.0M" && $3 == "17.0M" &&
		       $4 == "24.0M" && $5 > 300 && $5 < 3300 && $6 > 60 && $6 < 600 &&
		       $10 ~ /^[4-7]\.[0-9]us$/ && $11 ~ /^[12]\.[0-9]ms$/)
	}' || fail "wrong figures"
}

start
rates
expect 0 stat -j "$pid" 0.1 2
[ "$(wc -l <"$dir/out")" -eq 2 ] || fail "not two lines"
tail -1 "$dir/out" >"$dir/line" && mv "$dir/line" "$dir/out"
json
says "\"pid\": $pid, \"state\": \"holding\", \"device\": \"dummy\""
expect 0 top --once
says "^ *$pid .* holding  *dummy  *24.0M  *19.0M  *17.0M  *5.0M "
expect 0 top --once "$pid"
says '^holding, device dummy: 19.0M resident, limit 24.0M; 17.0M on the device, which takes 5.0M'
says 'D on the device'

# The map: 16 MiB resident, 16 away, 2 half and half, 2 that have come back, 28 not there.
awk -v start="$addr" '
BEGIN { digits = "0123456789abcdef" }
function hex(s,	i, v) {
	for (i = 1; i <= length(s); i++)
		v = v * 16 + index(digits, substr(s, i, 1)) - 1
	return v
}
/ A character is 64.0K$/ { scale = 65536 }
/^[0-9a-f]+ .*[RD+.]/ && length($1) == 12 {
	cells = substr($0, 32)
	for (i = 1; i <= length(cells); i++) {
		at = hex($1) + (i - 1) * 65536 - hex(start)
		c = substr(cells, i, 1)
		if (at < 0 || at >= 64 * 1048576 || c == " ")
			continue
		want = "."
		if (at < 16 * 1048576 || (at >= 34 * 1048576 && at < 36 * 1048576))
			want = "R"
		else if (at < 32 * 1048576)
			want = "D"
		else if (at < 34 * 1048576)
			want = "+"
		seen[want]++
		if (c != want) {
			print "at " at ": " c ", not " want
			bad = 1
		}
	}
}
END { exit bad || !scale || seen["R"] != 288 || seen["D"] != 256 || seen["+"] != 32 }
' "$dir/out" >"$dir/err" || fail "a wrong map"

# What ends meanwhile is no error.
$wrapper "$hmm" stat "$pid" 0.2 >"$dir/out" 2>"$dir/err" 9>&- &
stat=$!
sleep 1
stop
i=0
while kill -0 $stat 2>/dev/null && [ $i -lt 100 ]; do
	sleep 0.1
	i=$((i + 1))
done
kill $stat 2>/dev/null && fail "hmm stat outlives its program"
wait $stat || fail "hmm stat: exit status $? when its program ends"
expect 1 stat "$pid"

for how in close child noblocks; do
	start $how
	rates
	expect 0 top --once "$pid"
	stop
done
says 'does not tell'

start version
expect 1 stat "$pid"
says 'another version' err
stop

# A file that has become shorter is no reason to crash.
start shrink
expect 1 stat "$pid"
expect 0 top --once
stop

# Another user's: root can, others cannot.
if [ "$(id -u)" -eq 0 ] && [ -z "$wrapper" ]; then
	start user
	rates
	stop
	if ordinary; then
		mkdir "$dir/user"
		cp "$hmm" "$build"/src/libhmm.so.0 "$build"/drivers/*/libhmm-*.so.0 "$dir/user"
		chmod -R a+rX "$dir"
		start
		LD_LIBRARY_PATH=$dir/user $as "$dir/user/hmm" stat "$pid" 1 1 \
			>"$dir/out" 2>"$dir/err"
		[ $? -eq 1 ] || fail "another user's program was seen"
		says "another user's" err
		LD_LIBRARY_PATH=$dir/user $as "$dir/user/hmm" top --once \
			>"$dir/out" 2>"$dir/err" || fail "hmm top --once as an ordinary user"
		stop
	fi
fi
end
