"""A model of the hub as a local folder: safetensors and text only, without network from the local cache.

Enters: a hub id. Leaves: the folder huggingface_hub keeps it in. Never: pickled weights, or code.
"""

import re
from pathlib import Path

from shared.model_store.errors import ModelError

HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
WANTED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken"]
UNWANTED = ["onnx/*", "openvino/*", "coreml/*", "original/*", "consolidated*"]
"""The same weights once more, for others than transformers."""


def download(name: str) -> Path:
    """Give the folder of a hub model, fetched unless it is there. Raises `ModelError`."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except errors.GatedRepoError as cause:
        raise ModelError(f"{name} is gated: ask for access on its hub page, and set HF_TOKEN") from cause
    except errors.RepositoryNotFoundError as cause:
        raise ModelError(
            f"there is no folder {name} here, and the hub knows no such model (a private one needs HF_TOKEN)"
        ) from cause
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ConnectionError) as cause:
        raise ModelError(
            f"{name} is no folder here and not in the local cache, and the hub cannot be reached: fetch it "
            f"once where there is network, name a folder, or use an embedded model such as embedded:smollm2"
        ) from cause
