# `just` lists what there is.
default:
    @just --list

# Format, lints, docs, tests, licences: what must pass. Installs what is missing.
ci:
    ./.ci/run

# The service with its defaults.
serve *args:
    cargo run --release -- serve {{ args }}

# Throughput, CPU per GiB and memory of this machine's release build, beside nginx. Takes some minutes.
bench *args:
    command -v nginx >/dev/null || (apt-get update -qq && apt-get install -y -qq nginx-light)
    cargo bench --bench transfers -- {{ args }}

# Kills the service again and again while clients use it, and looks at what is left. OSPROXY_TORTURE_SEED says where to begin.
torture rounds="200":
    OSPROXY_TORTURE_ROUNDS={{ rounds }} cargo test --release -p osproxy --test it torture:: -- --nocapture

# Known vulnerabilities in dependencies. Needs a network that reaches the advisory database.
advisories:
    cargo deny check advisories
