"""``tvbadpix completion``: what makes a shell complete our command lines."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["add_command"]

_EPILOG = """\
For all shells to come:
  bash: echo 'eval "$(tvbadpix completion bash)"' >> ~/.bashrc
  zsh:  tvbadpix completion zsh > DIR/_tvbadpix, with a DIR of your $fpath
  fish: tvbadpix completion fish > ~/.config/fish/completions/tvbadpix.fish
  tcsh: tvbadpix completion tcsh > ~/.tvbadpix.csh
        and in ~/.tcshrc: source ~/.tvbadpix.csh

examples:
  eval "$(tvbadpix completion bash)"
  tvbadpix completion zsh
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    completion = commands.add_parser(
        "completion",
        help="print what makes a shell complete tvbadpix",
        description="Print the lines that make a shell complete commands, options, choices and "
        "files after tvbadpix and the Tab key.",
        epilog=_EPILOG,
    )
    completion.add_argument(
        "shell",
        choices=("bash", "zsh", "fish", "tcsh"),
        metavar="SHELL",
        help="bash, zsh, fish or tcsh",
    )
    completion.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import shtab

    from . import build_parser

    parser = build_parser()
    for action in _list_actions(parser):
        if action.type is Path:
            folder = action.metavar in ("DIR", "OUT")
            action.complete = shtab.DIRECTORY if folder else shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell=options.shell))
    return 0


def _list_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """List the arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _list_actions(each)
