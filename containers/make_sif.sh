#!/usr/bin/env bash
# Make all images for Apptainer or Singularity, under the names by which Nextflow looks for them in --image_dir.
#   containers/make_sif.sh FOLDER                 from the images of this machine's Docker
#   containers/make_sif.sh FOLDER ARCHIVES        from ARCHIVES/protembed-{tools,embed,report}.tar, which `docker save` wrote elsewhere
# Needs room for three times the larger image in APPTAINER_TMPDIR (SINGULARITY_TMPDIR), by default in FOLDER.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 64; }
folder=$1 archives=${2:-}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
builder=$(command -v apptainer || command -v singularity || true)
[ -n "$builder" ] || { echo "neither apptainer nor singularity is on PATH; load the cluster's module, or run this where one is" >&2; exit 1; }
[ -n "$archives" ] || command -v docker > /dev/null || { echo "docker is not on PATH; name the folder of the archives that docker save wrote" >&2; exit 1; }

mkdir -p "$folder"
export APPTAINER_TMPDIR=${APPTAINER_TMPDIR:-$folder} SINGULARITY_TMPDIR=${SINGULARITY_TMPDIR:-$folder}
sed -nE "s/.*container *= *'([^']+)'.*/\1/p" "$here/../conf/images.config" | while read -r tag; do
    target=$folder/${tag//[:\/]/-}.img
    name=${tag%:*}
    archive=$archives/${name##*/}.tar
    if [ -z "$archives" ]; then
        archive=$folder/.${name##*/}.$$.tar
        trap 'rm -f "$archive"' EXIT
        docker save --output "$archive" "$tag"
    fi
    echo "making $target" >&2
    "$builder" build --force "$target.unfinished" "docker-archive:$archive" < /dev/null # a killed build leaves nothing under the good name
    mv "$target.unfinished" "$target"
    [ -n "$archives" ] || rm -f "$archive"
done
