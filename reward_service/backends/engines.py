"""Which backends there are, and which of them this machine has. Heavy imports happen when one is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import assert_never

from reward_service.backends.base import Backend
from reward_service.backends.model_folder import ModelFolder
from reward_service.config import BackendName, DType
from reward_service.errors import ConfigError
from reward_service.process import tune_malloc


@dataclass(frozen=True, slots=True)
class Engine:
    """What computes, and in which precision: scores of two engines are two revisions."""

    backend: BackendName
    dtype: DType

    def __str__(self) -> str:
        return f"{self.backend} {self.dtype}"


REFERENCE = Engine("torch", "float32")
ENGINES = (
    REFERENCE,
    Engine("openvino", "float32"),
    Engine("onnxruntime", "float32"),
    Engine("torch", "bfloat16"),
    Engine("openvino", "bfloat16"),
    Engine("openvino", "int8"),
)


def candidates(backend: BackendName | None, dtype: DType | None) -> list[Engine]:
    """Give the installed engines that a configuration allows; None allows any. Raises `ConfigError` without one."""
    allowed = [each for each in ENGINES if backend in (None, each.backend) and dtype in (None, each.dtype)]
    if not allowed:
        known = ", ".join(each.dtype for each in ENGINES if each.backend == backend)
        raise ConfigError(f"{backend} does not compute in {dtype} here: take one of {known}, or another backend")
    found = [each for each in allowed if find_spec(each.backend)]
    if not found:
        missing = allowed[0].backend
        raise ConfigError(
            f"{missing} is not installed: pip install 'remote-rewards[{missing}]', or allow another engine"
        )
    return found


def load(engine: Engine, folder: ModelFolder, threads: int) -> Backend:
    """Load a model into an engine. Raises `ConfigError`."""
    tune_malloc()
    match engine.backend:
        case "torch":
            from reward_service.backends.torch_backend import TorchBackend

            return TorchBackend(folder, engine.dtype)
        case "openvino":
            from reward_service.backends.openvino_backend import OpenVinoBackend

            return OpenVinoBackend(folder, engine.dtype, threads)
        case "onnxruntime":
            from reward_service.backends.onnxruntime_backend import OnnxBackend

            return OnnxBackend(folder, threads)
        case _:
            assert_never(engine.backend)


def forward_all(backend: Backend, batches: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
    """Give the logits of several batches, one behind the other."""
    return [row for batch in batches for row in backend.forward(batch)]
