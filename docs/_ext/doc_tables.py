"""What the documentation takes from the code: arguments, schemas, commands, recipes, errors.

Each ``write_*`` function returns lines of reStructuredText. Nothing here needs Sphinx, so that
the tests can compare the pages with the code where Sphinx is not installed.
"""

import argparse
import ast
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import jwst_tvbadpix
from jwst_tvbadpix import errors
from jwst_tvbadpix._integration import get_steps

__all__ = [
    "Argument",
    "Message",
    "find_parser",
    "list_arguments",
    "list_commands",
    "list_errors",
    "list_messages",
    "list_schemas",
    "read_schema",
    "write_allowed",
    "write_arguments",
    "write_command",
    "write_messages",
    "write_parameter_files",
    "write_recipe",
    "write_recipes",
    "write_schema",
]

PACKAGE = Path(jwst_tvbadpix.__file__).parent


@dataclass(frozen=True, slots=True)
class Argument:
    """One parameter of a step, as its spec has it.

    Attributes
    ----------
    name, meaning : str
        Its name and the comment that ``--help`` shows.
    kind : str
        ``float``, ``integer``, ``boolean``, ``string``, ``option``, ``force_list``, ...
    allowed : str
        Bounds or the words to choose from; empty where anything goes.
    default : str
    inherited : bool
        Whether the step has it from stpipe or from the base of our steps.
    """

    name: str
    kind: str
    allowed: str
    default: str
    meaning: str
    inherited: bool


@dataclass(frozen=True, slots=True)
class Message:
    """What is said where an error is raised; ``...`` stands for what only a run knows."""

    error: str
    module: str
    text: str


def escape(text: str) -> str:
    """Make text that reStructuredText takes literally."""
    return re.sub(r"([\\*`|_])", r"\\\1", text)


def literal(text: str) -> str:
    """Make text that is shown as code; nothing for nothing."""
    return f"``{text}``" if text else ""


def write_table(titles: Sequence[str], rows: Iterable[Sequence[str]], widths: str) -> list[str]:
    """Write a list-table; cells are reStructuredText of one line."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in (titles, *rows):
        for k, cell in enumerate(row):
            lines.append(f"   {'* -' if k == 0 else '  -'} {cell}".rstrip())
    return [*lines, ""]


# --- arguments -----------------------------------------------------------------------------


def find_step(alias: str) -> Any:
    """Import a step by its alias, or a class by its dotted name."""
    names = {own: name for name, own, _ in get_steps()}
    module, _, name = names.get(alias, alias).rpartition(".")
    return getattr(import_module(module), name)


def list_arguments(step: Any) -> list[Argument]:
    """List the parameters of a step, its own in the order of its spec, then the others."""
    from configobj import ConfigObj
    from configobj.validate import Validator

    own = list(ConfigObj(step.spec.splitlines(), _inspec=True, interpolation=False))
    spec = step.load_spec_file()
    arguments = []
    for name in (*own, *(name for name in spec.scalars if name not in own)):
        kind, choices, keywords, default = Validator()._parse_with_caching(spec[name])
        bounds = [f"{key} {keywords[key]}" for key in ("min", "max") if key in keywords]
        arguments.append(
            Argument(
                name=name,
                kind=kind,
                allowed=", ".join(choices if kind == "option" else bounds),
                default="''" if default == "" else str(default),
                meaning=(spec.inline_comments[name] or "").lstrip("# ").strip(),
                inherited=name not in own,
            )
        )
    return arguments


def write_arguments(alias: str, *, inherited: bool = False) -> list[str]:
    """Write the table of a step's own arguments, or of those that it inherits."""
    rows = []
    for argument in list_arguments(find_step(alias)):
        if argument.inherited is inherited:
            allowed = f": {argument.allowed}" if argument.allowed else ""
            rows.append(
                (
                    literal(f"--{argument.name}"),
                    escape(argument.kind + allowed),
                    literal(argument.default),
                    escape(argument.meaning),
                )
            )
    return write_table(("Argument", "Type", "Default", "Meaning"), rows, "20 20 15 45")


# --- schemas -------------------------------------------------------------------------------


def list_schemas() -> list[str]:
    """List the schemas of our products: ``badpixhistory`` and so on; not that of their meta."""
    names = (entry.name for entry in files("jwst_tvbadpix").joinpath("reference_schemas").iterdir())
    ending = ".schema.yaml"
    found = {name.removesuffix(ending) for name in names if name.endswith(ending)}
    return sorted(found - {"reference"})


