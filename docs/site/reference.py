"""Reference pages from the code: every module's public objects, every verb's options, every key of a bundle's files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from medseg.cli.main import VERBS, build_parser
from medseg.commands.fit_keys import MEANINGS, argument_facts, shown
from medseg.components import HOMES
from medseg.inference.settings import LabelSettings
from medseg.planning.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
LARGE = ("bundle", "io", "networks")
PACKAGES = {"medseg": ROOT / "medseg", "medseg_kernels": ROOT / "kernels" / "medseg_kernels"}


def pages() -> Iterator[tuple[str, str]]:
    """(path below the sources, Markdown) of every reference page."""
    yield "reference/commands.md", commands_page()
    yield "reference/files.md", files_page()
    for group, modules in module_groups().items():
        yield f"reference/api/{group}.md", api_page(group, modules)


def module_groups() -> dict[str, list[str]]:
    """`package.folder` -> the modules on its page; a large folder has a page per subfolder too."""
    found: dict[str, list[str]] = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if any(part.startswith("_") for part in parts):
                continue
            in_folder = len(parts) > 1 and (folder / parts[1]).is_dir()
            depth = 1 if not in_folder else 3 if len(parts) > 3 and parts[1] in LARGE else 2
            found.setdefault(".".join(parts[:depth]), []).append(".".join(parts))
    return found


def api_page(group: str, modules: list[str]) -> str:
    """One page: the modules below a heading each, filled in by mkdocstrings from their docstrings."""
    lines = [f"# {group}", ""]
    for module in modules:
        lines += [f"## {module}", "", f"::: {module}", "    options:", "      heading_level: 3",
                  "      show_root_heading: false", ""]  # fmt: skip
    return "\n".join(lines)


def commands_page() -> str:
    """Every verb and action with its options, from the parsers themselves."""
    parser = build_parser()
    verbs = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
    lines = ["# Commands", "", "`medseg VERB --help` prints the same.", ""]
    for verb, text in VERBS.items():
        lines += _command(f"medseg {verb}", verbs[verb], text, level=2)
    return "\n".join(lines)


def _command(name: str, parser: argparse.ArgumentParser, text: str, *, level: int) -> list[str]:
    lines = [f"{'#' * level} {name}", "", f"{text[0].upper()}{text[1:]}.", ""]
    rows, below = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            said = {one.dest: one.help or "" for one in action._choices_actions}
            for child, inner in action.choices.items():
                below += _command(f"{name} {child}", inner, said.get(child, "") or child, level=level + 1)
        elif not isinstance(action, argparse._HelpAction):
            rows.append(f"| {_option(action)} | {cell(action.help or '')} |")
    if rows:
        lines += ["| option | what it does |", "|---|---|", *rows, ""]
    return lines + below


def _option(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    value = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or action.dest.upper()}"
    return f"`{cell(names + value, code=True)}`" + (" (required)" if action.required and action.option_strings else "")


def files_page() -> str:
    """The keys of a bundle's JSON files and what they mean."""
    lines = [
        "# Keys of a bundle's files", "",
        "`medseg fit BUNDLE --keys` prints those of one bundle's train.json with their values.", "",
        "## configs/train.json", "", *_table(MEANINGS), "",
        "### Arguments of components", "",
        "A component is named by `_target_`; its arguments are keys below it, such as `train::module::learning_rate`.", "",
    ]  # fmt: skip
    for name in sorted(HOMES):
        facts = argument_facts(f"medseg.components.{name}")
        if facts:
            lines += [f"#### {name}", "", "| key | default | meaning |", "|---|---|---|"]
            lines += [
                f"| `{key}` | {_code(shown(fact.default))} | {cell(fact.meaning)} |" for key, fact in facts.items()
            ]
            lines.append("")
    lines += ["## configs/inference.json: what decides labels", "", *_table(_fields(LabelSettings.__doc__ or "")), ""]
    lines += ["## plan.json: what was decided and why", "", *_table(_fields(Plan.__doc__ or "")), ""]
    return "\n".join(lines)


def _fields(docstring: str) -> dict[str, str]:
    """Name -> meaning of a docstring's `Args:`."""
    section = docstring.split("Args:", 1)[-1]
    found: dict[str, str] = {}
    for line in section.splitlines():
        begun = re.match(r"^\s{8}([a-z_][\w, ]*): (.*)", line)
        if begun:
            found[begun[1]] = begun[2]
        elif found and line.strip():
            found[list(found)[-1]] += " " + line.strip()
        elif found:
            break
    return found


def _table(meanings: Mapping[str, str]) -> list[str]:
    return ["| key | meaning |", "|---|---|", *(f"| `{key}` | {cell(text)} |" for key, text in meanings.items())]


def _code(text: str) -> str:
    return f"`{cell(text, code=True)}`" if text else ""


def cell(text: str, *, code: bool = False) -> str:
    """Text for one cell of a table."""
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if code else flat.replace("%%", "%").replace("<", "&lt;")
