#!/bin/sh
# Makes the root filesystem of the image: rootfs.sh BINARY OUT [--ocr]
#
# The last stages of deploy/Dockerfile copy OUT and nothing else; `cargo xtask image` runs the very same under chroot. It
# holds the binary, the libraries that it and the driver's own libraries ask for, certificates, a user without rights, and with
# --ocr Tesseract and its English data. No shell and no package manager. Run it on Debian 12 or later, as root (otherwise the
# loader's cache, which only speeds it up, is left out).
set -eu

if [ $# -lt 2 ]; then
    echo "usage: rootfs.sh BINARY OUT [--ocr]" >&2
    exit 2
fi
binary=$1 out=$2 ocr=${3:-}
if [ -e "$out" ]; then
    echo "$out is there already" >&2
    exit 1
fi
machine=$(uname -m)
libraries=$out/usr/lib/$machine-linux-gnu

mkdir -p "$out/usr/bin" "$libraries" "$out/usr/lib64" "$out/usr/share/doc" "$out/etc/ssl/certs" "$out/etc/ld.so.conf.d" \
    "$out/dev" "$out/proc" "$out/sys" "$out/run" "$out/var"
ln -s usr/bin "$out/bin"
ln -s usr/lib "$out/lib"
ln -s usr/lib64 "$out/lib64"
# Writable for whoever the image is run as; a model volume is mounted over /models.
mkdir -m 1777 "$out/tmp" "$out/models"

# The notice of the package that a file comes from.
notice() {
    real=$(readlink -f "$1")
    package=$(dpkg -S "$real" 2>/dev/null || dpkg -S "${real#/usr}" 2>/dev/null || true)
    package=${package%%:*}
    if [ -n "$package" ] && [ -e "/usr/share/doc/$package/copyright" ]; then
        mkdir -p "$out/usr/share/doc/$package"
        cp -L "/usr/share/doc/$package/copyright" "$out/usr/share/doc/$package/copyright"
    fi
}

library() {
    name=$(basename "$1")
    if [ ! -e "$libraries/$name" ]; then
        cp -L "$1" "$libraries/$name"
        notice "$1"
    fi
}

# A program and the libraries it asks for, and those that they ask for.
program() {
    asked=$(ldd "$1")
    if echo "$asked" | grep 'not found' >&2; then
        echo "$1 asks for libraries that are not here" >&2
        exit 1
    fi
    for path in $(echo "$asked" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p'); do
        library "$path"
    done
    cp -L "$1" "$out/usr/bin/$(basename "$1")"
    chmod 755 "$out/usr/bin/$(basename "$1")"
}

# Bytes of files under these paths of the root filesystem.
size() {
    (cd "$out" && find "$@" -type f -printf '%s\n' 2>/dev/null | awk '{ sum += $1 } END { printf "%.1f MB", sum / 1e6 }')
}

program "$binary"
if [ "$(basename "$binary")" != halfbyte ]; then
    mv "$out/usr/bin/$(basename "$binary")" "$out/usr/bin/halfbyte"
fi

# What an archive of `cargo xtask dist` has beside the binary.
for name in LICENSE LICENSE-APACHE LICENSE-MIT THIRD-PARTY-LICENSES; do
    if [ -e "$(dirname "$binary")/$name" ]; then
        mkdir -p "$out/usr/share/doc/halfbyte"
        cp "$(dirname "$binary")/$name" "$out/usr/share/doc/halfbyte/$name"
    fi
done

# The program that loads programs stands where every binary says that it is.
loader=$(ldd "$binary" | sed -n 's/^[[:space:]]*\(\/[^ ]*ld-linux[^ ]*\) .*/\1/p')
mkdir -p "$out/$(dirname "$loader")"
cp -L "$loader" "$out$loader"
notice "$loader"

# What libcuda.so.1, libnvidia-ml.so.1 and libnvidia-ptxjitcompiler.so.1 ask for, which the runtime mounts from the host: parts
# of glibc that are empty since 2.34 and which halfbyte itself may not need.
directory=$(dirname "$(ldd "$binary" | sed -n 's/.*=> \(\/[^ ]*\/libc\.so\.6\) .*/\1/p')")
for name in libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1; do
    library "$directory/$name"
done
base=$(size usr/lib usr/lib64)

# The toolkit of the runtime writes a file here and makes the loader's cache anew; without the folder it fails.
echo 'include /etc/ld.so.conf.d/*.conf' >"$out/etc/ld.so.conf"
# By this file the older runtime knows that libraries belong into /usr/lib/MACHINE-linux-gnu, where the loader looks.
cp -L /etc/debian_version "$out/etc/debian_version"
cp -L /etc/os-release "$out/etc/os-release"

cp -L /etc/ssl/certs/ca-certificates.crt "$out/etc/ssl/certs/ca-certificates.crt"
notice /usr/sbin/update-ca-certificates
cat >"$out/etc/passwd" <<'END'
root:x:0:0:root:/:/sbin/nologin
halfbyte:x:65532:65532:halfbyte:/tmp:/sbin/nologin
END
cat >"$out/etc/group" <<'END'
root:x:0:
halfbyte:x:65532:
END
echo 'hosts: files dns' >"$out/etc/nsswitch.conf"

if [ "$ocr" = --ocr ]; then
    before=$(size usr/lib)
    tesseract=$(command -v tesseract) || {
        echo "tesseract is not installed (Debian: tesseract-ocr)" >&2
        exit 1
    }
    program "$tesseract"
    notice "$tesseract"
    data=$(dirname "$(find /usr/share/tesseract-ocr -name eng.traineddata | head -n 1)")
    mkdir -p "$out$data"
    cp -L "$data/eng.traineddata" "$out$data/"
    cp -RL "$data/configs" "$data/tessconfigs" "$out$data/"
    notice "$data/eng.traineddata"
fi

if [ "$(id -u)" = 0 ]; then
    ldconfig -r "$out" -X
    rm -rf "$out/var/cache"
else
    echo "not root: /etc/ld.so.cache is left out" >&2
fi
# The same files give the same image.
find "$out" -exec touch --no-dereference --date=@315532800 {} +

echo "halfbyte                 $(size usr/bin/halfbyte)"
echo "loader and libraries     $base"
echo "certificates, users      $(size etc)"
if [ "$ocr" = --ocr ]; then
    echo "Tesseract                $(size usr/bin/tesseract)"
    echo "libraries with its own   $(size usr/lib) (without: $before)"
    echo "English data             $(size usr/share/tesseract-ocr)"
fi
echo "notices                  $(size usr/share/doc)"
echo "together                 $(size .)"