def read_schema(name: str) -> dict[str, Any]:
    """Read a schema, its properties merged: keys ``id``, ``title``, ``refs``, ``properties``."""
    import yaml

    path = files("jwst_tvbadpix") / "reference_schemas" / f"{name}.schema.yaml"
    schema = yaml.safe_load(path.read_text(encoding="utf-8"))
    merged: dict[str, Any] = {
        "id": schema["id"],
        "title": schema["title"],
        "refs": [part["$ref"] for part in schema["allOf"] if "$ref" in part],
        "properties": {},
        "required": [],
    }
    for part in schema["allOf"]:
        merged["properties"].update(part.get("properties", {}))
        merged["required"] += part.get("required", [])
    return merged


def describe_type(node: dict[str, Any]) -> str:
    """Say what a value is: ``float64 (2-D)``, ``list of string``, ``mapping to number`` ..."""
    if "datatype" in node:
        kind = node["datatype"]
        kind = f"text of {kind[1]} characters" if isinstance(kind, list) else kind
        dimensions = f" ({node['ndim']}-D)" if "ndim" in node else ""
        return f"{kind}{dimensions}"
    if "ndim" in node:
        return f"array ({node['ndim']}-D)"
    if node.get("type") == "array":
        return f"list of {describe_type(node.get('items', {}))}"
    if "additionalProperties" in node:
        return f"mapping to {describe_type(node['additionalProperties'])}"
    return {"object": "mapping"}.get(node.get("type"), str(node.get("type", "any")))


_SCHEMA_TITLES, _SCHEMA_WIDTHS = ("Name", "Type", "Meaning"), "24 20 56"


def write_schema(name: str) -> list[str]:
    """Write a schema: a heading for each part with a table of what it holds."""
    schema = read_schema(name)
    lines = [f"{escape(schema['title'])}.", "", f"* Schema: ``{schema['id']}``"]
    lines += [f"* Holds what this does too: ``{ref}``" for ref in schema["refs"]]
    lines += [""]
    single = []
    for part, node in schema["properties"].items():
        optional = part not in schema["required"]
        # A table of its own, or a mapping of names to tables of one shape.
        inner = node if "properties" in node else node.get("additionalProperties")
        if not isinstance(inner, dict) or "properties" not in inner:
            single.append((literal(part), *_describe(node, optional)))
            continue
        each = "" if inner is node else ", of each name"
        title = f".. rubric:: {part}{each}{' (optional)' if optional else ''}"
        lines += [title, "", f"{escape(node.get('title', ''))}.", ""]
        rows = [
            (literal(key), *_describe(child, key not in inner.get("required", ())))
            for key, child in inner["properties"].items()
        ]
        lines += write_table(_SCHEMA_TITLES, rows, _SCHEMA_WIDTHS)
    single_values = write_table(_SCHEMA_TITLES, single, _SCHEMA_WIDTHS)
    return [*lines, ".. rubric:: Single values", "", *single_values]


def _describe(node: dict[str, Any], optional: bool) -> tuple[str, str]:
    """Say what a value is, and what it means, its unit and the words that it may be."""
    words = ", ".join(str(value) for value in node.get("enum", ()))
    meaning = node.get("title", "") + (f" (one of {words})" if words else "")
    if node.get("unit"):
        meaning += f" [{node['unit']}]"
    meaning += " (optional)" if optional else ""
    return escape(describe_type(node)), escape(meaning)


# --- commands ------------------------------------------------------------------------------


def find_parser() -> argparse.ArgumentParser:
    """Make the parser of ``tvbadpix``."""
    from jwst_tvbadpix.cli import build_parser

    return build_parser()


def list_commands() -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """List the commands in the order of ``--help``: name -> (one line, parser)."""
    for action in find_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            lines = {str(choice.dest): choice.help or "" for choice in action._choices_actions}
            return {name: (lines[name], parser) for name, parser in action.choices.items()}
    raise LookupError("tvbadpix has no commands")


def write_command(name: str) -> list[str]:
    """Write the reference of one command."""
    summary, parser = list_commands()[name]
    formatter = argparse.HelpFormatter(prog=parser.prog, width=88)
    title = f"tvbadpix {name}"
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, "")
    usage = formatter.format_help().strip()
    lines = [
        f".. _cli-{name}:",
        "",
        title,
        "-" * len(title),
        "",
        f"{escape(summary[:1].upper() + summary[1:])}.",
        "",
    ]
    lines += [".. code-block:: text", "", *textwrap.indent(usage, "   ").splitlines(), ""]
    for text in (parser.description, parser.epilog):
        if text and text.rstrip(".") != summary:
            lines += _write_block(text)
    rows = [
        (literal(_name_option(action)), escape(formatter._expand_help(action)))
        for action in parser._actions
        if action.help and "-h" not in action.option_strings
    ]
    return lines + write_table(("Argument", "Meaning"), rows, "35 65")


