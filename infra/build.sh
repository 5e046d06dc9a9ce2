#!/usr/bin/env bash
# Builds functions and worker as Lambda and Fargate run them: target/lambda/<binary>/bootstrap, which need nothing but
# the C library of Amazon Linux 2023. Takes the architecture, x86_64 (as it is without) or arm64.
# Needs Rust with the architecture's target, and what builds librdkafka and OpenSSL: CMake, Perl, make.
set -euo pipefail
cd "$(dirname "$0")/.."

complain() {
  echo "build: $*" >&2
  exit 1
}

architecture=${1:-x86_64}
case $architecture in
x86_64) target=x86_64-unknown-linux-gnu ;;
arm64) target=aarch64-unknown-linux-gnu ;;
*) complain "x86_64 or arm64, not $architecture" ;;
esac
cargo lambda --version >/dev/null 2>&1 || complain "cargo-lambda is missing: pip install cargo-lambda==1.9.2 ziglang==0.17.0"

# librdkafka includes this header whether or not it uses curl, and uses nothing of it.
headers=$PWD/target/headers
mkdir -p "$headers/curl"
: >"$headers/curl/curl.h"

CPATH=$headers cargo lambda build --release --package krossing-serverless --features static --target "$target.2.34"

worker=target/lambda/krossing-worker/bootstrap
libraries=$(readelf --dynamic "$worker" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p')
for library in $libraries; do
  case $library in
  libc.so.6 | libm.so.6 | ld-linux-*.so.*) ;;
  *) complain "$worker needs $library, which its image does not have" ;;
  esac
done
ls -l target/lambda/*/bootstrap
