#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
#
# What the files of the io_ptdump debugfs interface are to the file system, when they come and go,
# and which streams of an SMMUv3 have directories. Usage: ptdump_files.sh [TEST ..]

DIR="$(dirname "$(readlink -f "$0")")"
. "${KSELFTEST:-$DIR/../kselftest}/ktap_helpers.sh"

export LC_ALL=C
DEBUGFS=/sys/kernel/debug
DOMAINS=$DEBUGFS/iommu/domains
SMMU=$DEBUGFS/iommu/arm_smmu_v3
NAME=iommu_ptdump_test
MODULE=$DEBUGFS/$NAME
FILES="entries info page_table stats"
FORMAT=
loaded=
why=

say()
{
	ktap_print_msg "$*"
}

# One line for the module; what it answers in $answer.
command()
{
	# A write of the shell's may be cut up, one of printf's is one.
	printf '%s\n' "$1" > $MODULE/control 2> /dev/null
	answer="$(cat $MODULE/status)"
	case "$answer" in
	"1 ok"*)
		return 0;;
	esac
	say "$1: $answer"
	return 1
}

# A new software table; its directory's name in $id.
table()
{
	command "domain $1 $FORMAT" || return 1
	id="${answer#*id=}"
	id="${id%% *}"
}

insert()
{
	if [ -e "$DIR/test_modules/$NAME.ko" ]; then
		insmod "$DIR/test_modules/$NAME.ko" 2> /dev/null
	else
		modprobe "$NAME" 2> /dev/null
	fi
}

missing()
{
	if [ "$(id -u)" != 0 ]; then
		echo "it needs root"
		return
	fi
	if [ ! -d $DEBUGFS/iommu ]; then
		echo "no iommu in debugfs (CONFIG_IOMMU_DEBUGFS)"
	elif [ ! -d $DOMAINS ]; then
		echo "no iommu/domains in debugfs (CONFIG_IOMMU_PTDUMP_DEBUGFS)"
	elif [ ! -d $MODULE ] && ! insert; then
		echo "no module $NAME (build test_modules with KDIR=)"
	fi
}

# Where the kernel says that it has the option, there is no excuse
domains_are_there()
{
	[ -d $DOMAINS ] && return 0
	if zcat /proc/config.gz 2> /dev/null | grep -q '^CONFIG_IOMMU_PTDUMP_DEBUGFS=y'; then
		say "CONFIG_IOMMU_PTDUMP_DEBUGFS=y, and $missing"
		return 1
	fi
	why="$missing"
	return 4
}

ids_count_up_and_do_not_come_back()
{
	table a || return 1
	first=$id
	table b || return 1
	second=$id
	command "destroy a" && table c || return 1
	for name in $first $second $id; do
		case "$name" in
		0* | *[!0-9]*)
			say "$name is no decimal id"
			return 1;;
		esac
	done
	if [ "$id" = "$first" ] || [ "$first" = "$second" ]; then
		say "$first, $second, and $id after the first was freed"
		return 1
	fi
}

directories_are_there_with_the_domain()
{
	for name in a b c d e f; do
		table $name || return 1
		if [ ! -d "$DOMAINS/$id" ]; then
			say "no directory $id"
			return 1
		fi
	done
}

directories_are_gone_with_the_domain()
{
	table a || return 1
	command "destroy a" || return 1
	[ ! -e "$DOMAINS/$id" ] && return 0
	say "directory $id is there after the domain was freed"
	return 1
}

directory_holds_the_files()
{
	table a || return 1
	for file in $FILES; do
		[ -f "$DOMAINS/$id/$file" ] && continue
		say "no $file in $(ls "$DOMAINS/$id" | tr '\n' ' ')"
		return 1
	done
}

files_are_for_root_to_read()
{
	table a || return 1
	for file in $FILES; do
		have="$(stat -c '%a %u %F' "$DOMAINS/$id/$file")"
		case "$have" in
		"400 0 regular"*)
			;;
		*)
			say "$file: $have"
			return 1;;
		esac
	done
}

