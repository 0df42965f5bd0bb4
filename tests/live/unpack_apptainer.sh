#!/bin/sh
# Unpacks Apptainer from Debian's unstable suite, with the C library that it needs, in /opt/slipworks-apptainer.
#
# For test machines whose own distribution has no Apptainer. Run as root, on a Debian host (any release), with
# PATCHELF naming a patchelf. Packages come from the host's own Debian mirror and are checked against Debian's
# keys; apt's lists and dpkg's records of this machine stay as they are. Nothing outside the two paths below
# changes. To remove it: rm -r /opt/slipworks-apptainer /usr/local/bin/apptainer
set -eu
home=/opt/slipworks-apptainer
link=/usr/local/bin/apptainer
keys=/usr/share/keyrings/debian-archive-keyring.gpg
die() {
    printf 'error: %s\n' "$1" >&2
    exit 20
}

[ -r "$keys" ] || die "Apptainer is unpacked from Debian's packages, and this host has no Debian keys ($keys)"
# shellcheck disable=SC1091
codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -v codename="$codename" '$2 == codename && $3 == "main" { print $1; exit }')
[ -n "$mirror" ] || die "no mirror of Debian $codename found in this host's apt sources"
[ ! -e "$link" ] || die "$link is there already"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/packages"
: >"$work/status"
printf 'deb [signed-by=%s] %s sid main\n' "$keys" "$mirror" >"$work/sources.list"
cat >"$work/apt.conf" <<END
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "$work/state";
Dir::State::status "$work/status";
Dir::Cache "$work/cache";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
APT::Sandbox::User "root";
END
export APT_CONFIG="$work/apt.conf"
apt-get -qq update
(cd "$work/packages" && apt-get -qq download apptainer libc6 libseccomp2 libsqlite3-0)

new=$home.new
rm -rf "$new"
mkdir -p "$new/libraries"
dpkg -x "$work"/packages/apptainer_*.deb "$new"
for library in libc6 libseccomp2 libsqlite3-0; do
    dpkg -x "$work"/packages/"$library"_*.deb "$work/unpacked"
done
find "$work/unpacked"/usr/lib/*-linux-gnu* -maxdepth 1 -name '*.so*' -exec cp -a -t "$new/libraries" {} +
loader=$(cd "$new/libraries" && echo ld-linux-*.so.*)
for program in "$new/usr/bin/apptainer" "$new"/usr/lib/*/apptainer/bin/starter; do
    "$PATCHELF" --set-interpreter "$home/libraries/$loader" "$program"
    "$PATCHELF" --force-rpath --set-rpath "$home/libraries" "$program"
done
# A moved Apptainer finds its files from the place of the program: `apptainer` looks for them under usr, and its
# `starter`, which Debian puts one folder deeper than its authors do, under usr/lib.
mkdir -p "$new/var/lib/apptainer/mnt/session"
ln -s ../etc ../var "$new/usr/"
ln -s ../../etc ../../var ../bin "$new/usr/lib/"
ln -s . "$new/usr/lib/lib"
rm -rf "$home"
mv "$new" "$home"
ln -s "$home/usr/bin/apptainer" "$link"
"$link" --version >&2
