"""The engines, and which of them are installed. Heavy imports happen when one is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, assert_never

from reward_service.backends.base import Backend
from reward_service.backends.end_tokens import ByEndTokens
from reward_service.backends.model_folder import ModelFolder
from reward_service.errors import ConfigError
from reward_service.process import tune_malloc
from reward_service.specs import BackendName, DType

if TYPE_CHECKING:
    from reward_service.backends.torch_backend import TorchBackend


@dataclass(frozen=True, slots=True)
class Engine:
    """A backend and its precision. The scores of two engines have two revisions."""

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
FLOAT16 = Engine("torch", "float16")
"""For GPUs without bfloat16, such as T4 and V100. On a CPU it is used only where it is set, being slow."""


def candidates(backend: BackendName | None, dtype: DType | None) -> list[Engine]:
    """Return the installed engines that a configuration allows; None allows any. Raise `ConfigError` if none is."""
    engines = [*ENGINES, FLOAT16]
    allowed = [engine for engine in engines if backend in (None, engine.backend) and dtype in (None, engine.dtype)]
    if not allowed:
        dtypes = ", ".join(engine.dtype for engine in engines if engine.backend == backend)
        raise ConfigError(f"{backend} does not support {dtype}: choose one of {dtypes}, or another backend")
    installed = [engine for engine in allowed if find_spec(engine.backend)]
    if not installed:
        missing = allowed[0].backend
        raise ConfigError(
            f"{missing} is not installed: pip install 'remote-rewards[{missing}]', or allow another engine"
        )
    return [engine for engine in installed if engine != FLOAT16 or dtype == FLOAT16.dtype or on_gpu(engine)]


def on_gpu(engine: Engine) -> bool:
    """Return whether an engine computes on a GPU: torch does, if it finds one."""
    import torch

    return engine.backend == "torch" and torch.cuda.is_available()


def load(engine: Engine, folder: ModelFolder, threads: int) -> Backend:
    """Load a model into an engine. Raise `ConfigError`."""
    return by_end_tokens(_load(engine, folder, threads), folder)


def by_end_tokens(backend: Backend, folder: ModelFolder) -> Backend:
    """Return the backend for a model's batches: one that splits them by end tokens, if its head needs that."""
    return backend if folder.end_token_id is None else ByEndTokens(backend, folder.end_token_id)


def load_torch(folder: ModelFolder, dtype: DType = REFERENCE.dtype) -> "TorchBackend":
    """Load a model into torch, which can also compute a text as transformers does. Raise `ConfigError`."""
    from reward_service.backends.torch_backend import TorchBackend

    tune_malloc()
    return TorchBackend(folder, dtype)


def _load(engine: Engine, folder: ModelFolder, threads: int) -> Backend:
    tune_malloc()
    match engine.backend:
        case "torch":
            return load_torch(folder, engine.dtype)
        case "openvino":
            from reward_service.backends.openvino_backend import OpenVinoBackend

            return OpenVinoBackend(folder, engine.dtype, threads)
        case "onnxruntime":
            from reward_service.backends.onnxruntime_backend import OnnxBackend

            return OnnxBackend(folder, threads)
        case _:
            assert_never(engine.backend)


def forward_all(backend: Backend, batches: Sequence[Sequence[Sequence[int]]]) -> list[list[float]]:
    """Return the logits of several batches, one after the other."""
    return [row for batch in batches for row in backend.forward(batch)]
