"""The tests as checks: which of them reach a mutant, and which finds it.

Each test is run by itself once, without a mistake: that tells what it costs, and whose switches it reaches. A mutant is asked
only of the tests that reach it. Quick ones come first, all those of a binary at once; the rest one by one, from the quickest to
the slowest.
"""

import dataclasses
import json
import pathlib
import struct
import sys
import tempfile

from running import run

# Seconds of processor time that make a test a slow one.
SLOW = 0.5
# A test hangs if it takes so many times what it takes without a mistake, and so many seconds at least.
HANGS, SECONDS = 5, 5


@dataclasses.dataclass
class Test:
    binary: str
    executable: str
    package: pathlib.Path
    name: str
    seconds: float
    reaches: set

    def __str__(self):
        return f"{self.binary}: {self.name}"


class Tests:
    """All tests of some binaries, which are triples of a name, an executable and the folder of its package."""

    def __init__(self, binaries, mutants, kept):
        self.names = [mutant.name for mutant in mutants]
        self.tests = []
        known = json.loads(kept.read_text()) if kept.exists() else {}
        listened = {}
        for binary, executable, package in binaries:
            built = pathlib.Path(executable).stat().st_mtime_ns
            if known.get(executable, {}).get("built") != built:
                known[executable] = {"built": built, "tests": self.listen(binary, executable, package)}
            listened[executable] = known[executable]
            for name, (seconds, reaches) in known[executable]["tests"].items():
                self.tests.append(Test(binary, executable, package, name, seconds, set(reaches)))
        kept.write_text(json.dumps(listened))

    def listen(self, binary, executable, package):
        """What each test costs and reaches."""
        listed = run([executable, "--list", "--format", "terse"], cwd=package).out.decode().splitlines()
        heard = {}
        for name in (line.removesuffix(": test") for line in listed if line.endswith(": test")):
            with tempfile.TemporaryFile() as reached:
                ended = run([executable, "--exact", name, "--quiet"], reached=reached, cwd=package)
                if ended.status != 0:
                    text = ended.out.decode(errors="replace")[-2000:]
                    sys.exit(f"run.py: {binary}: {name} fails in the copy without a mutant\n{text}")
                reached.seek(0)
                numbers = {number for (number,) in struct.iter_unpack("<H", reached.read())}
                heard[name] = ended.seconds, [self.names[number] for number in sorted(numbers)]
        return heard

    def ask(self, mutant, successful):
        """The test that finds a mutant, if one does. Binaries that were `successful` with mutants of its room come first."""
        reaching = [test for test in self.tests if mutant.name in test.reaches]
        quick, slow = {}, []
        for test in reaching:
            if test.seconds < SLOW:
                quick.setdefault(test.binary, []).append(test)
            else:
                slow.append([test])
        cost = lambda tests: sum(test.seconds for test in tests)
        groups = sorted(quick.values(), key=lambda tests: (-successful.get(tests[0].binary, 0), cost(tests)))
        for group in [*groups, *sorted(slow, key=cost)]:
            if found := self.found(mutant.name, group):
                return found
        return None

    def found(self, mutant, group):
        """The test of a binary that finds a mutant, if one does."""
        limit = max(SECONDS, HANGS * sum(test.seconds for test in group))
        command = [group[0].executable, "--exact", "--quiet", *(test.name for test in group)]
        ended = run(command, mutant, limit, cwd=group[0].package)
        if ended.status == 0:
            return None
        name = failed(ended.out)
        if name is None and len(group) > 1:
            # It died or hangs, and cannot say in which test.
            each = (self.found(mutant, [test]) for test in group)
            return next(filter(None, each), group[0].binary)
        told = next((test for test in group if test.name == name), group[0])
        # A test that fails without a mistake has found nothing.
        if run([told.executable, "--exact", "--quiet", told.name], cwd=told.package).status != 0:
            print(f"run.py: {told} fails without a mutant, and is not counted", file=sys.stderr)
            return None
        return str(told)


def failed(out):
    """The first test that libtest lists as failed."""
    lines = out.decode(errors="replace").splitlines()
    listed = [at for at, line in enumerate(lines) if line == "failures:"]
    names = [line.strip() for line in lines[listed[-1] + 1 :] if line.startswith("    ")] if listed else []
    return names[0] if names else None
