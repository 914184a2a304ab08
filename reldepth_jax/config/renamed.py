"""Former names of fields, plug-ins and options, which are still accepted.

They may stand in configuration files, in overrides and in the `config.json` of a run. Anything but
`config.json` prints one line with the new name.
"""

import ast
import functools
import sys
from collections.abc import Mapping
from typing import Any

from reldepth_jax.config.choice import Choice
from reldepth_jax.registry import Registry

RENAMED = {
    ("DataConfig", "max_bad"): "max_unreadable",
    ("OptimConfig", "frozen_statistics"): "frozen_batch_norm",
    ("loss", "l2"): "mse",
    ("loss sum", "losses"): "terms",
}
"""(owner, former name) -> name. Owners are groups, kinds of plug-ins, and plug-ins by kind."""

ONCE_TEXT = {("loss sum", "terms"), ("pair sampler mixture", "samplers")}
"""Options whose items were written as texts, "name" or "name:option=value:…", not as choices."""


def new_name(owner: str, name: str, *, quiet: bool = False) -> str:
    """Return the present name of a field or plug-in."""
    new = RENAMED.get((owner, name), name)
    if new != name and not quiet:
        _print_once(f"{owner}: {name!r} is now called {new!r}")
    return new


def new_names(owner: str, values: Mapping[str, Any], *, quiet: bool = False) -> dict[str, Any]:
    """Return `values` by their present names; a former name wins over the present one."""
    new: dict[str, Any] = {}
    for name, value in values.items():
        present = new_name(owner, name, quiet=quiet)
        if present != name or name not in new:
            new[present] = value
    return new


def new_choice(registry: Registry, choice: Choice, *, quiet: bool = False) -> Choice:
    """Return a choice with the present names of the plug-in and its options."""
    name = choice.name
    if (registry.kind, name) in RENAMED and name not in registry.entries:
        name = new_name(registry.kind, name, quiet=True)
    plug_in = f"{registry.kind} {name}"
    options = new_names(plug_in, choice.options, quiet=True)
    for option, value in options.items():
        if isinstance(value, tuple):
            items = map(_from_text, value) if (plug_in, option) in ONCE_TEXT else value
            options[option] = tuple(
                new_choice(registry, item, quiet=True) if isinstance(item, Choice) else item
                for item in items
            )
    new = Choice(name, **options)
    if new != choice and not quiet:
        _print_once(f"{registry.kind}: {choice} is now written {new}")
    return new


def _from_text(item: Any) -> Any:
    """Return `Choice(name, option=value, …)` for "name:option=value:…"."""
    if not isinstance(item, str):
        return item
    name, *settings = (part.strip() for part in item.split(":"))
    pairs = (setting.partition("=") for setting in settings)
    return Choice(name, **{option.strip(): _literal(value.strip()) for option, _, value in pairs})


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (ValueError, SyntaxError):
        return text


@functools.cache
def _print_once(line: str) -> None:
    print(line, file=sys.stderr)
