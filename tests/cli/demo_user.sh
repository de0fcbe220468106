#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The demo as an ordinary user: it works, or says what to change. (G11)
#
# demo_user.sh BUILD-DIRECTORY
build=$1
dir=$(mktemp -d /tmp/hmm-demo-XXXXXX) || exit 1
trap 'rm -rf "$dir"' EXIT

# Where an ordinary user can reach it.
cp "$build/examples/wordindex" "$build/src/libhmm.so.0" \
	"$build/drivers/dummy/libhmm-dummy.so.0" "$dir" || exit 1
i=0
while [ $i -lt 2000 ]; do
	echo "the quick brown fox number $i jumps over the lazy dog $((i % 7))"
	i=$((i + 1))
done >"$dir/text"
chmod -R a+rX "$dir"
LD_LIBRARY_PATH=$dir
export LD_LIBRARY_PATH

if [ "$(id -u)" -ne 0 ]; then
	timeout 30 "$dir/wordindex" "$dir/text" >"$dir/out" 2>&1
elif command -v setpriv >/dev/null; then
	timeout 30 setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all \
		"$dir/wordindex" "$dir/text" >"$dir/out" 2>&1
else
	echo "skipped: no setpriv to become an ordinary user"
	exit 77
fi
status=$?
cat "$dir/out"

case $status in
0)
	grep -q the "$dir/out" && exit 0
	echo "FAILED: exit status 0 without a result"
	;;
77)
	grep -q vm.unprivileged_userfaultfd "$dir/out" && exit 0
	echo "FAILED: does not say what to change"
	;;
124)
	echo "FAILED: HANG"
	;;
*)
	echo "FAILED: exit status $status"
	;;
esac
exit 1
