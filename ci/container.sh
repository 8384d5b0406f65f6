#!/usr/bin/env bash
# The Containerfile, and the jobs of docs/campaigns.md that use its image.
#
#     ci/container.sh [--build]
#
# Checks that what the Containerfile copies is there and that it names base images by their short names; that the documents
# of docs/campaigns.md are what Kubernetes takes, if kubernetes-validate (PyPI) is installed; and, with --build, builds the
# image and runs it, if docker or podman is there.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "ci/container.sh: $1" >&2
    exit 1
}

while read -r image; do
    case $image in
    */*) fail "the base image $image names a registry" ;;
    esac
done < <(awk '$1 == "FROM" { print $2 }' Containerfile)
while read -r path; do
    [ -e "$path" ] || fail "the Containerfile copies $path, which is not there"
done < <(awk '$1 == "COPY" && $2 !~ /^--/ { for (at = 2; at < NF; at++) print $at }' Containerfile)
cmp --quiet .containerignore .dockerignore || fail ".containerignore and .dockerignore are not the same"

# The second job of the page joins what the first has done, by the same image and on the same volume.
jobs=$(mktemp -d)
trap 'rm -rf "$jobs"' EXIT
awk -v to="$jobs" '/^```yaml$/ { number++; inside = 1; next } /^```$/ { inside = 0 } inside { print > (to "/" number ".yaml") }' docs/campaigns.md
[ "$(find "$jobs" -name '*.yaml' | wc -l)" -eq 2 ] || fail "docs/campaigns.md has not two jobs"
[ "$(grep --no-filename 'image:' "$jobs"/*.yaml | sort --unique | wc -l)" -eq 1 ] || fail "the jobs have different images"
if command -v kubernetes-validate >/dev/null; then
    for job in "$jobs"/*.yaml; do
        for version in 1.29 1.31 1.33; do
            kubernetes-validate --strict --quiet --kubernetes-version "$version" "$job"
        done
    done
    echo "the jobs are valid for Kubernetes 1.29, 1.31 and 1.33"
else
    echo "skipped: kubernetes-validate is not installed"
fi

[ "${1:-}" = --build ] || exit 0
for engine in docker podman; do
    if "$engine" info >/dev/null 2>&1; then
        "$engine" build --file Containerfile --tag hugewalk:check .
        "$engine" run --rm hugewalk:check check S1 --protocol legacy
        exit 0
    fi
done
echo "skipped: neither docker nor podman is running"
