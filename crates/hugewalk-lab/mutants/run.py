#!/usr/bin/env python3
"""Switches one mutant after the other on, and asks the checks which of them finds it. Called by ci/mutants.sh.

    run.py TREE TARGET [options]

TREE is the planted copy of the workspace, TARGET where it is built. What is found is written to `found.json` beside this
script if --record is given, and printed; the table in docs/lab.md is made of that file by `run.py --table`.

The checks, in the order in which they are asked: who must find a mutant comes first, and the rest is not asked once one has
found it, unless --all is given.

- `check`: `hugewalk check`, up to the first verdict that is not as expected;
- tests: those of the engine and of the host that reach the mistake, up to the first that fails, with debug assertions;
- loom: the models of the engine under loom that reach it.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import subprocess
import sys
import time

import answers
from checked import SLOW, Check
from tested import Tests

# The tests of these packages. Those are left out that never run the planted code, or read it.
PACKAGES = ["-p", "hugewalk-rcu", "-p", "hugewalk", "-p", "hugewalk-host"]
LEFT_OUT = {"compile_fail", "floors", "numbers", "loom", "loom_table", "loom_biased"}


class Copy:
    """The planted copy of the workspace, and where it is built."""

    def __init__(self, tree, target):
        self.tree, self.target = tree, target

    def cargo(self, arguments, env=None):
        # Planted code is not to be tidy.
        environment = {**os.environ, "CARGO_TARGET_DIR": str(self.target), "RUSTFLAGS": "--cap-lints allow", **(env or {})}
        done = subprocess.run(["cargo", *arguments], cwd=self.tree, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"run.py: cargo {' '.join(arguments)} failed in the copy\n{done.stderr[-3000:]}")
        return done.stdout

    def command(self):
        self.cargo(["build", "--release", "-p", "hugewalk-cli"])
        return self.target / "release" / "hugewalk"

    def tests(self):
        # Debug assertions, as in any run of the tests, but fewer minutes.
        executables = self.executables(["test", *PACKAGES, "--lib", "--tests"], {"CARGO_PROFILE_DEV_OPT_LEVEL": "1"})
        return [binary for binary in executables if binary[0] not in LEFT_OUT]

    def loom(self):
        flags = {"RUSTFLAGS": "--cfg loom --cap-lints allow", "CARGO_TARGET_DIR": str(self.target.parent / "loom")}
        arguments = ["test", "--release", "-p", "hugewalk-rcu", "-p", "hugewalk"]
        arguments += ["--features", "hugewalk/weaker-protocols", "--test", "loom", "--test", "loom_table", "--test", "loom_biased"]
        return self.executables(arguments, flags)

    def executables(self, arguments, env):
        """What cargo builds: names, executables, folders of the packages."""
        found = []
        for line in self.cargo([*arguments, "--no-run", "--message-format", "json"], env).splitlines():
            message = json.loads(line)
            if message.get("executable") and message["target"]["kind"] != ["bin"]:
                package = pathlib.Path(message["manifest_path"]).parent
                name = message["target"]["name"]
                if message["target"]["kind"] == ["lib"]:
                    name = "unit tests" if package.name == "hugewalk" else f"unit tests of {package.name}"
                found.append((name, message["executable"], package))
        return found


class Checks:
    def __init__(self, copy, kinds, mutants, options):
        self.kinds, self.options = kinds, options
        # How many mutants of a room each binary has found.
        self.successful = collections.defaultdict(collections.Counter)
        if "check" in kinds:
            self.check = Check(copy.command(), options.protocols)
        if "tests" in kinds:
            self.tests = Tests(copy.tests(), mutants, copy.target / "reached.json")
        if "loom" in kinds:
            self.loom = Tests(copy.loom(), mutants, copy.target / "reached-by-loom.json")

    def baseline(self, rows):
        """Without a mistake all verdicts are as expected: the copy is the engine. The tests have shown that by themselves."""
        for row in rows if "check" in self.kinds else []:
            if wrong := self.check.ask(None, row):
                sys.exit(f"run.py: hugewalk check fails in the copy without a mutant: {wrong}")

    def order(self, kind):
        if kind == "orderings":
            return ["loom", "tests"]
        return ["check", "tests", "loom"] if kind in answers.CONCURRENT else ["tests", "check", "loom"]

    def ask(self, mutant):
        found = {}
        for kind in self.order(mutant.kind):
            if kind not in self.kinds or (any(found.values()) and not self.options.all):
                continue
            if kind == "check":
                found[kind] = self.check.ask(mutant.name)
            else:
                successful = self.successful[mutant.room]
                found[kind] = getattr(self, kind).ask(mutant, successful)
                successful[(found[kind] or "").partition(":")[0]] += 1
        return found

    def ask_again(self, mutant, row):
        """Is it found again by the row that found it? Only if not, by any."""
        return {"check": self.check.ask(mutant.name, row) or self.check.ask(mutant.name)}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tree", nargs="?", type=pathlib.Path)
    parser.add_argument("target", nargs="?", type=pathlib.Path)
    parser.add_argument("--room", action="append", default=[])
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--kind", action="append", default=[])
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", default="")
    parser.add_argument("--check-only", action="store_true")
    parser.add_argument("--ask", action="append", default=[], choices=answers.KINDS)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--protocols", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--missing", action="store_true")
    parser.add_argument("--unasked", action="store_true")
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


def main():
    options, mutants = arguments(), answers.listed()
    if options.table:
        answers.write_table(mutants)
        return
    found = answers.known(mutants)
    of = lambda mutant: found.get(mutant.name, {})
    wanted = [
        mutant
        for mutant in mutants
        if mutant.kind != "equivalent"
        and (not options.room or mutant.room in options.room)
        and (not options.only or mutant.name in options.only)
        and (not options.kind or mutant.kind in options.kind)
    ]
    kinds = ["check"] if options.check_only else options.ask or answers.KINDS
    if options.missing:
        wanted = [mutant for mutant in wanted if not answers.is_found(of(mutant))]
    if options.unasked:
        wanted = [mutant for mutant in wanted if not set(kinds) & set(of(mutant))]
    rows = [None]
    if options.sample is not None:
        # Those that `check` is known to find under the engine's own protocol: it has to find them again.
        wanted = [mutant for mutant in wanted if of(mutant).get("check") not in SLOW]
        wanted = [mutant for mutant in wanted if " under " not in of(mutant)["check"]]
        wanted = random.Random(options.seed).sample(wanted, min(options.sample, len(wanted)))
        print(f"{len(wanted)} of the mistakes that check is known to find, chosen by {options.seed or 'nothing'}")
        kinds, rows = ["check"], sorted({of(mutant)["check"] for mutant in wanted})
    checks = Checks(Copy(options.tree.resolve(), options.target.resolve()), kinds, mutants, options)
    checks.baseline(rows)
    told = {}
    for mutant in wanted:
        started = time.monotonic()
        again = options.sample is not None
        told[mutant.name] = checks.ask_again(mutant, of(mutant)["check"]) if again else checks.ask(mutant)
        who = ", ".join(f"{kind}: {what}" for kind, what in told[mutant.name].items() if what) or "SURVIVES"
        print(f"{mutant.name:<38} {mutant.kind:<12} {who:<40} {time.monotonic() - started:4.0f} s", flush=True)
        if options.record:
            answers.record(mutants, mutant, told[mutant.name])
    by_check, concurrent, anyhow, count = answers.rates(wanted, told)
    print(f"check finds {by_check} of {concurrent} that need two threads or a TLB")
    print(f"{'check finds' if kinds == ['check'] else 'those that were asked find'} {anyhow} of {count}")
    if options.sample is not None and anyhow < count:
        sys.exit("run.py: a mistake that was found before is not found any more")


if __name__ == "__main__":
    main()
