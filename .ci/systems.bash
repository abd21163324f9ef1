# Functions of the scripts that run the tests on another system: sourced, not run. Each script can be
# run alone, says why it is skipped where it cannot have what it needs, and fails if the tests do, or
# if the system ends without having said that they passed.
#
# What a script reads from its environment:
#   WHOLE=1    all tests, not the chosen ones
#   RUN=REGEX  these tests, as -test.run takes them
#   CHOSEN=1   the chosen ones where a script runs all tests
#   TOTAL      how many seconds all of the script may take: half an hour, or six hours with WHOLE
#   SLOW=skip  a script that was stopped after TOTAL or LIMIT is skipped, not failed
#   LIMIT      how many an emulated machine or a test program may take of these
#   NOT_RUN    a file to which a skipped script adds a line, which .ci/run prints at its end
#
# Downloaded kernels and built programs are kept in $cache, below a name that has their version.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

script=.ci/${0##*/}
work=$(mktemp -d "${TMPDIR:-/tmp}/memmapfs-ci.XXXXXX")
trap 'rm -rf "$work"' EXIT
cache=${XDG_CACHE_HOME:-${HOME:-$work}/.cache}/memmapfs-ci
if ! mkdir -p "$cache" 2>/dev/null || [[ ! -w $cache ]]; then
	cache=$work/cache
	mkdir "$cache"
fi
PATH=$PATH:/usr/sbin:/sbin
total=${TOTAL:-${WHOLE:+21600}}
total=${total:-1800}

# The tests that stand for the suite where all of them take too long: results beside the plain file's,
# copy-on-write, faults, hints that the system does not know, holes, flushes, large files, windows, and
# shared memory. Each line of these lists is a name or a pattern of names (check_names).
chosen=(
	TestDifferential TestEveryMethodAfterClose TestPositions TestFarOffsets TestLongReads TestTruncate
	TestCopyOnWriteWindowsKeepEveryPage TestPrivateMapsFollowTheFile TestPrivateMapAfterACut TestViewFault
	TestAdviseRange TestAdviseRangeChecksItsArguments TestSeekHoles TestPunchHoleFreesBlocks
	TestNoFlushWithoutNeed TestSparseTiB TestLargeSparseFile TestWindowsStayInTheirBudget TestHintsAreBounded
	TestTransformingFilesAreNotLent 'TestReadBatch.*' 'TestViewSlice.*'
)

# Those of shared memory, which an emulated machine has on its tmpfs only.
chosen_shared=(
	TestSharedVisibility TestSharedAtomics TestSharedAtomicsBetweenProcesses TestSharedGrowthLock
	TestSharedLockBetweenProcesses 'TestAnonymous.*' TestWaitForOtherProcess TestWaitEnds TestWaitErrors
	TestWaitTruncated
)

# These ask what is in memory, which a tmpfs always is. They take long, so they are run in some modes only.
chosen_on_disk=(TestColdReads TestResidency TestPrefetch)
chosen_modes=('read-only' 'copy-on-write' 'read-write windows of 64 KiB')

# skip ends the script: the system is not run here, for the reason given.
skip() {
	printf 'skipped: %s\n' "$*"
	not_run "$*"
	exit 0
}

# not_run notes what is not run for .ci/run to list, and lets the script go on.
not_run() {
	if [[ -n ${NOT_RUN:-} ]]; then
		printf '%s: %s\n' "$script" "$*" >>"$NOT_RUN"
	fi
}

fail() { printf 'FAILED: %s: %s\n' "$script" "$*" >&2; exit 1; }

# fail_stopped is fail for what hung or was too slow, which SLOW=skip lets pass.
fail_stopped() {
	[[ ${SLOW:-} != skip ]] || skip "$@"
	fail "$@"
}

# within SECONDS COMMAND... ends a program after so many seconds, or when all of the script has taken total.
within() {
	local most=$1 left=$((total - SECONDS))
	shift
	[[ $most -le $left ]] || most=$left
	if [[ $most -le 0 ]]; then
		printf '%s has taken all of its %d s (TOTAL=SECONDS gives it more)\n' "$script" "$total" >&2
		return 124
	fi
	timeout -k 10 "$most" "$@"
}

# stopped tells whether that code is what within returns of a program that it has ended.
stopped() { [[ $1 == 124 || $1 == 137 ]]; }

# need installs the Debian packages of programs that are missing, or skips the script:
# need PROGRAM PACKAGES [PROGRAM PACKAGES]...
need() {
	need_or_not "$@" || skip "$why_not"
}

# need_or_not fails where need would skip, with the reason in why_not.
need_or_not() {
	local wanted=() packages=() program
	while [[ $# -gt 0 ]]; do
		if ! command -v "$1" >/dev/null; then
			wanted+=("$1")
			packages+=("$2")
		fi
		shift 2
	done
	[[ ${#wanted[@]} -gt 0 ]] || return 0
	if ! command -v apt-get >/dev/null; then
		why_not="there is no ${wanted[*]}, and no apt-get to install it with"
		return 1
	fi
	if [[ $(id -u) != 0 ]]; then
		why_not="there is no ${wanted[*]}, and only root can install it"
		return 1
	fi
	why_not="${packages[*]} cannot be installed"
	{
		within 120 apt-get update && DEBIAN_FRONTEND=noninteractive within 600 apt-get \
			-o DPkg::Lock::Timeout=120 install -y --no-install-recommends ${packages[*]}
	} >"$work/apt.log" 2>&1 || return 1
	for program in "${wanted[@]}"; do
		why_not="${packages[*]} was installed, and there is no $program"
		command -v "$program" >/dev/null || return 1
	done
}

# test_packages lists the packages of this module that have tests, without the examples.
test_packages() {
	local patterns=(.)
	if [[ -d tests ]]; then
		patterns+=(./tests/...)
	fi
	go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' "${patterns[@]}"
}

# test_pattern prints what -test.run is to be: RUN, all of them, or the names given, and without any
# the chosen ones.
test_pattern() {
	if [[ -n ${RUN:-} ]]; then
		printf '%s' "$RUN"
	elif [[ -n ${WHOLE:-} ]]; then
		printf '^(Test|Fuzz|Example)'
	else
		[[ $# -gt 0 ]] || set -- "${chosen[@]}" "${chosen_shared[@]}"
		printf '^(%s)$' "$(one_of "$@")"
	fi
}

one_of() {
	local IFS='|'
	printf '%s' "$*"
}

# build_chosen DIRECTORY is build_tests of what the chosen tests need.
build_chosen() {
	local only=''
	[[ -n ${RUN:-}${WHOLE:-} ]] || only=$(one_of "${chosen[@]}" "${chosen_shared[@]}" "${chosen_on_disk[@]}")
	build_tests "$@"
}

# check_names fails if one of the names or patterns given is of no test of this module; without any it
# looks at the chosen ones.
check_names() {
	local name missing=() sources
	if [[ $# == 0 ]]; then
		set -- "${chosen[@]}" "${chosen_shared[@]}" "${chosen_on_disk[@]}"
		for name in "${chosen_modes[@]}"; do
			grep -qF "{\"$name\", " internal/testkit/modes.go || missing+=("$name")
		done
	fi
	mapfile -t sources < <(find . -name '*_test.go' -not -path './.ci/*')
	for name in "$@"; do
		grep -qE "^func $name\(t " "${sources[@]}" || missing+=("$name")
	done
	[[ ${#missing[@]} == 0 ]] || fail "there is no test of this name any more: ${missing[*]}"
}

# build_tests DIRECTORY builds the test programs for GOOS and GOARCH, with the flags of go test that
# follow, and without cgo unless CGO_ENABLED is set: of all packages, or if only is set to a pattern, of
# those with a test of such a name. Each becomes DIRECTORY/NAME.test; the packages' places in the
# repository are in DIRECTORY/places.
build_tests() {
	local directory=$1 package place program code packages=()
	shift
	mkdir -p "$directory"
	for package in $(test_packages); do
		place=${package#"$(go list -m)"}
		place=./${place#/}
		[[ -z ${only:-} ]] || grep -qE "^func ($only)\(t " "$place"/*_test.go || continue
		packages+=("$place")
		printf '%s %s\n' "${package##*/}" "$place" >>"$directory/places"
	done
	[[ -s $directory/places ]] || fail 'there are no tests to build'
	CGO_ENABLED=${CGO_ENABLED:-0} within 900 go test -c "$@" -o "$directory/" "${packages[@]}" && code=0 || code=$?
	! stopped "$code" || fail_stopped 'building the tests hung or was too slow'
	[[ $code == 0 ]] || fail 'the tests cannot be built'
	for program in "$directory"/*.test.exe; do
		[[ ! -e $program ]] || mv "$program" "${program%.exe}"
	done
}

# debian_packages ARCHITECTURE SUITE PACKAGE... prints the names of the files of Debian packages of
# any architecture, downloaded into the cache if they are not there. A package linux-image-SOMETHING that
# only depends on the newest kernel stands for that kernel. This machine's package lists stay as they are.
# It fails where the packages are not to be had.
debian_packages() {
	local architecture=$1 suite=$2 package directory=$cache/debian-$1-$2
	shift 2
	mkdir -p "$directory"
	for package in "$@"; do
		if [[ ! -s $directory/$package.deb ]]; then
			debian_download "$architecture" "$suite" "$package" "$directory" >&2 || return 1
		fi
		printf '%s\n' "$directory/$package.deb"
	done
}

debian_download() {
	local architecture=$1 suite=$2 package=$3 directory=$4 apt=$work/apt-$1-$2 file real
	local keys=/usr/share/keyrings/debian-archive-keyring.gpg
	command -v apt-get >/dev/null && [[ -s $keys ]] || return 1
	if [[ ! -d $apt ]]; then
		mkdir -p "$apt"/{lists,archives}/partial
		printf 'deb [signed-by=%s] %s %s main\n' \
			"$keys" "$(debian_mirror)" "$suite" >"$apt/sources.list"
		cat >"$apt/conf" <<-END
			Dir::State "$apt"; Dir::State::lists "$apt/lists"; Dir::State::status "/dev/null";
			Dir::Cache "$apt"; Dir::Cache::archives "$apt/archives";
			Dir::Etc::sourcelist "$apt/sources.list"; Dir::Etc::sourceparts "-";
			APT::Architecture "$architecture"; APT::Architectures { "$architecture"; };
			APT::Sandbox::User "root"; Acquire::Languages "none";
		END
		APT_CONFIG=$apt/conf within 120 apt-get -qq update 2>/dev/null || true
	fi
	real=$(APT_CONFIG=$apt/conf apt-cache depends --important "$package" 2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
	(cd "$apt" && APT_CONFIG=$apt/conf within 300 apt-get -qq download "${real:-$package}") || return 1
	file=$(find "$apt" -maxdepth 1 -name "${real:-$package}_*.deb" | head -n 1)
	[[ -n $file ]] || return 1
	mv "$file" "$directory/$package.deb.part"
	mv "$directory/$package.deb.part" "$directory/$package.deb"
}

# debian_mirror is where this machine's own Debian packages come from.
debian_mirror() {
	cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
		sed -nE 's#^(URIs:|deb)( \[[^]]*\])? +(https?://[^ ]*/debian)/?( .*)?$#\3#p' | head -n 1
}

# unpack_kernel FILE DIRECTORY unpacks the kernel image and the modules in modules_wanted of a Debian
# package, and sets kernel.
modules_wanted='/(virtio(_ring|_pci|_pci_modern_dev|_pci_legacy_dev|_blk)?|loop|ext4|jbd2|mbcache|crc16'
modules_wanted+='|libcrc32c|crc32c_generic|crc32c-(intel|vpmsum))\.ko$'
unpack_kernel() {
	local file=$1 directory=$2
	mkdir -p "$directory"
	dpkg-deb --fsys-tarfile "$file" >"$work/kernel.tar"
	tar -tf "$work/kernel.tar" | grep -E "^\./boot/vmlinu|$modules_wanted" >"$work/kernel.files"
	tar -xf "$work/kernel.tar" -C "$directory" -T "$work/kernel.files"
	rm "$work/kernel.tar"
	kernel=$(find "$directory/boot" -name 'vmlinu*' | head -n 1)
	[[ -s $kernel ]] || fail "$file has no kernel"
}

# run_here PATTERN [COMMAND...] runs the test programs in $work/tests, two at a time, by the command if there is
# one, each for at most LIMIT seconds; random sequences are few_steps long if that is set.
run_here() {
	local name place code failed=() hung=() passed=0 skipped='' began=$SECONDS
	while read -r name place; do
		while [[ $(jobs -rp | wc -l) -ge 2 ]]; do
			wait -n || true
		done
		run_program "$name" "$place" "$@" &
	done <"$work/tests/places"
	wait
	while read -r name place; do
		code=none
		[[ ! -s $work/tests/$name.code ]] || read -r code <"$work/tests/$name.code"
		if [[ -n ${CONSOLE:-} ]]; then
			cat "$work/tests/$name.log" >>"$CONSOLE"
		fi
		if [[ $code != 0 ]]; then
			failed+=("$name ($code)")
			! stopped "$code" || hung+=("$name")
			{ grep -vE "$log_noise" "$work/tests/$name.log" || true; } | tail -n 200
		fi
		passed=$((passed + $(grep -cE '^--- PASS' "$work/tests/$name.log" || true)))
		skipped+=$(sed -nE "s/^--- SKIP: ([^ ]+).*/ \\1/p" "$work/tests/$name.log" | tr -d '\n')
	done <"$work/tests/places"
	[[ ${#hung[@]} == 0 || ${#hung[@]} -lt ${#failed[@]} ]] || fail_stopped "${hung[*]} hung or was too slow: stopped after $((SECONDS - began)) s"
	[[ ${#failed[@]} == 0 ]] || fail "${failed[*]}${hung[*]:+; stopped, because it hung or was too slow: ${hung[*]}}"
	[[ $passed -gt 0 ]] || fail 'no test was run'
	printf 'ok: %d passed%s, %d s\n' "$passed" "${skipped:+, skipped$skipped}" "$((SECONDS - began))"
}

# run_program NAME PLACE PATTERN [COMMAND...] runs one of them. It leaves what it has printed in NAME.log, and
# how it has ended in NAME.code.
run_program() {
	local name=$1 place=$2 pattern=$3 code limit=${LIMIT:-600} steps=()
	shift 3
	if [[ -n ${few_steps:-} ]]; then
		within 60 "$@" "$work/tests/$name.test" -help >"$work/tests/$name.flags" 2>&1 || true
		! grep -q '^  -steps' "$work/tests/$name.flags" || steps=(-steps "$few_steps")
	fi
	(cd "$place" && within "$((limit + 60))" "$@" "$work/tests/$name.test" -test.short -test.v \
		-test.timeout "${limit}s" -test.run "$pattern" ${test_flags[@]+"${test_flags[@]}"} ${steps[@]+"${steps[@]}"}) \
		>"$work/tests/$name.log" 2>&1 && code=0 || code=$?
	printf '%s\n' "$code" >"$work/tests/$name.code"
}

# log_noise are the lines of -test.v that say nothing of a failure.
log_noise='^ *(=== |--- (PASS|SKIP))|^ +[a-z_]+\.go:[0-9]+: -seed|^PASS'

# x86_machine is what is special of an emulated PC. KVM is left alone: where this machine is a virtual one
# itself, its /dev/kvm may open and yet never bring a kernel up.
x86_machine=(qemu-system-x86_64 -M q35 -accel tcg -cpu max -m 2G -smp 2)

# virtual_machine boots a kernel in an emulated machine and runs the test programs there, on a
# tmpfs and on an ext4 disk. It takes
#
#   virtual_machine NAME ARCHITECTURE SUITE KERNEL-PACKAGE QEMU-PACKAGE QEMU...
#
# with Debian's name of the architecture; GOARCH has to be set. QEMU... is the program and what is special
# of the machine. It is stopped after LIMIT seconds, which is a failure: a quarter of an hour, or four hours
# with WHOLE.
# It sets machine_missing to the reason if the machine is not to be had.
virtual_machine() {
	local name=$1 architecture=$2 suite=$3 package=$4 emulator_package=$5
	local limit=${LIMIT:-${WHOLE:+14400}}
	limit=${limit:-900}
	shift 5
	local root=$work/$name debs began=$SECONDS
	need mkfs.ext4 e2fsprogs cpio cpio dpkg-deb dpkg "$1" "$emulator_package"
	debs=$(debian_packages "$architecture" "$suite" "$package" busybox-static) || {
		machine_missing="Debian's $suite for $architecture, with $package, cannot be downloaded"
		return 0
	}
	machine_missing=
	{
		read -r kernel_file
		read -r busybox_file
	} <<<"$debs"
	unpack_kernel "$kernel_file" "$root"
	dpkg-deb --fsys-tarfile "$busybox_file" | tar -x -C "$root" ./bin/busybox
	mkdir -p "$root/repository"
	git ls-files -z | grep -zv '^\.' | cpio -0 -pdm --quiet "$root/repository"
	build_chosen "$root/tests"
	machine_init >"$root/init"
	chmod +x "$root/init"
	mv "$kernel" "$work/$name.kernel"
	(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/$name.initramfs"
	rm -rf "$root"
	truncate -s 1G "$work/$name.disk"
	mkfs.ext4 -q -F "$work/$name.disk" 2>"$work/mkfs.log" || fail "mkfs.ext4: $(cat "$work/mkfs.log")"
	within "$limit" "$@" -no-reboot -nographic -nic none -kernel "$work/$name.kernel" \
		-initrd "$work/$name.initramfs" -append "$(machine_parameters "$architecture")" \
		-drive "file=$work/$name.disk,if=virtio,format=raw,cache=unsafe" \
		>"$work/$name.console" 2>&1 && code=0 || code=$?
	machine_result "$work/$name.console" "$code" "$began"
	rm -f "$work/$name".*
}

machine_parameters() {
	case $1 in
	ppc64el) printf 'console=hvc0 quiet panic=-1' ;;
	*) printf 'console=ttyS0 quiet panic=-1' ;;
	esac
}

# machine_init prints the program that the kernel starts.
machine_init() {
	local in_memory on_disk modes few=${few_steps:-100}
	in_memory=$(test_pattern)
	on_disk="'$in_memory'"
	if [[ -n ${WHOLE:-} ]]; then
		few=
	elif [[ -z ${RUN:-} ]]; then
		modes=$(one_of "${chosen_modes[@]// /_}")
		on_disk="'$(test_pattern "${chosen[@]}")'"
		on_disk+=" '$(test_pattern "${chosen_on_disk[@]}")/^($modes)\$'"
	fi
	cat <<-END
		#!/bin/busybox sh
		/bin/busybox mkdir -p /proc /sys /dev /tmp /disk /root /etc /sbin /usr/bin /usr/sbin
		/bin/busybox --install -s
		mount -t proc proc /proc
		mount -t sysfs sys /sys
		mount -t devtmpfs dev /dev
		mkdir -p /dev/shm
		mount -t tmpfs -o mode=1777 tmp /dev/shm
		mount -t tmpfs -o mode=1777,size=75% tmp /tmp
		mkdir -p /lib/modules/\$(uname -r)
		depmod 2>/dev/null
		for module in virtio_pci virtio_blk ext4 loop; do modprobe \$module 2>/dev/null; done
		mount -t ext4 /dev/vda /disk || echo 'MACHINE no disk'
		chmod 1777 /disk
		ip link set lo up
		ulimit -n 65536
		export HOME=/root PATH=/bin:/sbin:/usr/bin:/usr/sbin CI=true
		echo root:x:0:0:root:/root:/bin/sh >/etc/passwd
		page=\$(awk '/^KernelPageSize/ { print \$2; exit }' /proc/self/smaps)
		run_tests() {
			cd /repository/\$place
			steps=
			[ -n "$few" ] && /tests/\$name.test -help 2>&1 | grep -q '^  -steps' && steps='-steps $few'
			began=\$(date +%s)
			echo "MACHINE \$filesystem \$name begins"
			/tests/\$name.test -test.short -test.v -test.timeout ${limit}s -test.run "\$pattern" \$steps \
				</dev/null >/log 2>&1 && code=0 || code=\$?
			[ "\$code" = 0 ] || grep -vE '$log_noise' /log | tail -n 200
			grep -E '^--- (PASS|SKIP|FAIL)' /log | sed "s/^/TEST \$filesystem \$name /"
			echo "MACHINE \$filesystem \$name code \$code in \$((\$(date +%s) - began)) s"
		}
		echo
		echo "MACHINE Linux \$(uname -rm), pages of \$page KiB"
		for filesystem in ${FILESYSTEMS:-tmpfs ext4}; do
			if [ \$filesystem = ext4 ]; then
				export TMPDIR=/disk
				set -- $on_disk
			else
				export TMPDIR=/tmp
				set -- '$in_memory'
			fi
			for pattern; do
				while read -r name place; do
					run_tests
				done </tests/places
			done
		done
		echo 'MACHINE end'
		sync
		poweroff -f
	END
}

# machine_result reads what a machine has said on its console. It has to have come to its end, with
# code 0 of each program, and with at least one passed test.
machine_result() {
	local console=$1 code=$2 began=$3 passed skipped
	tr -d '\r' <"$console" >"$console.text"
	grep -E '^MACHINE (Linux|[a-z0-9]+ .* code )' "$console.text" | cut -d ' ' -f 2- || true
	passed=$(grep -cE '^TEST .* --- PASS' "$console.text" || true)
	skipped=$(sed -nE 's/^TEST (.*) --- SKIP: ([^ ]+).*/\2 (\1)/p' "$console.text" | tr '\n' ' ')
	if [[ -n ${CONSOLE:-} ]]; then
		cp "$console.text" "$CONSOLE"
	fi
	if stopped "$code"; then
		tail -n 60 "$console.text"
		! grep -qE '^MACHINE .* code [1-9]' "$console.text" || fail 'tests, before the emulated machine was stopped'
		fail_stopped "the emulated machine hung or was too slow: it was stopped after $((SECONDS - began)) s"
	fi
	if ! grep -q '^MACHINE end' "$console.text"; then
		tail -n 60 "$console.text"
		fail "the machine ended before the tests did (qemu: $code)"
	fi
	if grep -q '^MACHINE no disk' "$console.text" || grep -qE '^MACHINE .* code [1-9]' "$console.text"; then
		grep -vE '^TEST .* --- (PASS|SKIP)|^MACHINE' "$console.text" || true
		fail 'the tests above'
	fi
	[[ $passed -gt 0 ]] || fail 'no test was run'
	printf 'ok: %d passed%s, %d s\n' "$passed" "${skipped:+, skipped $skipped}" "$((SECONDS - began))"
}
