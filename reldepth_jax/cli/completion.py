"""Print shell completion for bash, zsh or fish.

Completes commands, options and names of configurations.

bash:  source <(reldepth completion bash)                                    in ~/.bashrc
zsh:   source <(reldepth completion zsh)                                     in ~/.zshrc
fish:  reldepth completion fish > ~/.config/fish/completions/reldepth.fish   once
"""

import argparse

from reldepth_jax.cli import command
from reldepth_jax.cli import main as reldepth
from reldepth_jax.config import loading

SHELLS = ("bash", "zsh", "fish")
FOLDERS = ("workdir", "output", "data_dir", "manual_dir", "root", "runs")
FILES = ("weights", "input", "inputs", "json")

_CONFIGS = {
    "bash": """\
_reldepth_configs() {{
  compgen -W "{names}" -- "$1"
  compgen -f -X '!*.py' -- "$1"
  compgen -d -- "$1"
}}""",
    "zsh": """\
_reldepth_configs() {{
  compadd -- {names}
  _files -g '*.py'
}}""",
    "fish": """\
function _reldepth_configs
  printf '%s\\n' {names}
  __fish_complete_path (commandline -ct)
end""",
}


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("completion", __doc__)
    options.add_argument("shell", choices=SHELLS, help="for which shell")
    return options


def main(argv: list[str] | None = None) -> int:
    """Print the script."""
    options, _ = command.parse(parser(), argv)
    import shtab

    names = " ".join(loading.files())
    complete = {
        "config": {
            **dict.fromkeys(("bash", "zsh"), "_reldepth_configs"),
            "fish": "(_reldepth_configs)",
            "preamble": {shell: text.format(names=names) for shell, text in _CONFIGS.items()},
        },
        **dict.fromkeys(FOLDERS, shtab.DIRECTORY),
        **dict.fromkeys(FILES, shtab.FILE),
    }
    whole = reldepth.parser()
    (commands,) = (a for a in whole._actions if isinstance(a, argparse._SubParsersAction))
    for each in commands.choices.values():
        for action in each._actions:
            if action.dest in complete:
                # Where shtab looks for it; argparse knows no such attribute.
                setattr(action, "complete", complete[action.dest])  # noqa: B010
    print(shtab.complete(whole, options.shell))
    return 0
