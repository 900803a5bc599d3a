#!/usr/bin/env bash
# Build the images under the names that conf/images.config gives them. Options of `docker build` may follow:
#   containers/build.sh
#   containers/build.sh --network host --build-arg BASE=base:local --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
images=$here/../conf/images.config

# The first docker on PATH that can build with secrets: a new client needs its buildx plug-in, old ones have BuildKit built in.
export DOCKER_BUILDKIT=1
docker=
while read -r client; do
    if [[ "$("$client" build --help 2>/dev/null)" == *--secret* ]]; then docker=$client; break; fi
done < <(type -ap docker)
[ -n "$docker" ] || { echo "no docker client with BuildKit is on PATH. Install one: apt-get install docker.io, or docker-ce-cli with docker-buildx-plugin" >&2; exit 1; }

for image in tools embed report; do
    tag=$(sed -nE "s/.*container *= *'([^']*protembed-$image:[^']*)'.*/\1/p" "$images")
    [ -n "$tag" ] || { echo "conf/images.config names no protembed-$image image" >&2; exit 1; }
    echo "building $tag" >&2
    "$docker" build --file "$here/$image.Dockerfile" --tag "$tag" --build-arg "VERSION=${tag##*:}" "$@" "$here"
done
