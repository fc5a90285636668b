"""Shared by the tests of the pages: the blocks of a page, and the commands in them."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [DOCS / "quickstart.rst", *sorted((DOCS / "tutorials").glob("[!i]*.rst"))]
_BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n((?:   :.*\n)*)\n((?:(?:   .*)?\n)+)", re.MULTILINE)
_MARK = "@@@ block"
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Block:
    """Something to run, and the lines that are shown of what comes."""

    language: str
    code: str
    shown: tuple[str, ...]


def read_blocks(path):
    """The blocks of a page that are run, in order; text after one is its output."""
    blocks = []
    for language, options, body in _BLOCK.findall(path.read_text(encoding="utf-8") + "\n"):
        code = textwrap.dedent(body).strip()
        if language == "text":
            last = blocks.pop()
            assert not last.shown, f"{path.name}: two outputs of one block: {code}"
            blocks.append(Block(last.language, last.code, tuple(code.splitlines())))
        elif language in ("bash", "python") and "not-run" not in options:
            blocks.append(Block(language, code, ()))
    return blocks


def run_page(path, folder):
    """Run a page in one shell with nothing but HOME and PATH; what came of each block."""
    blocks = read_blocks(path)
    script = ["set -euo pipefail"]
    for block in blocks:
        code = block.code
        if block.language == "python":
            code = f"python - <<'END_OF_BLOCK'\n{code}\nEND_OF_BLOCK"
        script += [f"echo; echo '{_MARK}'", code]
    environment = {
        "HOME": str(folder),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath.lstrip(":")]),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    run = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1800,
    )
    assert run.returncode == 0, f"{path.name}:\n{run.stdout[-4000:]}"
    came = run.stdout.split(_MARK)[1:]
    return list(zip(blocks, came, strict=True))


def find_missing(shown, came):
    """The first line shown that did not come, in order, its small numbers within a tenth."""
    lines = iter(came.splitlines())
    for wanted in shown:
        if wanted.strip() != "..." and not any(_agree(wanted, line) for line in lines):
            return wanted
    return None


def _agree(wanted, line):
    wanted, line = (" ".join(text.split()) for text in (wanted, line))
    parts = _NUMBER.split(wanted)
    pattern = "(-?[0-9.]+)".join(re.escape(text) for text in parts[::2])
    found = re.search(pattern, line)
    return found is not None and all(map(_close, parts[1::2], found.groups()))


def _close(wanted, found):
    if len(wanted) > 5 or not _NUMBER.fullmatch(found):
        return wanted == found
    return abs(float(found) - float(wanted)) <= 0.1 * abs(float(wanted))


def list_commands(text):
    """The commands of this package and of stpipe in shell code, as words."""
    text = re.sub(r"(^|\s)#.*", r"\1", text.replace("\\\n", " "))
    text = re.sub(r"^ *\$ ", "", text, flags=re.MULTILINE)
    inner = re.findall(r"\$\((tvbadpix [^)]*)\)", text)
    text = "\n".join([re.sub(r'"\$\([^)]*\)"', "X", text), *inner, ""])
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";|&()<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    commands, words = [], []
    for word in lexer:
        if set(word) <= set(";|&()<>\n"):
            commands.append(words)
            words = []
        else:
            words.append(word)
    return [words for words in commands if words and words[0] in ("tvbadpix", "strun")]
