#!/bin/sh
# Installs a stack from its hash lock into /opt/stack, for any platform, without running foreign code.
#
#   install.sh INTERPRETER LOCK ARCH GLIBC [SOURCE...]
#
# INTERPRETER  the base's Python; /opt/stack/bin/python points at it, here and in the image
# LOCK, ARCH   /build/LOCK-ARCH.lock is installed; ARCH is amd64 or arm64, or the kernel's word for it
# GLIBC        the oldest glibc that the wheels may ask for, as 2.35
# SOURCE       packages that exist only as sources (pure Python); everything else must be a wheel
#
# The lock rides in the image as /opt/stack/stack.lock. /build/cuda_home.py, if it is there, makes CUDA's wheels
# a CUDA_HOME: /opt/stack/lib/python3.X/site-packages/nvidia/cu13.
#
# Read if they are there, and never part of the image: /run/secrets/index (lines NAME='value' with settings of
# pip and uv), /run/secrets/ca (certificates to trust, PEM). /build/cache outlives a build where it is mounted.
set -eu
umask 022
interpreter=$1 lock=$2 arch=$3 glibc=$4
shift 4

case $arch in
    amd64 | x86_64) arch=amd64 machine=x86_64 ;;
    arm64 | aarch64) arch=arm64 machine=aarch64 ;;
    *) echo "error: no such architecture: $arch, expected amd64 or arm64" >&2; exit 2 ;;
esac

if [ -f /run/secrets/index ]; then
    set -a
    . /run/secrets/index
    set +a
fi
if [ -f /run/secrets/ca ]; then
    export SSL_CERT_FILE=/run/secrets/ca REQUESTS_CA_BUNDLE=/run/secrets/ca PIP_CERT=/run/secrets/ca
fi
export PIP_CACHE_DIR=/build/cache/pip UV_CACHE_DIR=/build/cache/uv UV_LINK_MODE=copy
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
# No file of the base decides anything here.
export PIP_CONFIG_FILE=/dev/null UV_NO_CONFIG=1 UV_PYTHON_DOWNLOADS=never

"$interpreter" -m venv /build/tools
/build/tools/bin/python -m pip install --quiet --require-hashes --only-binary :all: --no-deps \
    --requirement /build/build.lock
uv=/build/tools/bin/uv

for package; do
    set -- "$@" --no-binary "$package"
    shift
done
"$uv" venv --quiet --relocatable --no-project --python "$interpreter" /opt/stack
# The lock is complete: following dependencies would only bring back what it leaves out on purpose.
# Every file is checked by its hash, so it does not matter which index offers it.
# The .pyc files know their sources by a hash, not by a time: whoever packs the image may change times.
stack() {
    PYC_INVALIDATION_MODE=CHECKED_HASH PYTHONHASHSEED=0 "$uv" pip install "$@" --python /opt/stack/bin/python --no-deps \
        --python-platform "$machine-manylinux_$(echo "$glibc" | tr . _)" --index-strategy unsafe-best-match \
        --require-hashes --only-binary :all: --build-constraints /build/build.lock \
        --compile-bytecode --requirement "/build/$lock-$arch.lock"
}
{ stack "$@" || : >/build/failed; } 2>&1 | tee /build/said
if [ -e /build/failed ]; then
    # Which file had the wrong hash uv tells only when it is verbose: once more, for that line alone.
    # shellcheck disable=SC2016
    wrong=$(sed -n 's/.*Hash mismatch for `\([^`]*\)`.*/\1/p' /build/said)
    [ -z "$wrong" ] || stack "$@" --verbose 2>&1 | grep -aF "Selecting: $wrong " || :
    exit 1
fi

if [ -f /build/cuda_home.py ]; then
    for site in /opt/stack/lib/python3*/site-packages; do
        "$interpreter" -B /build/cuda_home.py "$site" "$machine"
    done
fi
cp "/build/$lock-$arch.lock" /opt/stack/stack.lock

# The same inputs give the same bytes: the layer holds no build time. 1980: zip files know no earlier one.
find /opt/stack -print0 | xargs -0 touch --no-dereference --date=@315532800
rm -rf /build/tools /build/said
