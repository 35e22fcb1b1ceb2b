"""`make demo`: train each recipe against a reward service that runs as a process of its own.

The first recipe needs no reward model, so that there is a learning curve within minutes; the reward models of the next
one are prepared after that. Prints each stage and its duration, and at the end completions before and after training.
The service is stopped at the end of each recipe, after an error too.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

RECIPES = {
    "banana": "the policy sees no rule, only points for a form and for an answer in it: watch the reward rise",
    "optimist": "one model trains another: a BERT, trained on human ratings, scores how enthusiastic an answer is",
}
"""What is learned in the recipes of the demo, and why that is of interest."""
STEPS = {"banana": 8, "optimist": 10}
"""Steps of each shortened run. Its policy keeps all that it learned, and is not held to the bounds of its recipe."""
EVAL_PROMPTS = 40
RUNS = Path("runs") / "demo"
"""Not where the recipes write, whose runs take longer."""
RECIPE_FOLDER = Path(__file__).parents[1] / "trainer" / "recipes"
POLICY = "embedded:smollm2"
COMPLETIONS = 6
ONE_ENGINE = {"REWARD_SERVICE_BACKEND": "torch", "REWARD_SERVICE_DTYPE": "float32"}
"""The demo scores a few hundred texts: benchmarking the engines to find the fastest would take longer than it saves."""
STARTED_S = time.monotonic()


def main() -> int:
    """Run the demo. Returns the exit code."""
    recipes = sys.argv[1:] or list(RECIPES)
    os.environ.update({**ONE_ENGINE, **os.environ})
    for recipe in recipes:
        log(f"{recipe}: {RECIPES.get(recipe, recipe)}")
        rewards = served_rewards(recipe)
        with stage(f"Preparing the models of {recipe} (minutes the first time; later runs use the cache)"):
            run("reward_service", "prepare", POLICY, "--rewards", *rewards)
        with serving(rewards) as url, stage(f"Training {recipe} against the rewards at {url}"):
            run("trainer", "train", "--config", recipe, *settings(recipe), env={"REWARD_URL": url})
    show_completions(recipes)
    log(
        f"Done after {minutes(STARTED_S)}. Open "
        + " and ".join(str(run_folder(recipe) / "report.html") for recipe in recipes)
    )
    log("The recipes in full take longer and reach more: see docs/results.md")
    return 0


def run_folder(recipe: str) -> Path:
    """Return the folder of a recipe's run."""
    return RUNS / Path(recipe).stem


def served_rewards(recipe: str) -> list[str]:
    """Return the names of the rewards that a recipe trains on or is judged by."""
    from trainer.judges import LOCAL_JUDGES

    path = Path(recipe) if Path(recipe).exists() else RECIPE_FOLDER / f"{recipe}.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    names = dict.fromkeys([*settings["rewards"], *settings.get("judges", [])])
    return [name for name in names if name not in LOCAL_JUDGES]


def settings(recipe: str) -> list[str]:
    """Return the settings that make a recipe's run short; `make demo` may be called again."""
    no_bounds = ["--expect", "{}", "--expect_gain", "{}"]
    shorter = ["--max_steps", str(STEPS[recipe]), "--interpolation", "1.0", *no_bounds] if recipe in STEPS else []
    evaluation = ["--eval_limit", str(EVAL_PROMPTS), "--eval_kl", "false"]
    return ["--output_dir", str(run_folder(recipe)), "--overwrite", "true", *evaluation, *shorter]


def show_completions(recipes: Sequence[str]) -> None:
    """Print completions before and after training, side by side, a few of each recipe."""
    from rich.console import Console

    from trainer.reporting.side_by_side import side_by_side
    from trainer.run_folder import read_run

    for recipe in recipes:
        Console().print(side_by_side(read_run(run_folder(recipe)), COMPLETIONS // len(recipes)))


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Print the start of a stage, and its duration at the end."""
    started_s = time.monotonic()
    log(title)
    yield
    log(f"… took {minutes(started_s)}")


@contextmanager
def serving(rewards: Sequence[str]) -> Iterator[str]:
    """Serve these rewards in a process on a free port. Yields its URL."""
    with stage("Starting the reward service"):
        service = subprocess.Popen(
            [sys.executable, "-m", "reward_service", "serve", "--port", "0", "--rewards", *rewards],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            url = read_url(service)
            wait_until_ready(url, service)
        except BaseException:
            service.terminate()
            raise
        log(f"process {service.pid} serves {', '.join(reward_names(url))} at {url}")
    try:
        yield url
    finally:
        service.terminate()
        service.wait(timeout=40)
        log(f"The reward service has stopped (exit code {service.returncode})")


def read_url(service: subprocess.Popen[str]) -> str:
    """Return the URL in the first line of the service's log. Raises SystemExit if it did not start."""
    assert service.stderr is not None
    line = service.stderr.readline()
    urls = [word for word in line.split() if word.startswith("http://")]
    if not urls:
        raise SystemExit(f"the reward service did not start: {line}{service.stderr.read()}")
    copy_log(service)
    return urls[0]


def copy_log(service: subprocess.Popen[str]) -> None:
    """Copy the rest of the service's log to a file in a thread, so that its pipe never fills up."""
    path = RUNS / "reward-service.log"
    path.parent.mkdir(parents=True, exist_ok=True)

    def copy() -> None:
        assert service.stderr is not None
        with path.open("w", encoding="utf-8") as file:
            for line in service.stderr:
                file.write(line)
                file.flush()

    threading.Thread(target=copy, daemon=True).start()


def wait_until_ready(url: str, service: subprocess.Popen[str]) -> None:
    """Wait until every model is loaded and has scored a canary. Raises SystemExit if the service ends."""
    while service.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"the reward service ended with exit code {service.returncode}")


def reward_names(url: str) -> list[str]:
    """Return the names of the served rewards."""
    with urllib.request.urlopen(f"{url}/v1/rewards", timeout=5) as response:
        return [reward["name"] for reward in json.load(response)["rewards"]]


def run(module: str, *args: str, env: dict[str, str] | None = None) -> None:
    """Run a module as a command. Raises SystemExit with its exit code if it fails."""
    command = [sys.executable, "-m", module, *args]
    process = subprocess.run(command, env={**os.environ, **(env or {})}, check=False)
    if process.returncode:
        raise SystemExit(process.returncode)


def log(text: str) -> None:
    """Print one line with the time since the start."""
    print(f"[{minutes(STARTED_S)}] {text}", flush=True)


def minutes(since_s: float) -> str:
    """Return the time since `since_s` as minutes and seconds."""
    elapsed_s = round(time.monotonic() - since_s)
    return f"{elapsed_s // 60}:{elapsed_s % 60:02}"


if __name__ == "__main__":
    sys.exit(main())
