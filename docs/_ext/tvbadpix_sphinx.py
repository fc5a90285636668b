"""Directives that put what the code says into the pages, and equations that need no network."""

from typing import Any, ClassVar

import doc_tables
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from jwst_tvbadpix import __version__

__all__ = ["setup"]


class _Generated(SphinxDirective):
    """Base: lines of reStructuredText, parsed where the directive stands."""

    def write(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        text = "\n".join(self.write())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class StepArguments(_Generated):
    """``.. step-arguments:: alias``: its own arguments; ``:inherited:`` those of every step."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"inherited": directives.flag}

    def write(self) -> list[str]:
        inherited = "inherited" in self.options
        return doc_tables.write_arguments(self.arguments[0], inherited=inherited)


class SchemaTables(_Generated):
    """``.. schema-tables:: name``: what a product holds."""

    required_arguments = 1

    def write(self) -> list[str]:
        return doc_tables.write_schema(self.arguments[0])


class ErrorMessages(_Generated):
    """``.. error-messages:: Error``: all that is said under a named error."""

    required_arguments = 1

    def write(self) -> list[str]:
        return doc_tables.write_messages(self.arguments[0])


class Commands(_Generated):
    """``.. commands::``: the reference of ``tvbadpix``."""

    def write(self) -> list[str]:
        commands = doc_tables.list_commands()
        return [line for name in commands for line in doc_tables.write_command(name)]


class Programmes(_Generated):
    """``.. programmes::``: the programmes with recipes, in one table and row by row."""

    def write(self) -> list[str]:
        from jwst_tvbadpix.programmes.recipes import list_recipes

        each = [line for program in list_recipes() for line in doc_tables.write_recipe(program)]
        return [*doc_tables.write_recipes(), *each]


class ParameterFiles(_Generated):
    """``.. parameter-files::``: what is shipped."""

    def write(self) -> list[str]:
        return doc_tables.write_parameter_files()


class AllowedWarnings(_Generated):
    """``.. allowed-warnings::``: what does not stop a delivery."""

    def write(self) -> list[str]:
        return doc_tables.write_allowed()


def _visit_math(translator: Any, node: nodes.Element) -> None:
    """Write an equation as MathML, which browsers draw without a script from elsewhere."""
    block = isinstance(node, nodes.math_block)
    mathml = tex2mathml(node.astext(), as_block=block)
    translator.body.append(f'<div class="math">{mathml}</div>' if block else mathml)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives and the writer of equations."""
    app.add_directive("step-arguments", StepArguments)
    app.add_directive("schema-tables", SchemaTables)
    app.add_directive("error-messages", ErrorMessages)
    app.add_directive("commands", Commands)
    app.add_directive("programmes", Programmes)
    app.add_directive("parameter-files", ParameterFiles)
    app.add_directive("allowed-warnings", AllowedWarnings)
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math, None))
    # Another version of the package makes Sphinx read all pages again.
    return {"version": __version__, "parallel_read_safe": True, "parallel_write_safe": True}
