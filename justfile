# `just` lists what there is.
default:
    @just --list

# Format, lints, docs, tests, licences: what must pass. Installs what is missing.
ci:
    ./.ci/run

# The tests that need nothing but this machine: SQLite, local disk.
test *args:
    if command -v cargo-nextest >/dev/null; then cargo nextest run --workspace {{ args }}; else cargo test --workspace {{ args }}; fi

# The tests that need servers, on a PostgreSQL, a MariaDB and a Redis that are started for them. Installs what is missing.
test-servers:
    .ci/servers .ci/server-tests

# The service with its defaults.
serve *args:
    cargo run --release -- serve {{ args }}

# Throughput, CPU per GiB and memory of this machine's release build, beside nginx and on each database. Takes some
# minutes.
bench *args:
    command -v nginx >/dev/null || (apt-get update -qq && apt-get install -y -qq nginx-light)
    .ci/servers --durable cargo bench --bench transfers -- {{ args }}

# Kills the service again and again while clients use it, and looks at what is left. OSPROXY_TORTURE_SEED says where to begin.
torture rounds="200":
    OSPROXY_TORTURE_ROUNDS={{ rounds }} cargo test --release -p osproxy --test it torture:: -- --nocapture

# Known vulnerabilities in dependencies. Needs a network that reaches the advisory database.
advisories:
    cargo deny check advisories
