"""One request to a server of files, and what its failures mean, in words."""

import errno
import http.client
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, NoReturn

import reldepth_jax
from reldepth_jax.public_files import is_safe

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as cut."""
_LONGEST_WAIT = 60.0
_PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers of servers that may answer otherwise in a moment."""
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)


class Passing(Exception):
    """A failure that another try may mend; `wait` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


class Final(Exception):
    """A failure that another try will not mend."""


def get(url: str, have: int, mark: str) -> Any:
    """Ask for a file, or for what follows its first `have` bytes; return urllib's response.

    None if nothing follows. `mark` is the ETag or date of the version that the bytes are from: of
    another version the server sends all, with status 200 in place of 206.

    Raises Passing or Final. Proxies are those of the environment.
    """
    headers = {"User-Agent": f"reldepth_jax/{reldepth_jax.__version__}"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": mark}
    try:
        opener = urllib.request.build_opener(_Redirects)
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return None
        last = urllib.parse.urlsplit(error.url or "").hostname or host_of(url)
        reason = f"{last} answers {error.code} ({error.reason})"
        if error.code not in _PASSING:
            raise Final(reason) from None
        asked = error.headers.get("Retry-After", "")
        raise Passing(
            reason, min(float(asked), _LONGEST_WAIT) if asked.isdecimal() else None
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        _tell(error, url)
    if response.headers.get_content_type() == "text/html":
        response.close()
        raise Final(
            f"{host_of(url)} answers with a web page in place of the file (does this network ask"
            " for a login?)"
        )
    return response


def read(response: Any, url: str) -> bytes:
    """Return the next bytes, none at the end. Raises Passing or Final."""
    try:
        return response.read1(1 << 18)
    except (OSError, http.client.HTTPException) as error:
        _tell(error, url)


def host_of(url: str) -> str:
    """Return the name of the machine that an address is on."""
    return urllib.parse.urlsplit(url).hostname or url


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to https only; from a server on this machine also to one on it."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str):
        if not is_safe(newurl, or_local=req.type == "http"):
            host = host_of(req.full_url)
            fp.close()
            raise Final(f"{host} redirects to {newurl}, which is not https; not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _tell(error: BaseException, url: str) -> NoReturn:
    """Raise what a failure of the network means."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    proxy = _proxy(url)
    to = f"the proxy {proxy} on the way to {host_of(url)}" if proxy else host_of(url)
    said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, socket.gaierror):
        raise Final(f"no network, or no such name: {to} ({error.strerror})") from None
    if isinstance(error, ssl.SSLCertVerificationError):
        raise Final(
            f"the certificate of {to} is not trusted here ({error.verify_message}); SSL_CERT_FILE"
            " can name a file of those to trust"
        ) from None
    if isinstance(error, ConnectionRefusedError):
        raise Final(f"{to} refuses the connection") from None
    if "Tunnel connection failed" in said or isinstance(error, ValueError | http.client.InvalidURL):
        raise Final(f"{to} cannot be used ({said})") from None
    if number in _UNREACHABLE:
        raise Final(f"no network: {to} ({said})") from None
    if isinstance(error, TimeoutError):
        raise Passing(f"{to} is silent for {TIMEOUT:g} s") from None
    raise Passing(f"the connection to {to} broke ({said})") from None


def _proxy(url: str) -> str:
    """Return host and port of the proxy that stands before `url`, without its password."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme, "")
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return ""
    return proxy.rpartition("//")[2].rpartition("@")[2].strip("/")
