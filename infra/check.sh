#!/usr/bin/env bash
# Checks what is deployed, without an account: builds the CDK app, makes the example's template, has it judged by
# cfn-lint and checkov, the state machine by asl-validator, runs the tests, and deploys to moto's CloudFormation.
# Needs Node.js 20 and Python 3.10. Nothing outside infra/cdk and .lab is written.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
lab=$root/.lab
work=$lab/infra
cdk=$here/cdk

complain() {
  echo "infra: $*" >&2
  exit 1
}

# Says what is done, and afterwards how long it took.
step() {
  local what=$1 begun
  shift
  begun=$(date +%s%N)
  echo "infra: $what"
  "$@"
  printf 'infra: … %d.%d s\n' "$((($(date +%s%N) - begun) / 1000000000))" "$((($(date +%s%N) - begun) / 100000000 % 10))"
}

command -v npm >/dev/null || complain "npm is missing: install Node.js 20 or later"
node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' || complain "Node.js 20 or later is needed"

packages_of_node() {
  local wanted
  wanted=$(cksum <"$cdk/package-lock.json")
  if [ "$(cat "$cdk/node_modules/.krossing" 2>/dev/null)" != "$wanted" ]; then
    (cd "$cdk" && npm ci --no-audit --no-fund --loglevel=error)
    printf '%s\n' "$wanted" >"$cdk/node_modules/.krossing"
  fi
}

packages_of_python() {
  local python=$lab/python-infra wanted
  wanted=$(cksum <"$here/requirements.txt")
  if [ "$(cat "$python/requirements.cksum" 2>/dev/null)" != "$wanted" ]; then
    # A virtual environment knows its own path: it is made in its place, and what marks it as whole comes last.
    rm -rf "$python"
    python3 -m venv "$python" || complain "python3 has no venv: install it (Debian: python3-venv)"
    "$python/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
    printf '%s\n' "$wanted" >"$python/requirements.cksum"
  fi
}

# The lock file must serve everybody's registry.
lock_file() {
  ! grep -n '"resolved"' "$cdk/package-lock.json" || complain "package-lock.json names a registry: run npm install in infra/cdk"
}

# The example, with functions that do nothing in place of built ones.
input() {
  rm -rf "$work" && mkdir -p "$work"
  node - "$root" "$work" <<'JS'
const fs = require('node:fs'), path = require('node:path');
const [root, work] = process.argv.slice(2);
const stack = JSON.parse(fs.readFileSync(path.join(root, 'infra/stack.json'), 'utf8'));
for (const { binary } of stack.functions) {
  fs.mkdirSync(path.join(work, 'functions', binary), { recursive: true });
  fs.writeFileSync(path.join(work, 'functions', binary, 'bootstrap'), '#!/bin/sh\n');
}
const input = JSON.parse(fs.readFileSync(path.join(root, 'infra/cdk/krossing.example.json'), 'utf8'));
input.configuration = path.join(root, 'infra/cdk', input.configuration);
input.functionsFolder = path.join(work, 'functions');
fs.writeFileSync(path.join(work, 'input.json'), JSON.stringify(input));
JS
}

synth() {
  (cd "$cdk" && node_modules/.bin/cdk synth --quiet --no-notices --context input="$work/input.json" --output "$work/cdk.out")
}

# The definition as Step Functions gets it, which is what the template's substitutions make of it.
state_machine() {
  node - "$root" "$template" "$work/definition.asl.json" <<'JS'
const fs = require('node:fs');
const [root, template, to] = process.argv.slice(2);
const resources = Object.values(JSON.parse(fs.readFileSync(template, 'utf8')).Resources);
const machine = resources.find((one) => one.Type === 'AWS::StepFunctions::StateMachine').Properties;
const arn = 'arn:aws:lambda:eu-west-1:123456789012:function:krossing';
const filled = machine.DefinitionString.replace(/\$\{(\w+)\}/g, (whole, name) => {
  if (!(name in machine.DefinitionSubstitutions)) throw new Error(`${whole} is filled by nobody`);
  const value = machine.DefinitionSubstitutions[name];
  return typeof value === 'string' ? value : arn;
});
const unused = Object.keys(machine.DefinitionSubstitutions).filter((name) => !machine.DefinitionString.includes(`\${${name}}`));
if (unused.length > 0) console.log(`infra: the definition does not use ${unused.join(', ')}`);
JSON.parse(filled);
fs.writeFileSync(to, filled);
JS
  "$cdk/node_modules/.bin/asl-validator" --json-path "$work/definition.asl.json"
}

template=$work/cdk.out/krossing-prod.template.json
python=$lab/python-infra/bin

begun=$(date +%s)
step "npm packages of the lock file" packages_of_node
step "Python packages into .lab/python-infra" packages_of_python
step "the lock file names no registry" lock_file
step "tsc" "$cdk/node_modules/.bin/tsc" --project "$cdk"
step "tests of the construct" node --test --test-reporter=dot "$cdk/build/test/"
step "rights exist, and stand on every resource only where AWS knows none" "$python/python" "$here/check_rights.py" "$here/stack.json"
step "input of the example" input
step "cdk synth" synth
step "asl-validator" state_machine
step "cfn-lint" "$python/cfn-lint" --config-file "$here/cfnlint.yaml" --template "$template"
step "checkov" "$python/checkov" --config-file "$here/checkov.yaml" --file "$template"
step "deployment to moto's CloudFormation" "$python/python" "$here/deploy_to_stand_in.py" "$work/cdk.out"
echo "infra: all of it in $(($(date +%s) - begun)) s"
