"""A login in a process of its own that logs everything, and shows an error with all that hangs on it.

Stdin: name, password, code, key, passphrase, sshd's port, its host key, jobd's port and certificate, agent, token,
Python and the zipapp, each ended by a zero byte. It stays until it is killed.
"""

import logging
import sys
import traceback
from pathlib import Path

import trio

from backends._ssh import Target
from backends.base import AgentSpec, BackendError, Credentials
from backends.slurm import SlurmBackend
from schemas.setups import Home, Slurm


def shown(error: BaseException | None) -> None:
    """An error, what caused it, and the variables of every function on its way."""
    if error is None:
        return
    print(repr(error), str(error), vars(error))
    lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    print(*[line for line in lines if " given = " not in line])  # stdin, in our own main
    for other in (error.__cause__, error.__context__):
        shown(other)


async def login(given: list[str]) -> str:
    name, password, code, key, phrase, port, host_key, home_port, certificate, agent, token, python, zipapp, *_ = given
    given.clear()
    credentials = Credentials(name, password, code, key, phrase)
    password = code = key = phrase = ""
    backend = SlurmBackend(
        "hpc",
        (Target("127.0.0.1", int(port), (host_key,)),),
        Path(zipapp),
        lambda: Home("127.0.0.1", int(home_port), "jobd.example", certificate),
        Slurm(),
        "~/jobd",
        python,
        600.0,
    )
    nowhere = Path("/nowhere")
    try:
        async with backend.session("u1", credentials, print):
            print(await backend.start(AgentSpec(agent, 1, "u1", 0, nowhere, nowhere, token, 600.0, 30.0)))
    except BackendError as error:
        shown(error)
        return str(vars(error)["code"])
    return "ok"


logging.basicConfig(level=1, stream=sys.stdout)
text = b""
while not text.endswith(b"\0\n"):
    text += sys.stdin.buffer.read1()
print("outcome:", trio.run(login, text.decode().split("\0")), flush=True)
sys.stdin.read()
