"""`reward-service COMMAND`: parse arguments, return an exit code, report an error in one sentence."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from reward_service import logs
from reward_service.cluster import commands as cluster
from reward_service.cluster.application import ReplicaOptions
from reward_service.config import error_sentence, read_config
from reward_service.errors import ConfigError, RewardServiceError
from reward_service.process import configure_openmp
from reward_service.settings import Settings
from reward_service.specs import BackendName, ClassifierSpec, DType, RegressorSpec, SimilaritySpec
from shared.model_store import ModelError

Model = TypeVar("Model", bound=BaseModel)
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

    def add(run: Callable[..., int], help_text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(run.__name__, help=help_text, description=run.__doc__)
        command.set_defaults(run=run)
        return command

    serve_ = add(serve, "start the HTTP service")
    prepare_ = add(prepare, "download and prepare models")
    check_ = add(check, "verify the configured models")
    convert_ = add(convert, "turn pickled weights into safetensors")
    deploy_ = add(deploy, "serve from replicas on Ray")
    retire_ = add(retire, "remove an application from Ray")
    applications_ = add(applications, "list the applications on Ray")
    for command in (serve_, prepare_, check_, deploy_):
        _add_reward_options(command)
    for command in (serve_, deploy_):
        _add_serving_options(command)
    serve_.add_argument("--port", type=int, help="port to listen on, 0 for any free one (default: 8088)")
    prepare_.add_argument("models", nargs="*", metavar="MODEL", help="models to prepare, such as embedded:smollm2")
    check_.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="reward model with the rewards.yaml of reward-trainer"
    )
    check_.add_argument(
        "--pairs", type=Path, help="JSON Lines with prompt, chosen, rejected: report the share that is ordered right"
    )
    convert_.add_argument("model", metavar="MODEL", help="folder or hub id whose weights exist only as .bin")
    convert_.add_argument("out", metavar="OUT", type=Path, help="new folder for the converted model")
    cluster.add_deploy_options(deploy_)
    cluster.add_retire_options(retire_)
    for command in (retire_, applications_):
        command.add_argument("--address", help=cluster.ADDRESS_HELP)
    return parser


def _add_reward_options(command: argparse.ArgumentParser) -> None:
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


def _add_serving_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    command.add_argument(
        "--deterministic",
        action="store_true",
        default=None,
        help="compute each text alone, so that its score does not depend on other requests",
    )
    command.add_argument("--api-key-file", type=Path, help="file with one API key a line")
    command.add_argument(
        "--insecure", action="store_true", default=None, help="allow listening beyond loopback without an API key"
    )


def _settings(arguments: dict[str, Any]) -> Settings:
    try:
        return _validated(Settings, arguments)
    except OSError as error:
        raise ConfigError(f"cannot read the API keys: {error}") from error


def _validated(model: type[Model], arguments: dict[str, Any]) -> Model:
    try:
        return model(**{name: value for name, value in arguments.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(error_sentence(error)) from error


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
    """Download, prepare and benchmark the models of the configuration, so that `serve` is ready at once.

    With MODEL and neither --config nor --rewards, prepare those models alone.
    """
    settings = _settings(arguments)
    configure_openmp(settings.cores())
    from shared.model_store import prepare_all

    if settings.config or settings.rewards or not models:
        _prepare_rewards(settings)
    for name, path in prepare_all(models).items():
        print(f"{name} is at {path}")
    return 0


def _prepare_rewards(settings: Settings) -> None:
    from reward_service.backends import engines
    from reward_service.rewards.loading import engine_for, open_model

    for name, spec in read_config(settings.config, settings.rewards).rewards.items():
        if isinstance(spec, ClassifierSpec | RegressorSpec | SimilaritySpec):
            folder = open_model(name, spec)
            engine = engine_for(spec, folder, settings).engine
            engines.load(engine, folder, settings.cores())  # caches what the engine compiles
            print(f"{name}: {spec.model} is at {folder.path}, computed with {engine}")


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


def deploy(*, name: str | None, address: str | None, timeout_s: float, **arguments: Any) -> int:
    """Serve the rewards from several replicas on Ray, as an application at a path of its own, and wait until it runs.

    Without a Ray on this machine one is started. Other revisions of the rewards are another application.
    """
    options = {key: arguments.pop(key) for key in ReplicaOptions.model_fields if key in arguments}
    settings = _settings(arguments)
    cluster.deploy(settings, _validated(ReplicaOptions, options), name=name, address=address, timeout_s=timeout_s)
    return 0


def retire(name: str, **options: Any) -> int:
    """Remove an application from Ray, once its replicas have answered what they have accepted.

    One that pinned runs still call is not removed without --force.
    """
    cluster.retire(name, **options)
    return 0


def applications(address: str | None) -> int:
    """List the applications on Ray: status, replicas that serve, address, rewards and their revisions."""
    cluster.applications(address)
    return 0
