#!/bin/sh
# Builds the image for any processor and asks the server in it for its health: make check-container.
#
# Needs buildah.  The base image comes from the registry or, with BASE=FOLDER, from a folder that
# debootstrap made: debootstrap --variant=minbase bookworm FOLDER.  OPTIONS are more of buildah's,
# for a network with certificates of its own: OPTIONS="-v /my.crt:/my.crt:ro --network host".
set -eu
cd "$(dirname "$0")/.."
export BUILDAH_ISOLATION="${BUILDAH_ISOLATION:-chroot}"
if [ -n "${BASE:-}" ]; then
    base=$(buildah from scratch)
    buildah add -q "$base" "$BASE" /
    buildah commit -q "$base" docker.io/library/debian:bookworm-slim
    buildah rm "$base" >/dev/null
fi
# The format of Docker: that of OCI has no health checks.
# shellcheck disable=SC2086
buildah bud --format docker --layers --target cpu -t fusematte ${OPTIONS:-} .
made=$(buildah from --pull-never localhost/fusematte)
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; buildah rm "$made" >/dev/null' EXIT
[ "$(buildah run "$made" -- id -u)" != 0 ]
if buildah run "$made" -- fusematte serve --api --host 0.0.0.0 2>/dev/null; then
    echo "it serves without a key" && exit 1
fi
buildah run -e FUSEMATTE_API_KEY=secret "$made" -- fusematte serve --api --host 0.0.0.0 &
server=$!
health="from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8765/api/health').read())"
for _ in $(seq 60); do
    sleep 2
    buildah run "$made" -- python -c "$health" 2>/dev/null && exit 0
done
echo "the server did not get healthy" && exit 1
