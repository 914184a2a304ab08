"""Open the network in a browser: click two points of a photograph, and see which is nearer.

reldepth demo                                 the network that comes with the package
reldepth demo --model midas_v21_small         or --weights FILE, --workdir RUN: extra `export`
reldepth demo --export FOLDER                 only write it as static files, to publish

A page in the browser runs the network, and a server on this machine hands out its files: no
photograph leaves the browser, and nothing is fetched from elsewhere. Ctrl-C ends the server.
"""

import argparse
import pathlib
import sys
from typing import TYPE_CHECKING

from reldepth_jax.cli import command, which_network
from reldepth_jax.config import ConfigError

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer

PORT = 8017
"""Always the same: browsers remember by address whether the camera is allowed."""


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("demo", __doc__)
    which_network.add(options)
    options.add_argument(
        "--export", type=pathlib.Path, metavar="FOLDER", help="only write the page as static files"
    )
    options.add_argument("--force", action="store_true", help="replace an earlier page in FOLDER")
    options.add_argument(
        "--port",
        type=int,
        help=f"of the server, 0 for a free one; default: {PORT}, or a free one if that is taken",
    )
    options.add_argument("--no-browser", action="store_true", help="do not open the browser")
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, write the page, serve it until Ctrl-C."""
    options, _ = command.parse(parser(), argv)
    name = pathlib.Path(which_network.check(options)).name
    if options.export is not None and (options.port is not None or options.no_browser):
        raise ConfigError("--port and --no-browser belong to the server; --export starts none")
    if options.force and options.export is None:
        raise ConfigError("--force belongs to --export")
    if options.port is not None and not 0 <= options.port < 65536:
        raise ConfigError(f"--port must be from 0 to 65535, got {options.port}")

    # Imported late: a mistake is reported before JAX is loaded.
    import tempfile
    import webbrowser

    from reldepth_jax import runtime
    from reldepth_jax.data.images.io import printable
    from reldepth_jax.demo import folder

    runtime.set_up()
    runtime.keep_compiled()
    if options.export is not None:
        folder.require_room(options.export, replace=options.force)
        model = which_network.load(options)
        size = folder.write(options.export, model, name)
        print(f"written: {printable(options.export)} ({size / 1e6:.1f} MB)")
        print(f"licence of the weights: {model.provenance.get('licence', 'not stated')}")
        return 0
    with tempfile.TemporaryDirectory() as place, _listening(place, options.port) as server:
        folder.write(pathlib.Path(place), which_network.load(options), name)
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"{name} is at {address}; Ctrl-C ends it")
        sys.stdout.flush()
        if not options.no_browser:
            webbrowser.open(address)
        server.serve_forever()
    return 0


def _listening(place: str, port: int | None) -> "ThreadingHTTPServer":
    """Return the server, at a free port if the usual one is taken and no other was asked for."""
    from reldepth_jax.demo.server import server

    try:
        return server(place, PORT if port is None else port)
    except OSError as error:
        if port is None:
            return server(place)
        reason = error.strerror or error
        raise ConfigError(f"port {port} cannot be used ({reason}); name another one") from None
