"""`reward-service serve | prepare`: arguments in, an exit code out, one sentence where something is wrong."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from reward_service import logs
from reward_service.config import BackendName, ClassifierSpec, DType, RegressorSpec, error_sentence, read_config
from reward_service.errors import ConfigError, RewardServiceError
from reward_service.settings import Settings
from shared.model_store import ModelError

ENGINES = ("auto", *get_args(BackendName))


def main(argv: list[str] | None = None) -> int:
    """Run the command line and give the exit code: 0 well, 1 failed while running, 2 wrongly configured."""
    args = vars(_parser().parse_args(argv))
    command, models = args.pop("command"), args.pop("models", [])
    try:
        settings = _settings({name: value for name, value in args.items() if value is not None})
        return serve(settings) if command == "serve" else prepare(settings, models)
    except (RewardServiceError, ModelError) as error:
        print(f"reward-service: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reward-service", description="Score text over HTTP.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve_ = commands.add_parser("serve", help="serve the configured rewards", description=serve.__doc__)
    prepare_ = commands.add_parser(
        "prepare", help="fetch and prepare the models, then end", description=prepare.__doc__
    )
    for command in (serve_, prepare_):
        command.add_argument("--config", type=Path, help="rewards.yaml (default: the rewards of the package)")
        command.add_argument("--backend", choices=ENGINES, help="what computes (default: auto, the fastest)")
        command.add_argument("--dtype", choices=get_args(DType), help="in which precision (default: any)")
        command.add_argument("--threads", type=int, help="threads a model computes with (default: all cores allowed)")
    prepare_.add_argument("models", nargs="*", metavar="MODEL", help="more models, such as a policy: embedded:smollm2")
    serve_.add_argument("--host", help="address to listen at (default: 127.0.0.1)")
    serve_.add_argument("--port", type=int, help="port to listen at, 0 for any free one (default: 8088)")
    serve_.add_argument("--deterministic", action="store_true", default=None, help="compute each text alone")
    serve_.add_argument("--api-key-file", type=Path, help="file with one API key a line")
    serve_.add_argument("--insecure", action="store_true", default=None, help="serve beyond this machine without a key")
    serve_.epilog = (
        "Every setting is also an environment variable, such as REWARD_SERVICE_PORT or REWARD_SERVICE_API_KEYS."
    )
    return parser


def _settings(given: dict[str, Any]) -> Settings:
    try:
        return Settings(**given)
    except ValidationError as error:
        raise ConfigError(error_sentence(error)) from error
    except OSError as error:
        raise ConfigError(f"cannot read the API keys: {error}") from error


def serve(settings: Settings) -> int:
    """Serve until told to stop; accepted work is finished first."""
    from reward_service.server import listen, run

    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nothing is loaded yet that could be loaded again
    logs.configure()
    read_config(settings.config)  # a misspelt key is told before anything is loaded
    configure_openmp(settings)
    run(settings, listen(settings.host, settings.port))
    return 0


def configure_openmp(settings: Settings) -> None:
    """Set how OpenMP computes, before torch is imported: on the cores allowed, and soon asleep where it waits.

    Threads that spin for long take the core that the event loop, or the thread they wait for, would run on; threads
    that do not spin at all make each layer wait for their waking.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.cores()))
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def prepare(settings: Settings, models: Sequence[str] = ()) -> int:
    """Fetch, prepare and measure every model that the configuration names, so that serving starts at once."""
    configure_openmp(settings)
    from reward_service.backends import engines
    from reward_service.rewards.loading import engine_for, open_model
    from shared.model_store import prepare_all

    for name, spec in read_config(settings.config).rewards.items():
        if isinstance(spec, ClassifierSpec | RegressorSpec):
            folder = open_model(name, spec)
            engine = engine_for(spec, folder, settings).engine
            engines.load(engine, folder, settings.cores())  # what that makes is kept, too
            print(f"{name}: {spec.model} is at {folder.path}, computed with {engine}")
    for name, path in prepare_all(models).items():
        print(f"{name} is at {path}")
    return 0
