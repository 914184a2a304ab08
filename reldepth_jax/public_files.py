"""Where publishers keep weights, as data: networks and encoders register it beside themselves."""

import dataclasses
import re
import urllib.parse

SHIPPED = "reldepth_small"
"""The network that comes with the package, for users who name none."""
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublicFile:
    """A file of public weights: where it is, and how to know that it is the right one.

    Raises ValueError for an address that is not https (http is for servers on this machine), a
    digest that is none, a file name that is none, or if nothing says where it is.
    """

    name: str
    """By which users ask for it."""
    url: str = ""
    """Its direct address, empty if it has none: then people get it from `page`."""
    page: str = ""
    packaged: bool = False
    """Whether `file` comes with this package, in `weights/shipped`: nothing is fetched."""
    file: str = ""
    """Its name in the cache; default: the last part of `url`."""
    sha256: str = ""
    """All 64 hexadecimal digits; or the first 8, if the publisher gives only these (in the file's
    name); or empty, if nobody has published them."""
    size: int = 0
    """Bytes, 0 if not known. For people: the digest decides."""
    licence: str = ""
    """If the network has files under several."""

    def __post_init__(self) -> None:
        if not self.file:
            object.__setattr__(self, "file", self.url.rpartition("/")[2])
        if self.url and not is_safe(self.url):
            raise ValueError(f"{self.name}: {self.url} is not an https address")
        if not (self.url or self.page or self.packaged):
            raise ValueError(f"{self.name}: give its url, or the page where people get it")
        if not re.fullmatch(r"([0-9a-f]{8}|[0-9a-f]{64})?", self.sha256):
            raise ValueError(f"{self.name}: sha256 has 64 hexadecimal digits, the first 8, or none")
        for name in (self.name, self.file):
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(f"{self.name}: {name!r} cannot be the name of a file")

    def is_of(self, digest: str) -> bool:
        """Return whether a digest is known to be this file's."""
        return bool(self.sha256) and digest.startswith(self.sha256)


def is_safe(url: str, *, or_local: bool = True) -> bool:
    """Return whether nobody on the way can change what comes from there.

    With `or_local` plain http is allowed from this machine, where there is no way.
    """
    parts = urllib.parse.urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in _THIS_MACHINE
    return parts.scheme == "https" or (or_local and local)
