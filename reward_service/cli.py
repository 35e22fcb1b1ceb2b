"""`reward-service COMMAND`: parse arguments, return an exit code, report an error in one sentence."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from reward_service import logs
from reward_service.config import error_sentence, read_config
from reward_service.errors import ConfigError, RewardServiceError
from reward_service.process import configure_openmp
from reward_service.settings import Settings
from reward_service.specs import BackendName, ClassifierSpec, DType, RegressorSpec, SimilaritySpec
from shared.model_store import ModelError

BACKENDS = ("auto", *get_args(BackendName))


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Return the exit code: 0 success, 2 wrong configuration or arguments."""
    args = vars(_parser().parse_args(argv))
    run: Callable[..., int] = args.pop("run")
    try:
        return run(**args)
    except (RewardServiceError, ModelError) as error:
        print(f"reward-service: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reward-service", description="Score text over HTTP.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve_ = commands.add_parser("serve", help="start the HTTP service", description=serve.__doc__)
    prepare_ = commands.add_parser("prepare", help="download and prepare models", description=prepare.__doc__)
    convert_ = commands.add_parser("convert", help="turn pickled weights into safetensors", description=convert.__doc__)
    convert_.add_argument("model", metavar="MODEL", help="folder or hub id whose weights exist only as .bin")
    convert_.add_argument("out", metavar="OUT", type=Path, help="new folder for the converted model")
    check_ = commands.add_parser("check", help="verify the configured models", description=check.__doc__)
    check_.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="reward model with the rewards.yaml of reward-trainer"
    )
    check_.add_argument(
        "--pairs", type=Path, help="JSON Lines with prompt, chosen, rejected: report the share that is ordered right"
    )
    for command, run in ((serve_, serve), (prepare_, prepare), (check_, check), (convert_, convert)):
        command.set_defaults(run=run)
    for command in (serve_, prepare_, check_):
        command.add_argument("--config", type=Path, help="path of rewards.yaml (default: the rewards of the package)")
        command.add_argument(
            "--rewards", nargs="+", metavar="NAME", help="only these rewards, and those they are made of (default: all)"
        )
        command.add_argument("--backend", choices=BACKENDS, help="backend of all models (default: auto, the fastest)")
        command.add_argument("--dtype", choices=get_args(DType), help="data type of all models (default: any)")
        command.add_argument("--threads", type=int, help="compute threads of a model (default: all usable cores)")
        command.epilog = (
            "Each setting is also an environment variable, such as REWARD_SERVICE_PORT or REWARD_SERVICE_API_KEYS."
        )
    prepare_.add_argument("models", nargs="*", metavar="MODEL", help="further models, such as embedded:smollm2")
    serve_.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    serve_.add_argument("--port", type=int, help="port to listen on, 0 for any free one (default: 8088)")
    serve_.add_argument(
        "--deterministic",
        action="store_true",
        default=None,
        help="compute each text alone, so that its score does not depend on other requests",
    )
    serve_.add_argument("--api-key-file", type=Path, help="file with one API key a line")
    serve_.add_argument(
        "--insecure", action="store_true", default=None, help="allow listening beyond loopback without an API key"
    )
    return parser


def _settings(arguments: dict[str, Any]) -> Settings:
    try:
        return Settings(**{name: value for name, value in arguments.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(error_sentence(error)) from error
    except OSError as error:
        raise ConfigError(f"cannot read the API keys: {error}") from error


def serve(**arguments: Any) -> int:
    """Serve the configured rewards until stopped by SIGTERM or Ctrl-C; accepted requests are finished first."""
    from reward_service.server import listen, run

    settings = _settings(arguments)
    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nothing to reload before the first load
    logs.configure()
    read_config(settings.config, settings.rewards)  # report an unknown key before anything slow is done
    configure_openmp(settings.cores())
    run(settings, listen(settings.host, settings.port))
    return 0


def prepare(models: Sequence[str] = (), **arguments: Any) -> int:
    """Download, prepare and benchmark all models of the configuration, so that `serve` is ready at once."""
    settings = _settings(arguments)
    configure_openmp(settings.cores())
    from reward_service.backends import engines
    from reward_service.rewards.loading import engine_for, open_model
    from shared.model_store import prepare_all

    for name, spec in read_config(settings.config, settings.rewards).rewards.items():
        if isinstance(spec, ClassifierSpec | RegressorSpec | SimilaritySpec):
            folder = open_model(name, spec)
            engine = engine_for(spec, folder, settings).engine
            engines.load(engine, folder, settings.cores())  # caches what the engine compiles
            print(f"{name}: {spec.model} is at {folder.path}, computed with {engine}")
    for name, path in prepare_all(models).items():
        print(f"{name} is at {path}")
    return 0


def check(folder: Path | None = None, pairs: Path | None = None, **arguments: Any) -> int:
    """Print what each configured model is, reads and scores, compared with transformers alone."""
    settings = _settings(arguments if folder is None else {**arguments, "config": _config_of(folder, **arguments)})
    config = read_config(settings.config, settings.rewards)
    configure_openmp(settings.cores())
    from reward_service.check import check as check_models
    from reward_service.check import read_pairs

    for line in check_models(config, settings, read_pairs(pairs) if pairs else ()):
        print(line, flush=True)
    return 0


def _config_of(folder: Path, config: Path | None = None, **_: Any) -> Path:
    if config is not None:
        raise ConfigError("pass a folder or --config, not both")
    path = folder / "rewards.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder} holds no rewards.yaml: write one (docs/models.md has the lines) and pass --config")
    return path


def convert(model: str, out: Path) -> int:
    """Write a model whose weights are pickled as safetensors, in a separate process that runs no code from them."""
    from reward_service.convert import convert as convert_model

    for path in convert_model(model, out):
        print(f"wrote {path}")
    return 0