writes_are_invalid()
{
	table a || return 1
	for file in $FILES; do
		# a shell's own echo does not always say why
		said="$(echo 1 | dd of="$DOMAINS/$id/$file" conv=notrunc 2>&1)"
		case "$said" in
		*"Invalid argument"*)
			;;
		*)
			say "a write to $file: ${said:-succeeds}"
			return 1;;
		esac
	done
}

empty_table_is_an_empty_file()
{
	table a || return 1
	for file in page_table entries; do
		if ! text="$(cat "$DOMAINS/$id/$file" 2>&1)" || [ -n "$text" ]; then
			say "$file: $text"
			return 1
		fi
	done
}

# The linear map, modules and the kernel's text begin with these. IOVAs and raw words do too.
no_kernel_pointers()
{
	table a || return 1
	command "map a 0x1000000 0x41000000 64K rw" || return 1
	found="$(cat "$DOMAINS/$id"/* | grep -v ^aperture: |
		sed 's/^0x[0-9a-f]*-0x[0-9a-f]*//; s/^[0-9] 0x[0-9a-f]*//; s/raw 0x[0-9a-f]*//' |
		grep -E '0xffff[0-9a-f]{12}')"
	[ -z "$found" ] && return 0
	echo "$found" | while read -r line; do
		say "a kernel address: $line"
	done
	return 1
}

reading_prints_nothing()
{
	table a || return 1
	command "map a 0x1000000 0x41000000 64K rw" || return 1
	for try in one two three; do
		echo "$NAME: reading begins $$ $try" > /dev/kmsg
		cat "$DOMAINS"/*/* > /dev/null
		# others may print meanwhile, but not three times
		said="$(dmesg | sed "1,/reading begins $$ $try/d")"
		[ -z "$said" ] && return 0
	done
	say "$said"
	return 1
}

open_file_keeps_nothing_alive()
{
	table a || return 1
	command "map a 0x1000000 0x41000000 64K rw" || return 1
	exec 3< "$DOMAINS/$id/page_table"
	command "destroy a"
	said="$(cat <&3 2>&1)"
	exec 3<&-
	case "$said" in
	*"Input/output error"* | *"I/O error"*)
		return 0;;
	esac
	say "reading on: ${said:-nothing}"
	return 1
}

reset_leaves_domains_as_before()
{
	before="$(ls $DOMAINS)"
	for name in a b c d e f; do
		table $name || return 1
	done
	command reset
	[ "$(ls $DOMAINS)" = "$before" ] && return 0
	say "domains: $(ls $DOMAINS), before: $before"
	return 1
}

reloading_leaves_domains_as_before()
{
	if [ -z "$loaded" ]; then
		why="module $NAME was loaded by somebody else"
		return 4
	fi
	table a || return 1
	directory=$id
	rmmod $NAME || return 1
	if [ -e "$DOMAINS/$directory" ]; then
		say "$directory is there without its owner"
		return 1
	fi
	insert && table a && [ -d "$DOMAINS/$id" ]
}

streams_have_their_directories()
{
	if [ ! -d $SMMU ]; then
		why="no arm_smmu_v3 in debugfs/iommu (CONFIG_ARM_SMMU_V3)"
		return 4
	fi
	seen=
	for stream in $SMMU/*/stream_table/*; do
		[ -d "$stream" ] || continue
		seen=yes
		case "${stream##*/}" in
		0?* | *[!0-9]*)
			say "$stream is no stream id in decimal"
			return 1;;
		esac
		modes="$(stat -c %a "$stream/ste" "$stream/cd" | tr '\n' ' ')"
		if [ "$modes" != "400 400 " ]; then
			say "$stream: $(ls -l "$stream")"
			return 1
		fi
		links=
		for link in "$stream"/*; do
			[ -L "$link" ] || continue
			links=yes
			target="$(readlink "$link")"
			case "$target" in
			/*)
				say "$link is not relative"
				return 1;;
			esac
			if [ ! -d "$link/" ] || [ "${target##*/}" != "${link##*/}" ]; then
				say "$link leads to $target"
				return 1
			fi
		done
		if [ -z "$links" ]; then
			say "$stream names no device"
			return 1
		fi
	done
	if [ -z "$seen" ]; then
		why="no device behind an SMMUv3"
		return 4
	fi
}

