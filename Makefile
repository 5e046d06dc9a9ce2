# The commands of the repository. Each installs what it needs (system packages, Kafka's jars) and says so.

.PHONY: setup setup-kafka check test demo demo-aws

# Rust, Java with Maven, Python and make are expected; the rest is brought by this.
setup:
	@bash tests/lab/setup.sh

# Without the stand-ins for AWS, which only tests use, and Go, which one of them is built with.
setup-kafka:
	@bash tests/lab/setup.sh kafka

# Format, lints, documentation and the repository's own rules.
check: setup-kafka
	cargo xtask check

# Checks, unit tests, then real clusters. Prints the seconds of each stage. What else `setup` brings it brings meanwhile.
test: setup-kafka
	cargo xtask test

# A real migration between two real clusters, told as it happens.
demo: setup-kafka
	cargo build --workspace --bins
	@"$${CARGO_TARGET_DIR:-target}/debug/demo"

# The same migration as AWS runs it: the definition, Lambdas and Fargate tasks, with stand-ins for AWS.
demo-aws: setup
	cargo build --workspace --bins
	@"$${CARGO_TARGET_DIR:-target}/debug/demo" aws
