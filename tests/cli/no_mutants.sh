#!/bin/sh
# SPDX-License-Identifier: MIT
#
# A normal build has nothing of the mutants in it (src/mm/mutant.h): not the variable that
# chooses one, no symbol, none of their names, none of their faults' descriptions.
#
# no_mutants.sh SOURCE-DIRECTORY BUILD-DIRECTORY
header=$1/src/mm/mutant.h
lib=$2/src/libhmm.so
failed=0

names=$(sed -n 's/^\tM(\([A-Z_]*\),.*/\1/p' "$header")
faults=$(sed -n 's/^\tM([A-Z_]*, "\([^"]*\)".*/\1/p' "$header")
[ "$(echo "$names" | wc -l)" -ge 20 ] || {
	echo "FAILED: cannot read the mutants' names in $header"
	exit 1
}

# Also the debug information, if there is any.
found=$(grep -aoiE '[[:print:]]*mutant[[:print:]]*' "$lib"
	echo "$names" | grep -aowFf - "$lib"
	echo "$faults" | grep -aoFf - "$lib")
if [ -n "$found" ]; then
	echo "FAILED: in $lib there is:"
	echo "$found" | sort -u
	failed=1
fi
[ -s "$lib" ] || failed=1
exit $failed