def _name_option(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
    if not value and action.nargs != 0:
        value = action.dest.upper()
    value = " ".join(value) if isinstance(value, tuple) else value
    return f"{', '.join(action.option_strings)} {value}".rstrip()


def _write_block(text: str) -> list[str]:
    """Write help text: paragraphs flow, what is indented keeps its lines."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if any(line.startswith("  ") for line in paragraph.splitlines()):
            lines += ["::", "", *textwrap.indent(paragraph, "   ").splitlines(), ""]
        else:
            lines += [escape(" ".join(paragraph.split())), ""]
    return lines


# --- recipes -------------------------------------------------------------------------------


def write_recipes() -> list[str]:
    """Write one line for each programme: its rows, and how many each step takes."""
    from jwst_tvbadpix.programmes.recipes import STEPS, find_recipe, list_recipes

    rows = []
    for program in list_recipes():
        recipe = find_recipe(program)
        counts = [
            sum(max(r.count, 1) for r in recipe.rows if r.step == s) for s in (*STEPS, "none")
        ]
        unclear = sum(bool(row.doubts) for row in recipe.rows)
        rows.append(
            (
                f":ref:`{program} <programme-{program}>`",
                escape(recipe.title),
                *map(str, counts),
                str(unclear),
            )
        )
    titles = ("Programme", "Title", "Masks", "Flats", "Fluxes", "No step", "With a doubt")
    return write_table(titles, rows, "12 40 9 9 9 9 12")


def write_recipe(program: str) -> list[str]:
    """Write the rows of a programme, and what becomes of each."""
    from jwst_tvbadpix.programmes.recipes import find_recipe

    recipe = find_recipe(program)
    title = f"{program}: {recipe.title}"
    lines = [f".. _programme-{program}:", "", title, "-" * len(title), ""]
    lines += [
        f"Rows from {escape(recipe.source)}." if "://" not in recipe.source else recipe.source,
        "",
    ]
    lines += [f"* {escape(note)}" for note in recipe.notes] + [""]
    rows = []
    for row in recipe.rows:
        remarks = "; ".join((*((row.reason,) if row.reason else ()), *row.doubts))
        label = row.label or "(any programme)"
        times = f" ({row.count} rows)" if row.count > 1 else ""
        rows.append(
            (
                escape(label + times),
                escape(row.target),
                escape(row.mode),
                escape(", ".join(row.roles)),
                escape(row.step),
                escape(remarks),
            )
        )
    titles = ("Row", "Target", "Mode", "Role", "Step", "Reason or doubt")
    return lines + write_table(titles, rows, "22 14 14 12 16 22")


# --- parameter files, warnings that may stand ------------------------------------------------


def write_parameter_files() -> list[str]:
    """Write what parameter files are shipped, and why they say what they say."""
    from jwst_tvbadpix.parameters import TABLE

    rows = [
        (
            literal(name),
            f"{escape(entry.purpose)}. {escape(entry.reason)}".rstrip(),
        )
        for name, entry in TABLE.items()
    ]
    return write_table(("Name", "What for, and why"), rows, "30 70")


def write_allowed() -> list[str]:
    """Write the warnings of certify that do not stop a delivery."""
    from jwst_tvbadpix.delivery import ALLOWED_WARNINGS

    rows = [
        (escape(", ".join(warning.kinds) or "all"), escape(warning.reason))
        for warning in ALLOWED_WARNINGS
    ]
    return write_table(("Types", "Why it may stand"), rows, "15 85")


# --- errors --------------------------------------------------------------------------------


def list_errors() -> list[str]:
    """List the named errors: every subclass of TvBadPixError, itself first."""

    def descend(parent: type) -> Iterator[str]:
        yield parent.__name__
        for child in parent.__subclasses__():
            yield from descend(child)

    return list(dict.fromkeys(descend(errors.TvBadPixError)))


def list_messages() -> list[Message]:
    """List what is said wherever the package raises one of its errors, from its source."""
    names, found = set(list_errors()), set()
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id in names and node.args:
                text = " ".join("".join(_read_text(node.args[0])).split())
                if text.strip(". :;,()"):
                    found.add(Message(node.func.id, module, text))
    return sorted(found, key=lambda message: (message.error, message.text.lower(), message.module))


def _read_text(node: ast.AST) -> Iterator[str]:
    """Yield the fixed parts of a text; "..." for the others."""
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr):
        for value in node.values:
            yield from _read_text(value)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _read_text(node.left)
        yield from _read_text(node.right)
    else:
        yield "..."


def write_messages(error: str) -> list[str]:
    """Write the messages of one error."""
    rows = [
        (escape(message.text), literal(message.module))
        for message in list_messages()
        if message.error == error
    ]
    return write_table(("Message", "Module"), rows, "78 22") if rows else []
