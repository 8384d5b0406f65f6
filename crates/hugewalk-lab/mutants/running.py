"""Runs a command with a mutant switched on, until it ends or hangs. Nothing here depends on how busy the machine is."""

import collections
import os
import resource
import signal
import subprocess
import tempfile
import time

# Nothing that is asked sleeps for so many seconds, all its threads, unless it sleeps for ever.
ASLEEP = 30

# The exit status, None if it hangs; what it printed; the processor time that it took.
Ended = collections.namedtuple("Ended", "status out seconds")


def run(command, mutant=None, limit=None, reached=None, **more):
    """Runs `command`, which hangs if it takes `limit` seconds of processor time or sleeps for ever.

    Which mutants could have been switched on is written to the file `reached`, if there is one.
    """

    def bounded():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 1))

    environment = {**os.environ, **more.pop("env", {})}
    for name in ("HUGEWALK_MUTANT", "HUGEWALK_REACHED"):
        environment.pop(name, None)
    if mutant:
        environment["HUGEWALK_MUTANT"] = mutant
    if reached:
        environment["HUGEWALK_REACHED"] = str(reached.fileno())
        more["pass_fds"] = [reached.fileno()]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=bounded, **more
        )
        hangs, usage = wait(process, limit)
        out.seek(0)
        printed = out.read()
    hangs = hangs or process.returncode in (-signal.SIGXCPU, -signal.SIGKILL)
    return Ended(None if hangs else process.returncode, printed, usage.ru_utime + usage.ru_stime)


def wait(process, limit):
    """Waits until it ends, has used its time up, or has slept for too long. Says whether it hangs, and what it used."""
    pause, before, since, hangs = 0.002, None, time.monotonic(), False
    while True:
        ended, status, usage = os.wait4(process.pid, 0 if hangs else os.WNOHANG)
        if ended:
            process.returncode = os.waitstatus_to_exitcode(status)
            return hangs, usage
        time.sleep(pause)
        pause = min(2 * pause, 0.2)
        used, asleep = pulse(process.pid)
        if not asleep or used != before:
            before, since = used, time.monotonic()
        # The kernel may overlook the limit where a thread sleeps again and again.
        if time.monotonic() - since > ASLEEP or (limit is not None and used > limit):
            os.killpg(process.pid, signal.SIGKILL)
            hangs = True


def pulse(process):
    """The processor time so far, of it and of what it has started, and whether all their threads sleep."""
    ticks, asleep = 0, True
    try:
        for thread in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{thread}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            asleep = asleep and fields[0] == b"S"
            ticks += int(fields[11]) + int(fields[12])
            with open(f"/proc/{process}/task/{thread}/children") as file:
                children = file.read().split()
            for used, sleeps in map(pulse, children):
                ticks += used * os.sysconf("SC_CLK_TCK")
                asleep = asleep and sleeps
    except OSError:
        asleep = False
    return ticks / os.sysconf("SC_CLK_TCK"), asleep
