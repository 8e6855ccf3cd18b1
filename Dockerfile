# One program, one image: the command says what a container does. Builds with
# BuildKit and without it.

FROM rust:1.95.0-slim-bookworm AS builder
# `release` is small and fast and takes minutes to build; `dev` is for trying.
ARG PROFILE=release
WORKDIR /build
# Dependencies first: this layer stays until one of these files changes.
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY crates crates
RUN mkdir src && touch src/lib.rs && echo 'fn main() {}' >src/main.rs \
    && cargo build --locked --profile "$PROFILE" --package paystream
COPY migrations migrations
COPY templates templates
COPY src src
# Cargo goes by times of change, and these files may be older than that layer.
RUN touch src/lib.rs src/main.rs \
    && cargo build --locked --profile "$PROFILE" --package paystream \
    && cp "target/$(echo "$PROFILE" | sed 's/^dev$/debug/')/paystream" /paystream

FROM debian:bookworm-slim
# No packages: the roots that TLS to Redis and PostgreSQL trusts are compiled in.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin paystream
COPY --from=builder /paystream /usr/local/bin/paystream
USER 10001:10001
EXPOSE 8081
# The gateway, or the worker if its PAYSTREAM_HEALTH_BIND has this port.
HEALTHCHECK --interval=10s --timeout=6s --start-period=40s --retries=3 \
    CMD ["paystream", "probe"]
ENTRYPOINT ["paystream"]
CMD ["--help"]
