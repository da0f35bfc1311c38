"""`hubel studio`: the page, on this machine alone, until Ctrl-C."""

from __future__ import annotations

import secrets
import socket
import threading
import webbrowser
from pathlib import Path

from hubel.errors import UsageError

HOST, PORT = "127.0.0.1", 8757


def studio(folder: str | Path = "runs", *, port: int = PORT, browser: bool = True, model: str | None = None) -> None:
    """Open the studio on a run, or on a folder of runs, and serve it until Ctrl-C.

    Args:
        folder: a run folder, or one that holds some; nothing outside of it is shown.
        port: on 127.0.0.1; 0 is any that is free.
        browser: open the page.
        model: a network of your own, ``FILE.py:CLASS``: with new weights, and for runs that were trained with it.

    Raises:
        UsageError: FastAPI or uvicorn is not installed, there is no such folder, the port is taken, or the model is
            none.
    """
    try:
        import uvicorn

        from hubel.jobs.inspect import untrained
        from hubel.studio.server import app
    except ImportError as error:
        raise UsageError(f"hubel studio needs {error.name}: pip install 'hubel[studio]'.") from error
    if not Path(folder).is_dir() and str(folder) != "runs":
        raise UsageError(f"{folder} is not a folder: give a run's, such as runs/photos, or one that holds runs.")
    if model is not None:
        untrained(model)  # what is wrong with it is said here
    token = secrets.token_urlsafe(18)
    with listening(port) as listener:
        address = f"http://{HOST}:{listener.getsockname()[1]}/?token={token}{'#/network' * (model is not None)}"
        print(f"The studio is at {address}\nCtrl-C ends it; trainings that it began go on.", flush=True)
        if browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        config = uvicorn.Config(app(folder, token=token, code=model), log_level="warning", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


def listening(port: int) -> socket.socket:
    """A socket on this machine's own address; the caller closes it.

    Raises:
        UsageError: the port is taken, or not allowed.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or "ports are 0 to 65535"
        raise UsageError(f"--port {port} can't be used ({why}): give another, or 0 for any that is free.") from error
    listener.listen()  # a browser that is early waits
    return listener
