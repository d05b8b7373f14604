# The images of docker-compose.yml: `hub` (nats-server), `services` (gateway, scheduler, ledger) and `agent` (a device).
# Built with pinned sources only: Cargo.lock, nats/go.sum, and the checksums in scripts/.

# ---- nats-server, the version that nats/go.mod pins
FROM golang:1.26-bookworm AS nats
WORKDIR /src
COPY nats/go.mod nats/go.sum ./
RUN CGO_ENABLED=0 GOWORK=off go build -trimpath -buildvcs=false -o /out/nats-server github.com/nats-io/nats-server/v2

# ---- our programs
FROM rust:1.95-bookworm AS programs
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --workspace --locked --bins \
    && mkdir /out && cd target/release && strip -o /out/mesh mesh && strip -o /out/mesh-gateway mesh-gateway \
    && strip -o /out/mesh-scheduler mesh-scheduler && strip -o /out/mesh-ledger mesh-ledger

# ---- ONNX Runtime and the weights of all-MiniLM-L6-v2, checked against their checksums
FROM python:3.13-slim-bookworm AS model
WORKDIR /src
COPY scripts scripts
RUN MESH_CACHE=/opt/mesh scripts/onnxruntime.sh && MESH_CACHE=/opt/mesh scripts/model.sh

# ---- what all images have: certificates, curl for health checks, a user without rights
FROM debian:bookworm-slim AS base
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 mesh && useradd --uid 10001 --gid mesh --no-create-home --home-dir /var/lib/mesh mesh \
    # Volumes take owner and mode from these folders.
    && install -d -m 0700 -o mesh -g mesh /etc/mesh /var/lib/mesh /var/lib/nats
USER mesh
WORKDIR /var/lib/mesh

FROM base AS hub
COPY --from=nats /out/nats-server /usr/local/bin/
CMD ["nats-server", "-c", "/etc/mesh/hub-1.conf"]

FROM base AS services
COPY --from=programs /out/mesh-gateway /out/mesh-scheduler /out/mesh-ledger /usr/local/bin/

FROM base AS agent
COPY --from=nats /out/nats-server /usr/local/bin/
COPY --from=model /opt/mesh /opt/mesh
COPY --from=programs /out/mesh /usr/local/bin/
ENV NATS_SERVER_BIN=/usr/local/bin/nats-server \
    MESH_ONNXRUNTIME=/opt/mesh/onnxruntime/libonnxruntime.so \
    MESH_MODEL_DIR=/opt/mesh/models/all-MiniLM-L6-v2 \
    MESH_HOME=/var/lib/mesh \
    MESH_CACHE=/var/lib/mesh/cache
CMD ["mesh", "start"]
