#!/bin/sh
# Runs a program as the image's user in its root filesystem, where nothing can be written but /tmp: run.sh ROOT PROGRAM ARGUMENTS
#
# Needs root, no container engine. Where mounts are not allowed the rights of files alone keep it from writing, and it has
# neither /proc nor /dev; it says so.
set -eu
root=$1
shift
if [ "${HALFBYTE_MOUNTED:-}" = '' ] && unshare --mount true 2>/dev/null; then
    HALFBYTE_MOUNTED=1 exec unshare --mount --propagation private "$0" "$root" "$@"
fi
if [ "${HALFBYTE_MOUNTED:-}" = 1 ]; then
    mount --bind "$root" "$root"
    mount --rbind /proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    mount -o remount,bind,ro "$root"
else
    echo "mounts are not allowed here: no /proc, and only the rights of files keep $root as it is" >&2
fi
unset HALFBYTE_MOUNTED
exec env -i PATH=/usr/bin HOME=/tmp LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64 \
    HALFBYTE_MODEL_DIR=/models HF_HOME=/models/huggingface HALFBYTE_JOBS=off \
    "$(command -v chroot)" --userspec=65532:65532 "$root" "$@"
