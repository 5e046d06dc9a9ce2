# The commands of the repository. Each installs what it needs (system packages, Kafka's jars) and says so.

.PHONY: setup check test demo

# Rust, Java with Maven, Python and make are expected; the rest is brought by this.
setup:
	@bash tests/lab/setup.sh

# Format, lints, documentation and the repository's own rules.
check: setup
	cargo xtask check

# Checks, unit tests, then real clusters. Prints the seconds of each stage.
test: setup
	cargo xtask test

# A real migration between two real clusters, told as it happens.
demo: setup
	cargo build --workspace --bins
	@"$${CARGO_TARGET_DIR:-target}/debug/demo"
