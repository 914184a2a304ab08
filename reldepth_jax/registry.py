"""Named plug-ins, found by reading their source files and imported only when one is made.

A plug-in is one new file: a class or function under `@REGISTRY.register("name")`. It lies in the
package of its kind, or in a folder that the environment variable RELDEPTH_PLUGINS names (see
`reldepth_jax.plugins`), or that `extend` adds. The file is parsed, not imported, to learn names and
options, so that a typo in a configuration is answered in milliseconds and without JAX. Options are
the parameters (or dataclass fields) that have a default; parameters without one are supplied by the
caller of `create`.
"""

import ast
import dataclasses
import difflib
import functools
import importlib
import importlib.util
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from reldepth_jax import plugins
from reldepth_jax.errors import UserError

T = TypeVar("T", bound=Callable[..., Any])


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(got, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a plug-in before it is imported."""

    module: str
    options: dict[str, tuple[str, str]]
    """Name -> (annotation, default)."""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What `register` is given beside the name, as far as it is written as literals."""


class Registry:
    """Plug-ins of one kind: those of one package, and those from folders outside."""

    def __init__(self, name: str, kind: str, package: str):
        """Take the variable's own name, what a plug-in is called in messages, and the package."""
        self.name = name
        self.kind = kind
        self._package = package
        self._made: dict[str, Callable[..., Any]] = {}
        self._extras: dict[str, dict[str, Any]] = {}

    def register(self, name: str, **extras: Any) -> Callable[[T], T]:
        """Decorate a class or function as plug-in `name`; `extras` are facts for its tests."""

        def decorate(made: T) -> T:
            if name in self._made:
                raise _two(self.kind, name)
            self._made[name] = made
            self._extras[name] = extras
            return made

        return decorate

    @functools.cached_property
    def entries(self) -> dict[str, Entry]:
        """Every plug-in by name, sorted; read from the sources without importing them."""
        spec = importlib.util.find_spec(self._package)
        assert spec is not None
        found: dict[str, Entry] = {}
        for folder in spec.submodule_search_locations or ():
            self._read(folder, self._package, found)
        for folder in plugins.__path__:
            if not os.path.isdir(folder):
                raise UserError(f"RELDEPTH_PLUGINS names {folder!r}, which is no folder")
            self._read(folder, plugins.__name__, found)
        return dict(sorted(found.items()))

    def extend(self, folder: str) -> None:
        """Add what a folder of `reldepth_jax.plugins` holds of this kind."""
        self._read(folder, plugins.__name__, self.entries)

    def _read(self, folder: str, package: str, found: dict[str, Entry]) -> None:
        """Add the plug-ins in the files of a folder, whose modules are those of `package`."""
        for path in sorted(pathlib.Path(folder).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            try:
                nodes = ast.parse(path.read_text(encoding="utf-8")).body
            except (SyntaxError, UnicodeDecodeError) as error:
                raise UserError(f"{path}: {error}") from None
            for node in nodes:
                name, facts = _registered(node, self.name)
                if name is not None:
                    if name in found:
                        raise _two(self.kind, name)
                    module = ".".join((package, *parts)).removesuffix(".__init__")
                    found[name] = Entry(module, _options(node), facts)

    def lookup(self, name: str) -> Entry:
        """Return the entry of `name`; ValueError with the nearest name if there is none."""
        if name not in self.entries:
            raise ValueError(
                f"unknown {self.kind} {name!r}.{did_you_mean(name, self.entries)}"
                f" Available: {', '.join(self.entries)}."
            )
        return self.entries[name]

    def get(self, name: str) -> Callable[..., Any]:
        """Import the plug-in and return its class or function."""
        importlib.import_module(self.lookup(name).module)
        return self._made[name]

    def create(self, name: str, **arguments: Any) -> Any:
        """Import the plug-in and call it with `arguments`."""
        return self.get(name)(**arguments)

    def extras(self, name: str) -> dict[str, Any]:
        """Return the facts that `register` was given beside the name."""
        importlib.import_module(self.lookup(name).module)
        return self._extras[name]


def extend(folder: str | os.PathLike[str]) -> None:
    """Add the plug-ins in the files of a folder, here and in the processes started from now on."""
    plugins.__path__.append(os.path.abspath(folder))
    os.environ["RELDEPTH_PLUGINS"] = os.pathsep.join(plugins.__path__)
    for registry in (ENCODERS, LOSSES, PAIR_SAMPLERS, PRESETS, PROTOCOLS, SOURCES):
        registry.extend(plugins.__path__[-1])


def _two(kind: str, name: str) -> ValueError:
    return ValueError(f"two plug-ins are called {kind} {name!r}")


def _registered(node: ast.stmt, registry: str) -> tuple[str | None, dict[str, Any]]:
    """Return name and facts of `@REGISTRY.register("name", …)` above a class or function."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        for decorator in node.decorator_list:
            match decorator:
                case ast.Call(
                    func=ast.Attribute(
                        attr="register",
                        value=ast.Name(id=written) | ast.Attribute(attr=written),
                    ),
                    args=[ast.Constant(value=str(name)), *_],
                    keywords=keywords,
                ) if written == registry:
                    return name, {
                        keyword.arg: keyword.value.value
                        for keyword in keywords
                        if keyword.arg and isinstance(keyword.value, ast.Constant)
                    }
    return None, {}


def _options(node: ast.stmt) -> dict[str, tuple[str, str]]:
    """Return name -> (annotation, default) for whatever has a default."""
    if isinstance(node, ast.ClassDef):
        return {
            field.target.id: (ast.unparse(field.annotation), ast.unparse(field.value))
            for field in node.body
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and field.value is not None
            and not ast.unparse(field.annotation).startswith("ClassVar")
        }
    assert isinstance(node, ast.FunctionDef)
    keywords = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {
        argument.arg: (
            ast.unparse(argument.annotation) if argument.annotation else "Any",
            ast.unparse(default),
        )
        for argument, default in keywords
        if default is not None
    }


ENCODERS = Registry("ENCODERS", "encoder", "reldepth_jax.models.encoders")
LOSSES = Registry("LOSSES", "loss", "reldepth_jax.losses")
PAIR_SAMPLERS = Registry("PAIR_SAMPLERS", "pair sampler", "reldepth_jax.samplers")
PRESETS = Registry("PRESETS", "network", "reldepth_jax.weights.presets")
PROTOCOLS = Registry("PROTOCOLS", "evaluation protocol", "reldepth_jax.evaluation.protocols")
SOURCES = Registry("SOURCES", "data source", "reldepth_jax.data.sources")