# The tests in order, each with the rules that it is about
TESTS="domains_are_there LAY-1
ids_count_up_and_do_not_come_back LAY-3
directories_are_there_with_the_domain LAY-2 LAY-4
directories_are_gone_with_the_domain LAY-4
directory_holds_the_files LAY-2
files_are_for_root_to_read LAY-5
writes_are_invalid LAY-5
empty_table_is_an_empty_file RNG-6
no_kernel_pointers LAY-6
reading_prints_nothing LAY-7
open_file_keeps_nothing_alive CON-9
reset_leaves_domains_as_before FLT-4
reloading_leaves_domains_as_before FLT-4
streams_have_their_directories STE-1"

# ktap_test_skip has no room for a reason
skipped()
{
	__ktap_test ok "$1" "SKIP $why"
	KTAP_CNT_SKIP=$((KTAP_CNT_SKIP + 1))
}

# A kernel has one of these formats at least where it has something to dump.
choose_format()
{
	for format in amdv1 arm_64_lpae_s1 vtdss x86_64 riscv_64; do
		FORMAT=format=$format
		command reset > /dev/null
		command "domain a $FORMAT" > /dev/null || continue
		case "$answer" in
		*" id=? "*)
			why="module $NAME does not know the directories of this dump";;
		esac
		return 0
	done
	why="no page table (CONFIG_IOMMU_PT_AMDV1 or CONFIG_IOMMU_IO_PGTABLE_LPAE)"
}

# What the kernel has warned of since it booted: a bad page, an oops, a warning, a soft lockup
tainted()
{
	echo $(($(cat /proc/sys/kernel/tainted) & 0x42a0))
}

# Run a test; what it returns, and a failure where the kernel warned meanwhile.
run_test()
{
	taint=$(tainted)
	$1
	result=$?
	if [ "$(tainted)" != "$taint" ]; then
		say "the kernel is tainted: it printed a warning"
		result=1
	fi
	return $result
}

if [ $# -gt 0 ]; then
	TESTS="$(echo "$TESTS" | grep -E "^($(echo "$*" | tr ' ' '|')) ")"
fi
ktap_print_header
ktap_set_plan "$(echo "$TESTS" | grep -c .)"
if ! grep -q " $DEBUGFS debugfs " /proc/mounts; then
	mount -t debugfs none $DEBUGFS 2> /dev/null && trap 'umount $DEBUGFS' EXIT
fi
[ -d $MODULE ] || loaded=yes
missing="$(missing)"
if [ -z "$missing" ]; then
	choose_format
	missing="$why"
fi
while read -r test rules <&9; do
	if [ -n "$missing" ] && { [ "$test" != domains_are_there ] || [ "$(id -u)" != 0 ]; }; then
		why="$missing"
		skipped "$test"
		continue
	fi
	why=
	[ -n "$missing" ] || command reset
	run_test "$test"
	case $? in
	0)
		ktap_test_pass "$test";;
	4)
		skipped "$test";;
	*)
		say "$test: $rules"
		ktap_test_fail "$test";;
	esac
done 9<<END
$TESTS
END
if [ -d $MODULE ]; then
	command reset
	[ -z "$loaded" ] || rmmod $NAME
fi
if [ "$KTAP_CNT_SKIP" -eq "$KSFT_NUM_TESTS" ]; then
	ktap_print_totals
	exit "$KSFT_SKIP"
fi
ktap_finished
