# A static binary, the authorities that TLS trusts, and nothing else: no shell, no package, nothing to patch but the gateway.
#
#   docker build -t redis-gateway .
#   make image        # the same with buildah, without an engine, around a binary that is built outside

# The version is that of rust-toolchain.toml.
FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo static \
 && install -D -t /out "target/$(rustc --print host-tuple)/release/redis-gateway" \
 && install -D -m 0644 -t /out/etc/ssl/certs /etc/ssl/certs/ca-certificates.crt

FROM scratch
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="redis-gateway" \
      org.opencontainers.image.description="A gRPC service in front of every Redis pattern of a container registry" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/ /
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 50051 9102
ENTRYPOINT ["/redis-gateway"]
