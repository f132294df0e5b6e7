"""What is shipped in deploy/ can be read by what reads it."""

from pathlib import Path

from jobd import config
from jobd.codes import load_codes

DEPLOY = Path(__file__).parent.parent / "deploy"


def test_every_shipped_configuration_is_valid() -> None:
    shipped = sorted(DEPLOY.glob("*.toml"))
    assert {path.name for path in shipped} >= {"jobd.toml", "jobd-dev.toml"}
    for path in shipped:
        assert config.load(path).tiers["default"].sequential == 1


def test_every_shipped_code_is_valid_and_its_placeholders_are_filled() -> None:
    codes = load_codes(DEPLOY / "codes", "/prefix")
    assert codes.keys() >= {"lammps", "heat"}
    for code in codes.values():
        for mode in code.modes:
            command = code.command(mode, 3)
            assert not any("{" in word.replace("{run_dir}", "") for word in command), command
        assert code.worker() is None or code.worker().command[0].startswith("/prefix/bin/")
