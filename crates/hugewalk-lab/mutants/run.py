#!/usr/bin/env python3
"""Switches one mutant after the other on, and asks the checks which of them finds it. Called by ci/mutants.sh.

    run.py TREE TARGET [options]

TREE is the planted copy of the workspace, TARGET where it is built. What is found is written to `found.json` beside this
script if --record is given, and printed; the table in docs/lab.md is made of that file by `run.py --table`.

The checks, in the order in which they are asked: who must find a mutant comes first, and the rest is not asked once one has
found it, unless --all is given.

- `check`: `hugewalk check` of the engine's own protocol, up to the first verdict that is not as expected; with --protocols of
  the others too, which is five times as much and tells little of the engine;
- tests: those of the engine and of the host, up to the first that fails, with debug assertions;
- loom: the models of the engine under loom.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
FOUND = HERE / "found.json"
CONCURRENT = ("two threads", "TLB")
# The tests of these packages; those that never run the planted code are left out.
PACKAGES = ["-p", "hugewalk-rcu", "-p", "hugewalk", "-p", "hugewalk-host"]
LEFT_OUT = {"compile_fail", "loom", "loom_table"}
# The engine's own protocol.
OWN = "hugewalk"
# Processor time after which a check or a test counts as hanging: so many times what it takes without a mistake, and so many
# seconds at least.
HANGS, SECONDS = 5, 60
# What is no verdict of `check`, and takes long or is nothing at all.
SLOW = (None, "hangs", "panics")
# Executions of a case: what the longest one takes, and some. A mistake may make a case longer, which is no finding.
EXECUTIONS = 500_000


def listed():
    command = [sys.executable, HERE / "plant.py", HERE, ".", "--list"]
    rows = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    Mutant = collections.namedtuple("Mutant", "name room kind what digest why")
    return [Mutant(*row.split("\t")) for row in rows]


def processor_time():
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


def run(command, mutant, usual=None, **more):
    """The exit status, or None if it took much more processor time than usual; and what it printed."""

    def limit():
        seconds = max(SECONDS, int(HANGS * usual))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))

    environment = {**os.environ, **more.pop("env", {})}
    environment.pop("HUGEWALK_MUTANT", None)
    if mutant:
        environment["HUGEWALK_MUTANT"] = mutant
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=None if usual is None else limit, **more
    )
    try:
        # Whoever sleeps for ever uses no processor.
        out, _ = process.communicate(timeout=None if usual is None else 300)
        return None if process.returncode == -signal.SIGXCPU else process.returncode, out
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, b""


class Checks:
    def __init__(self, tree, target, options):
        self.tree, self.target, self.options = tree, target, options
        self.tests, self.loom = [], []

    def build(self, kinds):
        self.cargo(["build", "--release", "-p", "hugewalk-cli"])
        self.hugewalk = self.target / "release" / "hugewalk"
        names = subprocess.run([self.hugewalk, "check", "--list", "--format", "json"], check=True, capture_output=True)
        protocols = [line["name"] for line in json.loads(names.stdout)["protocols"]]
        self.protocols = [OWN]
        if self.options.protocols:
            self.protocols.append(",".join(name for name in protocols if name != OWN))
        if "tests" in kinds:
            # Debug assertions, as in any run of the tests, but fewer minutes.
            self.tests = self.executables(["test", *PACKAGES, "--lib", "--tests"], {"CARGO_PROFILE_DEV_OPT_LEVEL": "1"})
        if "loom" in kinds:
            flags = {"RUSTFLAGS": "--cfg loom --cap-lints allow", "CARGO_TARGET_DIR": str(self.target.parent / "loom")}
            arguments = ["test", "--release", "-p", "hugewalk-rcu", "-p", "hugewalk", "--test", "loom", "--test", "loom_table"]
            self.loom = self.executables(arguments, flags)

    def cargo(self, arguments, env=None):
        # Planted code is not to be tidy.
        environment = {**os.environ, "CARGO_TARGET_DIR": str(self.target), "RUSTFLAGS": "--cap-lints allow", **(env or {})}
        done = subprocess.run(["cargo", *arguments], cwd=self.tree, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"run.py: cargo {' '.join(arguments)} failed in the copy\n{done.stderr[-3000:]}")
        return done.stdout

    def executables(self, arguments, env):
        found = []
        for line in self.cargo([*arguments, "--no-run", "--message-format", "json"], env).splitlines():
            message = json.loads(line)
            if message.get("executable") and message["target"]["kind"] != ["bin"]:
                package = pathlib.Path(message["manifest_path"]).parent
                name = message["target"]["name"]
                if message["target"]["kind"] == ["lib"]:
                    name = "unit tests" if package.name == "hugewalk" else f"unit tests of {package.name}"
                if name not in LEFT_OUT or arguments[1] == "--release":
                    found.append((name, message["executable"], package))
        return found

    def ask_check(self, mutant):
        for protocols in self.protocols:
            command = [self.hugewalk, "check", "--protocol", protocols, "--format", "json"]
            command += ["--executions", str(EXECUTIONS)]
            if mutant:
                command.append("--fail-fast")
            status, out = run(command, mutant, self.times.get("check"))
            if status == 0:
                continue
            try:
                document = json.loads(out[out.index(b'{"schema"') :])
            except (ValueError, IndexError):
                return "hangs" if status is None else "panics"
            wrong = [verdict for verdict in document["verdicts"] if verdict["as_expected"] is False]
            # Incomplete is no finding: the limit is lower here than where nobody plants mistakes.
            told = [verdict["scenario"] for verdict in wrong if verdict["verdict"] in ("race", "safe")]
            if told or not wrong:
                return told[0] if told else "panics"
        return None

    def ask_tests(self, mutant):
        for name, executable, package in self.tests:
            started = processor_time()
            status, _ = run([executable, "--quiet"], mutant, self.times.get(name), cwd=package)
            if status != 0:
                return name
            if not mutant:
                self.times[name] = processor_time() - started
        return None

    def ask_loom(self, mutant):
        for name, executable, package in self.loom:
            status, _ = run([executable, "--quiet"], mutant, cwd=package)
            if status != 0:
                return name
        return None

    def baseline(self):
        """Without a mistake everything has to pass: the copy is the engine."""
        self.times = {}
        started = processor_time()
        wrong = self.ask_check(None)
        self.times["check"] = processor_time() - started
        if wrong:
            sys.exit(f"run.py: hugewalk check fails in the copy without a mutant: {wrong}")
        if wrong := self.ask_tests(None):
            sys.exit(f"run.py: {wrong} fails in the copy without a mutant")
        if wrong := self.ask_loom(None):
            sys.exit(f"run.py: {wrong} fails in the copy without a mutant")
        # From the quickest to the slowest.
        self.tests.sort(key=lambda test: self.times[test[0]])

    def order(self, kind):
        if kind == "orderings":
            return ["loom", "tests"]
        return ["check", "tests", "loom"] if kind in CONCURRENT else ["tests", "check", "loom"]

    def ask(self, mutant, kinds):
        answers = {}
        for kind in self.order(mutant.kind):
            if kind in kinds and (self.options.all or not any(answers.values())):
                answers[kind] = getattr(self, f"ask_{kind}")(mutant.name)
        return answers


def known():
    return json.loads(FOUND.read_text()) if FOUND.exists() else {}


def record(found, mutants):
    order = [mutant.name for mutant in mutants]
    kept = {name: found[name] for name in order if name in found}
    lines = [f"  {json.dumps(name)}: {json.dumps(of, sort_keys=True)}" for name, of in kept.items()]
    FOUND.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def rates(mutants, found):
    """What is found of each kind: pairs of numbers."""
    asked = [mutant for mutant in mutants if mutant.kind != "equivalent" and mutant.name in found]
    concurrent = [mutant for mutant in asked if mutant.kind in CONCURRENT]
    by_check = [mutant for mutant in concurrent if found[mutant.name].get("check")]
    anyhow = [mutant for mutant in asked if is_found(found[mutant.name])]
    return len(by_check), len(concurrent), len(anyhow), len(asked)


def is_found(answers):
    return any(answers.get(kind) for kind in ("check", "tests", "loom"))


def table(mutants, found):
    """The table of docs/lab.md."""
    left_out = [mutant for mutant in mutants if mutant.kind == "equivalent"]
    asked = [mutant for mutant in mutants if mutant.kind != "equivalent" and mutant.name in found]
    lines = [
        "| room | mistakes | asked | found | of the asked, two threads or a TLB | of these by `check` |",
        "|---|---|---|---|---|---|",
    ]

    def row(title, of):
        by_check, concurrent, anyhow, count = rates(of, found)
        lines.append(f"| {title} | {len(of)} | {count} | {anyhow} | {concurrent} | {by_check} |")

    listed = [mutant for mutant in mutants if mutant.kind != "equivalent"]
    for room in sorted({mutant.room for mutant in listed}):
        row(room, [mutant for mutant in listed if mutant.room == room])
    row("**all**", listed)
    by_check, concurrent, anyhow, count = rates(asked, found)
    percent = lambda one, of: f"{one} of {of} ({100 * one / max(of, 1):.0f} %)"
    lines += ["", f"`hugewalk check` alone finds {percent(by_check, concurrent)} that need two threads or a TLB."]
    by_tests = [mutant for mutant in asked if {"tests", "loom"} & set(found[mutant.name])]
    if len(by_tests) == len(asked):
        lines[-1] += f" All checks together find {percent(anyhow, count)}."
    else:
        lines[-1] += f" The tests and loom have been asked of {len(by_tests)} of the {len(asked)} mistakes."
    survive = [mutant for mutant in asked if not is_found(found[mutant.name])]
    if survive:
        lines += ["", "Not found by those that were asked:", ""]
        for mutant in survive:
            kinds = ", ".join(kind for kind in ("check", "tests", "loom") if kind in found[mutant.name])
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


def write_table(mutants, found):
    page = HERE.parents[2] / "docs" / "lab.md"
    text = page.read_text()
    begin, end = "<!-- made by ci/mutants.sh --table -->\n", "<!-- end of what is made -->\n"
    before, rest = text.split(begin, 1)
    page.write_text(before + begin + "\n" + table(mutants, found) + "\n" + end + rest.split(end, 1)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", nargs="?", type=pathlib.Path)
    parser.add_argument("target", nargs="?", type=pathlib.Path)
    parser.add_argument("--room", action="append", default=[])
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--kind", action="append", default=[])
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", default="")
    parser.add_argument("--check-only", action="store_true")
    parser.add_argument("--ask", action="append", default=[], choices=["check", "tests", "loom"])
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--protocols", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--missing", action="store_true")
    parser.add_argument("--unasked", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    mutants, found = listed(), known()
    if options.table:
        write_table(mutants, found)
        return
    wanted = [
        mutant
        for mutant in mutants
        if mutant.kind != "equivalent"
        and (not options.room or mutant.room in options.room)
        and (not options.only or mutant.name in options.only)
        and (not options.kind or mutant.kind in options.kind)
    ]
    # What has changed since it was asked has not been asked.
    stale = {mutant.name for mutant in mutants if found.get(mutant.name, {}).get("digest") not in (None, mutant.digest)}
    if options.missing:
        wanted = [one for one in wanted if one.name in stale or not is_found(found.get(one.name, {}))]
    kinds = ["check"] if options.check_only else options.ask or ["check", "tests", "loom"]
    if options.unasked:
        asked = lambda one: one.name not in stale and set(kinds) & set(found.get(one.name, {}))
        wanted = [one for one in wanted if not asked(one)]
    if options.sample is not None:
        # Those that `check` is known to find: it has to find them again.
        wanted = [one for one in wanted if one.name not in stale and found.get(one.name, {}).get("check") not in SLOW]
        wanted = random.Random(options.seed).sample(wanted, min(options.sample, len(wanted)))
        print(f"{len(wanted)} of the mistakes that check is known to find, chosen by {options.seed or 'nothing'}")
        kinds = ["check"]
    checks = Checks(options.tree.resolve(), options.target.resolve(), options)
    checks.build(kinds)
    checks.baseline()
    answers = {}
    for mutant in wanted:
        started = time.monotonic()
        answers[mutant.name] = checks.ask(mutant, kinds)
        who = ", ".join(f"{kind}: {what}" for kind, what in answers[mutant.name].items() if what) or "SURVIVES"
        print(f"{mutant.name:<38} {mutant.kind:<12} {who:<40} {time.monotonic() - started:4.0f} s", flush=True)
        if options.record:
            found = known()
            before = {} if mutant.name in stale else found.get(mutant.name, {})
            found[mutant.name] = {**before, **answers[mutant.name], "digest": mutant.digest}
            record(found, mutants)
    by_check, concurrent, anyhow, count = rates(wanted, answers)
    print(f"check finds {by_check} of {concurrent} that need two threads or a TLB")
    print(f"{'check finds' if kinds == ['check'] else 'all checks find'} {anyhow} of {count}")
    if options.sample is not None and anyhow < count:
        sys.exit("run.py: a mistake that was found before is not found any more")


if __name__ == "__main__":
    main()
