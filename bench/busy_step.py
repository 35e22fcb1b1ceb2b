"""`make bench-busy`: how much longer a training step takes beside another busy process.

Every other step of one training runs beside a process that keeps one core busy. With OpenMP's own settings and with
those of `reward-trainer`, each in a process of its own.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from statistics import median
from typing import Any

from bench.bounds import Measured, at_most, conclude

BUSY = "while True: pass"
SETTINGS = {"OpenMP's own": False, "reward-trainer's": True}
TARGET = at_most(2.5, "×")


def main() -> int:
    """Measure both settings, print the table and write it. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=9, help="steps of each training; the first one is not counted")
    parser.add_argument("--child", choices=SETTINGS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(SETTINGS[args.child], args.steps)))
        return 0
    rows = []
    for name in SETTINGS:
        command = [sys.executable, "-m", "bench.busy_step", "--child", name, "--steps", str(args.steps)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        quiet_s, busy_s = map(median, json.loads(output.splitlines()[-1]))
        form = f"{{:.1f}} × {quiet_s:.1f} s"
        rows.append(Measured(name, busy_s / quiet_s, form, TARGET if SETTINGS[name] else None))
        print(rows[-1], flush=True)
    return conclude("a step beside a busy process; threads wait by", rows, name="busy_step")


def measure(configured: bool, steps: int) -> tuple[list[float], list[float]]:
    """Train with a local reward, every other step beside a busy process. Return the seconds of quiet and busy steps."""
    from trainer.cli import configure_openmp

    if configured:
        configure_openmp()  # before torch is imported
    from transformers import TrainerCallback

    from bench.train_step import banana, train

    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    seconds: list[list[float]] = [[], []]

    class Alternate(TrainerCallback):  # type: ignore[misc]
        started_s = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            busy.send_signal(signal.SIGCONT if state.global_step % 2 else signal.SIGSTOP)
            self.started_s = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step = state.global_step - 1
            if step > 0:
                seconds[step % 2].append(time.monotonic() - self.started_s)

    try:
        train("banana", banana(), steps, [Alternate()])
    finally:
        busy.kill()
        busy.wait()
    quiet_s, busy_s = seconds
    return quiet_s, busy_s


if __name__ == "__main__":
    sys.exit(main())
