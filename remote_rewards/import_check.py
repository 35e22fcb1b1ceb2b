"""Check on import that `shared` is the package of this distribution, and not another one that hides it.

`trl` and `python -m` put the working directory first on the import path, where many repositories have a `shared`.
"""

from importlib.util import find_spec
from pathlib import Path

OWN_FOLDER = Path(__file__).resolve().parents[1]


def check_shared(own_folder: Path) -> None:
    """Raise `ImportError` if the package `shared` that Python finds does not lie in `own_folder`."""
    spec = find_spec("shared")
    if spec is None or spec.origin is None:
        return
    found = Path(spec.origin).resolve()
    found = found.parent if found.stem == "__init__" else found
    if found.parent != own_folder:
        raise ImportError(
            f"{found} hides the package `shared` of remote-rewards, which lies in {own_folder}: rename it, or start "
            f"Python from a folder without it",
            name="shared",
            path=str(found),
        )


check_shared(OWN_FOLDER)
