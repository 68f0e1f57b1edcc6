# syntax=docker/dockerfile:1
# Static binary, nothing beside it but CA roots and its bill of materials; runs as a
# user without rights. deploy/image/build.sh has the same stages without an engine.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
ARG TARGETARCH
RUN CGO_ENABLED=0 GOOS=linux GOARCH=${TARGETARCH} go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=${VERSION}" -o /out/actpass ./cmd/actpass \
 && mkdir -p /out/data /out/etc/actpass/policies \
 && cp config.example.yaml /out/etc/actpass/config.yaml \
 && cp policies/*.yaml /out/etc/actpass/policies/ \
 && go run ./deploy/image/sbom /out/actpass "${VERSION}" > /out/etc/actpass/sbom.cdx.json

FROM scratch
LABEL org.opencontainers.image.title="ActPass Sidecar" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/actpass /actpass
COPY --from=build /out/etc/actpass /etc/actpass
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
ENV ACTPASS_CONFIG=/etc/actpass/config.yaml ACTPASS_DATA_DIR=/data TMPDIR=/data \
    ACTPASS_LISTEN_PROXY=0.0.0.0:8080 ACTPASS_LISTEN_REVERSE=0.0.0.0:8081 ACTPASS_LISTEN_API=0.0.0.0:8090
VOLUME /data
EXPOSE 8080 8081 8090
ENTRYPOINT ["/actpass"]
CMD ["serve"]
