#!/usr/bin/env bash
# Makes this machine ready for `make demo` and `make test`: checks the tools, installs the system packages that
# librdkafka is built with, and fetches the Kafka brokers and, unless it is called with `kafka`, the stand-ins for AWS
# that the lab starts. Safe to run again: it does nothing, in a moment, when all is there. Packages are installed only as
# root or where sudo asks for no password; else the line to run is printed and the exit code is 1.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
lab=$(cd "$here/../.." && pwd)/.lab

complain() {
  echo "setup: $*" >&2
  exit 1
}

# --- What we cannot install for the user -----------------------------------------------------------------------------

command -v cargo >/dev/null || complain "cargo is missing: install Rust 1.95 or later from https://rustup.rs"
command -v java >/dev/null || complain "java is missing: install a JDK 17 or later"
command -v mvn >/dev/null || complain "mvn is missing: install Apache Maven 3.6 or later"

# --- System packages -------------------------------------------------------------------------------------------------

packages=()
command -v cc >/dev/null && command -v c++ >/dev/null && command -v make >/dev/null || packages+=(build-essential)
command -v pkg-config >/dev/null || packages+=(pkg-config)
[ -e /usr/include/openssl/ssl.h ] || pkg-config --exists openssl 2>/dev/null || packages+=(libssl-dev)
[ -e /usr/include/zlib.h ] || pkg-config --exists zlib 2>/dev/null || packages+=(zlib1g-dev)
command -v openssl >/dev/null || packages+=(openssl)
# The recipe in README that checks evidence without Krossing.
command -v jq >/dev/null || packages+=(jq)

if [ ${#packages[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || complain "these Debian packages, or what your system calls them, are missing: ${packages[*]}"
  if [ "$(id -u)" = 0 ]; then
    as_root=(env)
  elif sudo -n true 2>/dev/null; then
    as_root=(sudo -n env)
  else
    echo "setup: system packages are missing, and installing them needs a password. Please run:" >&2
    echo "  sudo apt-get update && sudo apt-get install -y ${packages[*]}" >&2
    exit 1
  fi
  echo "setup: installing system packages: ${packages[*]}"
  "${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get update -q
  "${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${packages[@]}"
fi

# --- Kafka -----------------------------------------------------------------------------------------------------------

wanted=$(cksum <"$here/pom.xml")
# The long forms see that what is too old is refused.
for version in 3.9.1 4.1.1 ${KROSSING_LONG:+2.6.3 3.6.2}; do
  jars=$lab/kafka-$version
  [ "$(cat "$jars/pom.cksum" 2>/dev/null)" = "$wanted" ] && continue
  echo "setup: fetching Kafka $version with Maven into .lab/kafka-$version"
  fresh=$lab/fetching-$version-$$
  mkdir -p "$fresh"
  mvn -q -B -ntp -Dstyle.color=never -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
    -Dkafka.version="$version" -DoutputDirectory="$fresh"
  printf '%s\n' "$wanted" >"$fresh/pom.cksum"
  # Whole or not at all, so that a run that is cut off is not taken for a complete one.
  rm -rf "$jars"
  mv "$fresh" "$jars"
done

# The classes of a broker as the JVM lays them out in memory, written down by one broker's run: with them a broker is up
# in half the time, and of the many that tests start most of the work was this. Without them everything works as well.
lay_out_classes() {
  local jars=$1 work=$1/laying-out port=$((20000 + RANDOM % 10000)) broker waited=0
  local java=(java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.logFile=System.err -cp "$jars/*")
  rm -rf "$work" && mkdir -p "$work"
  printf '%s\n' process.roles=broker,controller node.id=1 "log.dirs=$work/data" controller.listener.names=CONTROLLER \
    "controller.quorum.voters=1@127.0.0.1:$((port + 1))" "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))" \
    log.cleaner.dedupe.buffer.size=16777216 >"$work/server.properties"
  "${java[@]}" kafka.tools.StorageTool format -t AAAAAAAAAAAAAAAAAAAAAQ -c "$work/server.properties" >"$work/log" 2>&1 || return 1
  "${java[@]}" -XX:ArchiveClassesAtExit="$work/classes.jsa" kafka.Kafka "$work/server.properties" >>"$work/log" 2>&1 &
  broker=$!
  until grep -q 'Kafka Server started' "$work/log"; do
    kill -0 "$broker" 2>/dev/null && [ $((waited += 1)) -le 600 ] || break
    sleep 0.1
  done
  kill "$broker" 2>/dev/null
  wait "$broker"
  mv "$work/classes.jsa" "$jars/classes.jsa" && rm -rf "$work"
}

for version in 3.9.1 4.1.1; do
  jars=$lab/kafka-$version
  [ -e "$jars/classes.jsa" ] || lay_out_classes "$jars" ||
    echo "setup: brokers of Kafka $version start slower than they could: $jars/laying-out/log says why" >&2
done

# --- Stand-ins for AWS -----------------------------------------------------------------------------------------------

[ "${1:-}" = kafka ] && exit 0

dynamodb=2.6.1
jars=$lab/dynamodb-$dynamodb
wanted=$(cksum <"$here/dynamodb/pom.xml")
if [ "$(cat "$jars/pom.cksum" 2>/dev/null)" != "$wanted" ]; then
  echo "setup: fetching DynamoDB Local $dynamodb with Maven into .lab/dynamodb-$dynamodb"
  fresh=$lab/fetching-dynamodb-$$
  mkdir -p "$fresh"
  mvn -q -B -ntp -Dstyle.color=never -f "$here/dynamodb/pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$fresh"
  printf '%s\n' "$wanted" >"$fresh/pom.cksum"
  rm -rf "$jars"
  mv "$fresh" "$jars"
fi

versitygw=1.8.0
folder=$lab/versitygw-$versitygw
if [ ! -x "$folder/versitygw" ]; then
  # Where Go's own installer puts it; not everybody has that on the path.
  go=$(command -v go || true)
  [ -n "$go" ] || { [ -x /usr/local/go/bin/go ] && go=/usr/local/go/bin/go; } ||
    complain "go is missing: install Go 1.25 or later from https://go.dev/dl (the S3 server of the tests is built with it)"
  echo "setup: building the S3 server versitygw $versitygw with Go into .lab/versitygw-$versitygw (some 3 minutes)"
  fresh=$lab/fetching-versitygw-$$
  mkdir -p "$fresh"
  GOBIN="$fresh" "$go" install "github.com/versity/versitygw/cmd/versitygw@v$versitygw"
  rm -rf "$folder"
  mv "$fresh" "$folder"
fi

python=$lab/python-aws
wanted=$(cksum <"$here/stack/requirements.txt")
if [ "$(cat "$python/requirements.cksum" 2>/dev/null)" != "$wanted" ]; then
  command -v python3 >/dev/null && python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    complain "python3 is missing or has no venv: install Python 3.10 or later (Debian: python3-venv)"
  echo "setup: installing moto, the stand-in for Step Functions, with pip into .lab/python-aws (half a minute)"
  # A virtual environment knows its own path: it is made in its place, and what marks it as whole comes last.
  rm -rf "$python"
  python3 -m venv "$python"
  "$python/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/stack/requirements.txt"
  printf '%s\n' "$wanted" >"$python/requirements.cksum"
fi
