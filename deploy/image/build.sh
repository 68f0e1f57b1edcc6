#!/usr/bin/env bash
# The stages of the Dockerfile without an engine: the static binary, the root file
# system of the image, its bill of materials; and, where buildah is, the image as an
# OCI archive. The same commit gives the same bytes.
#
#     deploy/image/build.sh OUT [ARCH] [VERSION]
set -euo pipefail
out="$(mkdir -p "${1:?usage: build.sh OUT [ARCH] [VERSION]}" && cd "$1" && pwd)"
arch="${2:-$(go env GOARCH)}"
version="${3:-dev}"
cd "$(dirname "$0")/../.."
roots="${ROOTS:-/etc/ssl/certs/ca-certificates.crt}"

rm -rf "$out/root" && mkdir -p "$out/root/data" "$out/root/tmp" "$out/root/etc/actpass/policies" "$out/root/etc/ssl/certs"
CGO_ENABLED=0 GOOS=linux GOARCH="$arch" go build -trimpath -buildvcs=false \
  -ldflags "-s -w -buildid= -X main.version=$version" -o "$out/root/actpass" ./cmd/actpass
cp "$roots" "$out/root/etc/ssl/certs/ca-certificates.crt"
cp config.example.yaml "$out/root/etc/actpass/config.yaml"
cp policies/*.yaml "$out/root/etc/actpass/policies/"
go run ./deploy/image/sbom "$out/root/actpass" "$version" > "$out/sbom.cdx.json"
cp "$out/sbom.cdx.json" "$out/root/etc/actpass/sbom.cdx.json"
find "$out/root" -type d -exec chmod 0755 {} + -o -type f -exec chmod 0644 {} +
chmod 0755 "$out/root/actpass"
chmod 1777 "$out/root/tmp"
find "$out/root" -exec touch -h -d @0 {} +

if command -v buildah >/dev/null; then
  export STORAGE_DRIVER="${STORAGE_DRIVER:-vfs}"
  store=(--root "$out/store" --runroot "$out/run")
  c="$(buildah "${store[@]}" from scratch)"
  buildah "${store[@]}" copy -q "$c" "$out/root" / >/dev/null
  buildah "${store[@]}" copy -q --chown 65532:65532 "$c" "$out/root/data" /data >/dev/null
  buildah "${store[@]}" config --arch "$arch" --os linux --user 65532:65532 --entrypoint '["/actpass"]' --cmd serve --volume /data \
    --label "org.opencontainers.image.title=ActPass Sidecar" --label org.opencontainers.image.licenses=Apache-2.0 \
    --port 8080 --port 8081 --port 8090 --env ACTPASS_CONFIG=/etc/actpass/config.yaml --env ACTPASS_DATA_DIR=/data --env TMPDIR=/data \
    --env ACTPASS_LISTEN_PROXY=0.0.0.0:8080 --env ACTPASS_LISTEN_REVERSE=0.0.0.0:8081 --env ACTPASS_LISTEN_API=0.0.0.0:8090 "$c"
  rm -f "$out/image.tar"
  buildah "${store[@]}" commit -q --timestamp 0 --format oci "$c" "oci-archive:$out/image.tar:actpass:$version" >/dev/null
  buildah "${store[@]}" rm "$c" >/dev/null
fi
