"""Start the studio: see to a model, the machine's facts and the recorded experiment, then become the Streamlit server.

It gives up watching the server: this process is replaced by it, so Ctrl-C and signals go straight there.
"""

import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mixcpt import launching, machine, recorded
from mixcpt.errors import BadFile, BadInput, MixcptError
from mixcpt.modelstore import ensure_model, is_there
from mixcpt.roots import VARIABLE as ROOTS
from mixcpt.workspace import Workspace

ROOT = Path(__file__).parents[1]
"""The checkout: Streamlit reads .streamlit/config.toml from the folder it is started in."""
MODEL = "smollm2-135m"
_ONLY_HERE = ("localhost", "127.0.0.1", "::1")


def start(
    workspace: Workspace,
    *,
    port: int,
    address: str,
    allowed: Sequence[str],
    browser: bool,
    say: Callable[[str], None],
) -> None:
    """Prepare the workspace and become the server at `address`:`port`; does not return. People may take files from the
    folders `allowed`, from those of $MIXCPT_ROOTS and from the workspace's inbox/.

    Raises:
        BadInput: the port or address cannot be had, or a folder is not there.
    """
    environment = {**os.environ, "MIXCPT_HOME": str(workspace.root), ROOTS: roots(allowed)}
    check_free(address, port)
    prepare(workspace, say)
    if address not in _ONLY_HERE:
        say(
            f"Warning: whoever reaches {address}:{port} can use the studio and read its corpora, for there is no "
            "login; leave --address out to keep it to this machine."
        )
    say(f"The studio is at {url(address, port)}")
    say("Ctrl-C stops it; what is training goes on, and the next start finds it again.")
    os.chdir(ROOT)
    os.execve(sys.executable, command(address, port, browser), environment)


def prepare(workspace: Workspace, say: Callable[[str], None]) -> None:
    """What the first page wants to find: recorded runs, the built-in model, and facts about this machine (measured by a
    job as soon as the app runs)."""
    recorded.add_once(workspace)
    if not is_there(workspace, MODEL):
        try:
            ensure_model(workspace, MODEL, progress=say)
        except MixcptError as error:  # exploring the recorded experiment needs no model
            say(f"{error} The studio starts without it.")
    if machine.read(workspace) is None:
        launching.prepare(workspace, "doctor")


def command(address: str, port: int, browser: bool) -> list[str]:
    """The server's command line; without `browser` no window is opened."""
    settings = {
        "server.port": str(port),
        "server.address": address,
        "server.headless": "false" if browser else "true",
        "server.showEmailPrompt": "false",
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "streamlit", "run", str(ROOT / "app" / "main.py"), *options]


def roots(allowed: Sequence[str]) -> str:
    """The value of $MIXCPT_ROOTS: what it was, and these folders.

    Raises:
        BadFile: one is not a folder, or its name holds the separator.
    """
    found = [part for part in os.environ.get(ROOTS, "").split(os.pathsep) if part]
    for name in allowed:
        folder = Path(name).expanduser().absolute()
        if not folder.is_dir() or os.pathsep in str(folder):
            raise BadFile(
                f"--allow {name!r} cannot be used: name a folder that is there, without {os.pathsep!r} in it."
            )
        found.append(str(folder))
    return os.pathsep.join(dict.fromkeys(found))


def check_free(address: str, port: int) -> None:
    """Raises BadInput when nothing can listen there."""
    if not 1 <= port <= 65535:
        raise BadInput(f"--port {port} is none: take a number from 1 to 65535, for example 8501.")
    try:
        places = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BadInput(
            f"--address {address!r} is unknown here ({error.strerror}): leave it out, or name one of this machine."
        ) from None
    for family, _, _, _, place in places:
        try:
            socket.create_server(place[:2], family=family).close()
        except OSError as error:
            if family == socket.AF_INET6 and len(places) > 1:  # a name may also stand for an address that is off
                continue
            remedy = "close what runs there, or choose another port, for example --port 8502"
            raise BadInput(f"{address}:{port} cannot be had ({os.strerror(error.errno or 0)}): {remedy}.") from None


def url(address: str, port: int) -> str:
    """Where a browser finds it; 0.0.0.0 and :: stand for every address of this machine."""
    host = socket.gethostname() if address in ("0.0.0.0", "::", "") else address
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
