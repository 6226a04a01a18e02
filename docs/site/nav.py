"""Which page stands where; what is named nowhere here goes to the how-to pages by itself."""

from __future__ import annotations

from collections.abc import Sequence

HOW_TO = "How to"
SECTIONS: dict[str, list[str]] = {
    "Start": ["index.md", "first_model.md", "from_nnunet.md", "from_monai.md", "clinic_offline.md"],
    "Tutorials": [
        "tutorials/python_door.md",
        "tutorials/own_training_loop.md",
        "tutorials/own_mixer.md",
        "tutorials/own_dataset.md",
        "tutorials/own_augmentation.md",
        "tutorials/kernels_alone.md",
        "tutorials/monai_commands.md",
        "tutorials/mlflow_record.md",
    ],
    HOW_TO: ["reports.md", "comparing.md", "few_labels.md", "synthesis.md", "split.md", "federated.md", "cluster.md"],
    "Concepts": [
        "concepts/parts.md",
        "concepts/plan.md",
        "concepts/windows.md",
        "concepts/scan_orders.md",
        "concepts/bundle.md",
        "architecture.md",
    ],
    "Figures": ["prediction.md", "hippocampus.md", "networks.md", "recipe.md", "exports.md", "collaboration.md",
                "reliability.md", "requirements.md"],
}  # fmt: skip
REFERENCE = "Reference"


def navigation(pages: Sequence[str]) -> dict[str, list[str]]:
    """Section -> pages, of those that are there.

    Args:
        pages: all pages, by their path below the site's sources.

    Returns:
        The sections in reading order; `reference/` and `project/` pages in sections of their own.
    """
    named = {page for section in SECTIONS.values() for page in section}
    found = {title: [page for page in section if page in pages] for title, section in SECTIONS.items()}
    rest = [page for page in sorted(pages) if page not in named]
    found[HOW_TO] += [page for page in rest if not page.startswith(("reference/", "project/"))]
    found[REFERENCE] = [page for page in rest if page.startswith("reference/")]
    found["In the source"] = [page for page in rest if page.startswith("project/")]
    return {title: section for title, section in found.items() if section}


def as_toml(sections: dict[str, list[str]]) -> str:
    """The `nav` entry of zensical.toml."""
    parts = [f'  {{ "{title}" = [{", ".join(f"{page!r}" for page in pages)}] }},' for title, pages in sections.items()]
    return "nav = [\n" + "\n".join(parts) + "\n]\n"
