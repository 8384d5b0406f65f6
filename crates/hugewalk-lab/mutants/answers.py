"""What is known to find which mutant: found.json, and the table in docs/lab.md that is made of it."""

import collections
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
FOUND = HERE / "found.json"
KINDS = ("check", "tests", "loom")
CONCURRENT = ("two threads", "TLB")


def listed():
    command = [sys.executable, HERE / "plant.py", HERE, ".", "--list"]
    rows = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    Mutant = collections.namedtuple("Mutant", "name room kind what digest why")
    return [Mutant(*row.split("\t")) for row in rows]


def known(mutants):
    """The answers of each mutant. What has changed since it was asked has not been asked."""
    found = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    digests = {mutant.name: mutant.digest for mutant in mutants}
    return {name: answers for name, answers in found.items() if answers["digest"] == digests.get(name)}


def record(mutants, mutant, answers):
    """Adds the answers of one mutant; what others have recorded meanwhile stays."""
    found = known(mutants)
    found[mutant.name] = {**found.get(mutant.name, {}), **answers, "digest": mutant.digest}
    lines = [f"  {json.dumps(one.name)}: {json.dumps(found[one.name], sort_keys=True)}" for one in mutants if one.name in found]
    FOUND.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def is_found(answers):
    return any(answers.get(kind) for kind in KINDS)


def is_settled(answers):
    """Found, or asked of everything that could find it."""
    return is_found(answers) or "tests" in answers


def rates(mutants, found):
    """Of those that were asked: found by `check` and all, of what needs two threads or a TLB; found by anything and all."""
    asked = [mutant for mutant in mutants if mutant.kind != "equivalent" and mutant.name in found]
    concurrent = [mutant for mutant in asked if mutant.kind in CONCURRENT]
    by_check = [mutant for mutant in concurrent if found[mutant.name].get("check")]
    anyhow = [mutant for mutant in asked if is_found(found[mutant.name])]
    return len(by_check), len(concurrent), len(anyhow), len(asked)


def percent(one, of):
    return f"{one} of {of} ({100 * one / max(of, 1):.0f} %)"


def table(mutants, found):
    """The table of docs/lab.md."""
    left_out = [mutant for mutant in mutants if mutant.kind == "equivalent"]
    mutants = [mutant for mutant in mutants if mutant.kind != "equivalent"]
    asked = [mutant for mutant in mutants if mutant.name in found]
    lines = [
        "| room | mistakes | found | of these by `check` | need two threads or a TLB | of these found by `check` |",
        "|---|---|---|---|---|---|",
    ]

    def row(title, of):
        by_check, concurrent, anyhow, _ = rates(of, found)
        any_check = sum(1 for mutant in of if found.get(mutant.name, {}).get("check"))
        lines.append(f"| {title} | {len(of)} | {anyhow} | {any_check} | {concurrent} | {by_check} |")

    for room in sorted({mutant.room for mutant in mutants}):
        row(room, [mutant for mutant in mutants if mutant.room == room])
    row("**all**", mutants)
    by_check, concurrent, anyhow, count = rates(asked, found)
    lines += ["", f"`hugewalk check` alone finds {percent(by_check, concurrent)} of those that need two threads or a TLB."]
    open_ones = [mutant for mutant in mutants if not is_settled(found.get(mutant.name, {}))]
    if open_ones:
        lines[-1] += f" Of {len(mutants)} mistakes, {len(open_ones)} have not been asked of all checks."
    else:
        lines[-1] += f" All checks together find {percent(anyhow, count)}."
    survive = [mutant for mutant in asked if not is_found(found[mutant.name])]
    if survive:
        lines += ["", "Not found by those that were asked:", ""]
        for mutant in survive:
            kinds = ", ".join(kind for kind in KINDS if kind in found[mutant.name])
            lines.append(f"- `{mutant.name}` ({mutant.kind}; asked: {kinds}): {mutant.what}")
    unseen = [m for m in asked if m.kind in CONCURRENT and is_found(found[m.name]) and not found[m.name].get("check")]
    if unseen:
        lines += ["", "Found, and not by `check`, though they need two threads or a TLB:", ""]
        for mutant in unseen:
            by = found[mutant.name].get("tests") or found[mutant.name].get("loom")
            lines.append(f"- `{mutant.name}` (by `{by}`): {mutant.what}")
    if left_out:
        lines += ["", "Left out, because they change nothing:", ""]
        lines += [f"- `{mutant.name}`: {mutant.what} {mutant.why}" for mutant in left_out]
    return "\n".join(lines) + "\n"


def write_table(mutants):
    page = HERE.parents[2] / "docs" / "lab.md"
    text = page.read_text()
    begin, end = "<!-- made by ci/mutants.sh --table -->\n", "<!-- end of what is made -->\n"
    before, rest = text.split(begin, 1)
    page.write_text(before + begin + "\n" + table(mutants, known(mutants)) + "\n" + end + rest.split(end, 1)[1])
