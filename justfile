# Lists the recipes.
default:
    @just --list

# Everything that must pass: format, lints, docs, tests, licences. Installs missing tools.
ci:
    ./.ci/run

# Check the spelling of code and documentation.
spelling:
    .ci/spelling

# Run the tests that need no servers (SQLite, local disk).
test *args:
    if command -v cargo-nextest >/dev/null; then cargo nextest run --workspace {{ args }}; else cargo test --workspace {{ args }}; fi

# Run the tests that need servers; starts PostgreSQL, MariaDB, Redis and stores. Installs missing tools.
test-servers:
    .ci/servers .ci/server-tests

# Everything that CI leaves out or cuts short: the API tests on every database, S3 and OSS, longer tests. Takes hours.
nightly:
    .ci/servers .ci/server-tests --nightly
    just schemathesis --max-examples 100
    just torture
    just torture-cluster
    just containers

# Check the running service against its OpenAPI document with schemathesis. `--seed 7` tries other cases.
schemathesis *args:
    cargo build
    .ci/schemathesis {{ args }}

# Regenerate docs/openapi.json after a change of a route, its parameters or its answers.
openapi:
    cargo run -- openapi > docs/openapi.json.new
    mv docs/openapi.json.new docs/openapi.json

# Run the service with its defaults.
serve *args:
    cargo run --release -- serve {{ args }}

# Measures throughput, CPU per GiB and memory of a release build on this machine: compared with nginx, on
# each database, and in front of an S3 store. Compares API v1 with v0 in v1-upload, v1-parts-8m,
# v1-small-downloads and v1-links.
#
# Run the benchmarks, or those named. Takes some minutes.
bench *args:
    command -v nginx >/dev/null || (apt-get update -qq && apt-get install -y -qq nginx-light)
    .ci/servers --durable cargo bench -p osproxy --features jemalloc --bench transfers -- {{ args }}

# Compare osproxy with nginx, tus servers and others, in turn. Takes 15 minutes, the first time longer.
bench-peers *args:
    .ci/peers cargo bench -p osproxy --features jemalloc --bench transfers -- peers {{ args }}

# Compare the S3 API with rclone and s3s-fs, in turn. Takes 10 minutes, the first time longer.
bench-s3 *args:
    .ci/peers cargo bench -p osproxy --features jemalloc --bench transfers -- s3-peers {{ args }}

# Kill the service repeatedly while clients use it, and check the result. OSPROXY_TORTURE_SEED sets the seed.
torture rounds="200":
    OSPROXY_TORTURE_ROUNDS={{ rounds }} cargo test --release -p osproxy --test it torture:: -- --nocapture

# Start three nodes behind nginx, with all servers, to experiment; `just cluster local` gives each node its own disk.
cluster store="shared":
    .ci/servers .ci/cluster {{ store }}

# Runs on a shared store and on local disks. OSPROXY_TORTURE_SEED sets the seed.
#
# Kill, pause, restart and cut off three nodes behind nginx while clients use them, and check the result.
torture-cluster seconds="600":
    OSPROXY_CLUSTER_SECONDS={{ seconds }} .ci/servers cargo test --release -p osproxy --test it cluster::torture:: -- --ignored --nocapture --test-threads 1

# Measure Redis and worker ids with many nodes: the figures of docs/guides/capacity.md.
scale nodes="1000":
    OSPROXY_SCALE_NODES={{ nodes }} .ci/servers cargo test --release -p osproxy-cluster --lib conformance::scale -- --ignored --nocapture

# Every target of `fuzz/` for this many seconds, or those named: `just fuzz 600 form config`
#
# Fuzz the parsers with coverage.
fuzz seconds="60" *targets:
    .ci/fuzz {{ seconds }} {{ targets }}

# Copy the finds of `just fuzz` with the most new coverage to `fuzz/corpus`.
fuzz-keep *targets:
    .ci/fuzz keep {{ targets }}

# Build the release in target/release-packages: tarball, Debian package, SBOM and SHA-256 sums.
release *args:
    deploy/packages/build {{ args }}

# Test the packages of a binary by installing, upgrading and removing them here, and the alerts and dashboard. As root.
packages binary="target/debug/osproxy":
    .ci/packages {{ binary }}

# On a Docker of its own, without a registry; needs root and Debian. Takes about 6 minutes.
#
# Build the image and run the Compose files; kill and upgrade nodes while clients use them.
containers binary="target/debug/osproxy":
    .ci/containers {{ binary }}

# Check dependencies for known vulnerabilities. Requires access to the advisory database.
advisories:
    cargo deny check advisories

# Regenerate docs/configuration.md after a change of a setting.
reference:
    OSPROXY_WRITE_REFERENCE=1 cargo test -p osproxy --test it configuration::the_reference
