# syntax=docker/dockerfile:1
# Static binary, nothing beside it but CA roots; runs as a user without rights.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" -o /out/actpass ./cmd/actpass \
 && mkdir -p /out/data /out/etc/actpass/policies \
 && cp config.example.yaml /out/etc/actpass/config.yaml \
 && cp policies/*.yaml /out/etc/actpass/policies/

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/actpass /actpass
COPY --from=build /out/etc/actpass /etc/actpass
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
ENV ACTPASS_CONFIG=/etc/actpass/config.yaml ACTPASS_DATA_DIR=/data \
    ACTPASS_LISTEN_PROXY=0.0.0.0:8080 ACTPASS_LISTEN_REVERSE=0.0.0.0:8081 ACTPASS_LISTEN_API=0.0.0.0:8090
VOLUME /data
EXPOSE 8080 8081 8090
ENTRYPOINT ["/actpass"]
CMD ["serve"]
