"""Programs that tests run: those of the virtual environment, also where it is not activated, and those on the PATH."""

import os
import shutil
import sysconfig


def find_program(name: str) -> str | None:
    """Return the path of a program, or None."""
    return shutil.which(name, path=os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"])))
