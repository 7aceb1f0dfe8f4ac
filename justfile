# `just` lists what there is.
default:
    @just --list

# Format, lints, docs, tests, licences: what must pass. Installs what is missing.
ci:
    ./.ci/run

# Spelling of code and documentation.
spelling:
    .ci/spelling

# The tests that need nothing but this machine: SQLite, local disk.
test *args:
    if command -v cargo-nextest >/dev/null; then cargo nextest run --workspace {{ args }}; else cargo test --workspace {{ args }}; fi

# The tests that need servers, on a PostgreSQL, a MariaDB and a Redis that are started for them. Installs what is missing.
test-servers:
    .ci/servers .ci/server-tests

# The running service against its OpenAPI document, with all checks of schemathesis. `just schemathesis --seed 7` tries other cases.
schemathesis *args:
    cargo build
    .ci/schemathesis {{ args }}

# The OpenAPI document in docs/, after a change of a route or of what it takes and gives.
openapi:
    cargo run -- openapi > docs/openapi.json.new
    mv docs/openapi.json.new docs/openapi.json

# The service with its defaults.
serve *args:
    cargo run --release -- serve {{ args }}

# Throughput, CPU per GiB and memory of this machine's release build, beside nginx, on each database, and in front of an
# S3 store. Takes some minutes. API v1 beside v0: v1-upload, v1-parts-8m, v1-small-downloads, v1-links.
bench *args:
    command -v nginx >/dev/null || (apt-get update -qq && apt-get install -y -qq nginx-light)
    .ci/servers --durable cargo bench --bench transfers -- {{ args }}

# Kills the service again and again while clients use it, and looks at what is left. OSPROXY_TORTURE_SEED says where to begin.
torture rounds="200":
    OSPROXY_TORTURE_ROUNDS={{ rounds }} cargo test --release -p osproxy --test it torture:: -- --nocapture

# Three nodes behind nginx with all that they stand on, to play with; `just cluster local`: with a disk for each.
cluster store="shared":
    .ci/servers .ci/cluster {{ store }}

# Kills, pauses, restarts and cuts off three nodes behind nginx while clients use them, for so many seconds, on a shared store and
# on a disk of each node's own, and looks at what is left. OSPROXY_TORTURE_SEED says where to begin.
torture-cluster seconds="600":
    OSPROXY_CLUSTER_SECONDS={{ seconds }} .ci/servers cargo test --release -p osproxy --test it cluster::torture:: -- --ignored --nocapture --test-threads 1

# What so many nodes cost Redis, and how they get their numbers: the figures of docs/scaling.md.
scale nodes="1000":
    OSPROXY_SCALE_NODES={{ nodes }} .ci/servers cargo test --release -p osproxy --lib contract::many -- --ignored --nocapture

# Looks for inputs at which a parser does not do what it must, by what they reach: every target of `fuzz/` for so many seconds, or
# those that are named. `just fuzz 600 form config`
fuzz seconds="60" *targets:
    .ci/fuzz {{ seconds }} {{ targets }}

# Takes over into `fuzz/corpus` the few finds of `just fuzz` that reach much that nothing there reaches.
fuzz-keep *targets:
    .ci/fuzz keep {{ targets }}

# What is released: tarball, Debian package, list of parts and SHA-256 sums, in target/release-packages.
release *args:
    deploy/packages/build {{ args }}

# Makes packages of a binary, installs, upgrades, removes and purges one on this machine; tries alarms and dashboard. As root.
packages binary="target/debug/osproxy":
    .ci/packages {{ binary }}

# Known vulnerabilities in dependencies. Needs a network that reaches the advisory database.
advisories:
    cargo deny check advisories

# The reference of all settings in docs/, after a change of one.
reference:
    OSPROXY_WRITE_REFERENCE=1 cargo test -p osproxy --test it configuration::the_reference
