# SPDX-License-Identifier: MIT
#
# Counts test cases in meson's JSON log, one line a program, for scripts/check.
#
# in:  dir (name of the build), status (exit status of `meson test`), counts
#      (file to append "passed failed skipped" to)
# out: the cases that failed or were skipped, and the last lines of the output
#      of each program that failed

BEGIN {
	tail_lines = 60
	bad = "FAIL|ERROR|TIMEOUT|INTERRUPT|UNEXPECTEDPASS"
}

# The value of a member of the line, escapes still in; keys inside strings
# cannot match, because their quotes are escaped.
function member(key,	at, rest)
{
	at = index(line, "\"" key "\": ")
	if (!at)
		return ""
	rest = substr(line, at + length(key) + 4)
	if (substr(rest, 1, 1) == "\"") {
		rest = substr(rest, 2)
		return substr(rest, 1, index(rest, "\"") - 1)
	}
	match(rest, /^-?[0-9.]+/)
	return RLENGTH > 0 ? substr(rest, 1, RLENGTH) : ""
}

function unescape(s)
{
	gsub(/\\t/, "\t", s)
	gsub(/\\r/, "", s)
	gsub(/\002/, "\"", s)
	gsub(/\001/, "\\", s)
	return s
}

function show_tail(what, text,	n, i, lines)
{
	n = split(text, lines, /\\n/)
	while (n > 0 && lines[n] == "")
		n--
	if (!n)
		return
	printf "  ---- %s%s ----\n", what, (n > tail_lines ? ", last " tail_lines " lines" : "")
	for (i = n > tail_lines ? n - tail_lines + 1 : 1; i <= n; i++)
		printf "  %s\n", unescape(lines[i])
}

# One TAP result. A child that a test forks may report a case a second time, so
# a case is known by number and name, and its worst result stands.
function record(key, result)
{
	if (!(key in seen))
		order[++cases] = key
	if (!(key in seen) || result > seen[key])
		seen[key] = result
}

function read_tap(text,	n, i, lines, l, plan_line)
{
	cases = planned = 0
	split("", seen)
	split("", order)
	n = split(text, lines, /\\n/)
	for (i = 1; i <= n; i++) {
		l = lines[i]
		if (l ~ /^1\.\.[0-9]+$/) {
			planned += substr(l, 4)
		} else if (l ~ /^(not )?ok [0-9]+ # SKIP/) {
			sub(/^(not )?ok /, "", l)
			sub(/ # SKIP/, "", l)
			record(l, SKIP)
		} else if (l ~ /^ok [0-9]+/) {
			record(substr(l, 4), PASS)
		} else if (l ~ /^not ok [0-9]+/) {
			record(substr(l, 8), FAIL)
		}
	}
}

BEGIN { PASS = 1; SKIP = 2; FAIL = 3 }

{
	line = $0
	gsub(/\\\\/, "\001", line)
	gsub(/\\"/, "\002", line)
	name = member("name")		# "project:suite / test"
	sub(/^[^:]*:/, "", name)
	result = member("result")
	rc = member("returncode")
	out = member("stdout")
	err = member("stderr")

	p = f = s = 0
	why = ""
	read_tap(out)
	for (i = 1; i <= cases; i++) {
		if (seen[order[i]] == PASS) {
			p++
		} else if (seen[order[i]] == SKIP) {
			s++
			printf "SKIP %s: %s: case %s\n", dir, name, unescape(order[i])
		} else {
			f++
			printf "FAIL %s: %s: case %s\n", dir, name, unescape(order[i])
		}
	}

	if (result ~ "^(" bad ")$") {
		if (result == "TIMEOUT")
			why = "ran into its time limit"
		else if (rc < 0)
			why = sprintf("killed by signal %d", -rc)
		else if (!f)
			why = "exit status " rc
		else if (rc == 66)
			why = "sanitizer report"
	} else if (result == "SKIP") {
		if (!cases) {
			s = 1
			printf "SKIP %s: %s: the whole program\n", dir, name
			show_tail("output", out)
		}
	} else if (cases < planned) {
		why = "only " cases " of " planned " cases ran"
	} else if (!cases) {
		p = 1
	}
	if (why != "") {
		f++
		printf "FAIL %s: %s: %s\n", dir, name, why
	}
	if (f) {
		show_tail("standard output", out)
		show_tail("standard error", err)
	}
	passed += p
	failed += f
	skipped += s
}

END {
	if (status != 0 && !failed) {
		printf "FAIL %s: meson test ended with status %s\n", dir, status
		failed++
	}
	printf "%d %d %d\n", passed, failed, skipped >> counts
}
