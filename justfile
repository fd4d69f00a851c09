# The verbs, the same for people and for continuous integration. `just` comes with `pip install rust-just`.

# List the verbs
default:
    @just --list

# Format, lints and docs
check:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

# All tests; arguments choose some
test *ARGS:
    tests/run {{ARGS}}

# Benchmarks of single rooms
bench *ARGS:
    cargo bench --locked {{ARGS}}

# The gate, an engine and callers, before and after
demo *ARGS:
    cargo run --locked --release -- demo {{ARGS}}

# All that continuous integration runs
ci:
    .ci/run
