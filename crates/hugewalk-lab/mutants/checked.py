"""`hugewalk check` as a check."""

import json
import subprocess
import sys

from running import run

# The engine's own protocol.
OWN = "hugewalk"
# It hangs if it takes so many times what it takes without a mistake, and so many seconds of processor time at least.
HANGS, SECONDS = 5, 60
# Executions of a case: what the longest one takes, and some. A mistake may make a case longer, which is no finding.
EXECUTIONS = 500_000
# What is no verdict, and takes long or is nothing at all.
SLOW = (None, "hangs", "panics")


class Check:
    """Asks the engine's own protocol; with `others` the others too, which is five times as much and tells little of it."""

    def __init__(self, hugewalk, others=False):
        self.hugewalk, self.usual = hugewalk, {}
        self.protocols = [OWN]
        if others:
            command = [hugewalk, "check", "--list", "--format", "json"]
            names = subprocess.run(command, check=True, capture_output=True).stdout
            listed = [line["name"] for line in json.loads(names)["protocols"]]
            self.protocols.append(",".join(name for name in listed if name != OWN))

    def ask(self, mutant, row=None):
        """The first scenario whose verdict is not as expected, of all or of the one that was told. Without a mutant there is none."""
        scenario, _, protocol = (row or "").partition(" under ")
        for protocols in [protocol or OWN] if row else self.protocols:
            command = [self.hugewalk, "check", "--protocol", protocols, "--format", "json", "--executions", str(EXECUTIONS)]
            command += [scenario] if row else []
            command += ["--fail-fast"] if mutant else []
            limit = max(SECONDS, HANGS * self.usual.get((protocols, row), SECONDS)) if mutant else None
            ended = run(command, mutant, limit)
            if not mutant:
                self.usual[protocols, row] = ended.seconds
            # A scenario that has another name by now finds nothing.
            if ended.status == 0 or (ended.status == 2 and row):
                continue
            if ended.status == 2:
                sys.exit(f"run.py: {ended.out.decode(errors='replace')}")
            try:
                document = json.loads(ended.out[ended.out.index(b'{"schema"') :])
            except (ValueError, IndexError):
                return "hangs" if ended.status is None else "panics"
            wrong = [verdict for verdict in document["verdicts"] if verdict["as_expected"] is False]
            # Incomplete is no finding: the limit is lower here than where nobody plants mistakes.
            under = lambda verdict: "" if protocols == OWN else f" under {verdict['protocol']}"
            told = [verdict["scenario"] + under(verdict) for verdict in wrong if verdict["verdict"] in ("race", "safe")]
            if told or not wrong:
                return told[0] if told else "panics"
        return None
