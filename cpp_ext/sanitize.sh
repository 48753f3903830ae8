#!/bin/sh
# Runs the kernels' tests under a sanitizer:  cpp_ext/sanitize.sh address|thread [pytest arguments]
# `address` includes the undefined-behaviour sanitizer.  PYTHON names the interpreter, which needs
# the packages of the `dev` extra; the build lands in build/sanitize-*.
set -eu
kind=$1
shift
python=${PYTHON:-python3}
case $kind in
    address) flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined" ;;
    thread) flags="-fsanitize=thread" ;;
    *) echo "usage: $0 address|thread [pytest arguments]" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
target=$PWD/build/sanitize-$kind
CFLAGS="$flags -g -O1 -fno-omit-frame-pointer" LDFLAGS="$flags" \
    "$python" setup.py --quiet build --build-base "$target-objects" --build-lib "$target"
preload=$("${CXX:-g++}" -print-file-name="lib$(echo "$kind" | cut -c1)san.so")
# OpenBLAS, in the reference, has threads that the sanitizer cannot follow.
export OPENBLAS_NUM_THREADS=1
# Python itself leaks on exit, by design.
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1
LD_PRELOAD="$preload $("${CXX:-g++}" -print-file-name=libstdc++.so)" PYTHONPATH=$target \
    "$python" -m pytest tests/cpp_ext -p no:cacheprovider --capture=sys "$@"
