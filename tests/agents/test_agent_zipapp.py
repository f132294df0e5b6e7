"""The zipapp: built from these sources, executed by every interpreter that is here."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import trio
from standin_jobd import REPOSITORY, stand_in

ARCHIVE = REPOSITORY / "build" / "agent-under-test.pyz"


def load_builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_agent", REPOSITORY / "deploy" / "build_agent.py")
    assert spec is not None
    assert spec.loader is not None
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    return builder


BUILDER = load_builder()
INTERPRETERS = dict(BUILDER.find_interpreters([]).values())


@pytest.fixture(scope="module")
def archive() -> Path:
    build = [sys.executable, str(REPOSITORY / "deploy" / "build_agent.py"), "--out", str(ARCHIVE)]
    built = subprocess.run(build, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    assert "is up to date" in subprocess.run(build, check=False, capture_output=True, text=True).stdout
    return ARCHIVE


@pytest.mark.parametrize("version", INTERPRETERS)
async def test_the_zipapp_executes_a_run(archive: Path, place: Path, version: str) -> None:
    with trio.fail_after(20):
        async with stand_in(place) as jobd:
            jobd.call_agent(command=[INTERPRETERS[version], "-I", str(archive)])
            epoch = await jobd.start("sh", "-c", "exit 3")
            assert (await jobd.ended(epoch)).exit_code == 3
            assert jobd.hellos[0].python == version


def test_the_zipapp_holds_sources_and_bytecode_and_nothing_for_one_machine_only(archive: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        names = set(packed.namelist())
    for name in ("agents/agent.py", "schemas/link.py", "trio/__init__.py", "exceptiongroup/__init__.py"):
        assert name in names
        assert f"{sys.implementation.cache_tag}/{name}c" in names
    assert "typing_extensions.py" in names
    assert [name for name in names if name.endswith(".so")] == []


def test_what_is_not_pure_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fast.cpython-311-x86_64-linux-gnu.so").touch()
    with pytest.raises(SystemExit, match=r"not pure Python: fast\.cpython"):
        BUILDER.refuse_impure(tmp_path)


def test_packing_the_same_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("b.py", "a.py"):
        (tmp_path / name).write_text(name)
    first = BUILDER.pack(tmp_path, {}, b"hash")
    (tmp_path / "a.py").touch()
    assert BUILDER.pack(tmp_path, {}, b"hash") == first
