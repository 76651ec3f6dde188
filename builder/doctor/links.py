"""Symbolic links that lead nowhere: at one of them tritonserver gives up the model, or the whole repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from builder.doctor.findings import Finding, fails, warning
from builder.doctor.model import Model

CHECK = "dead-link"


def check_repository_links(repository: Path) -> Iterator[Finding]:
    """Links beside the models; tritonserver lists the repository by what each entry is, hidden ones too."""
    for link in dead_links(repository):
        what = f"{lead(link)}; tritonserver cannot tell whether it is a model, and loads none of the repository"
        yield fails(CHECK, link.name, what, f"remove it: rm {link}")


def check_links(model: Model) -> Iterator[Finding]:
    """Links in a model's folder, which fail it, and below its versions and configs, which tritonserver only logs."""
    for link in dead_links(model.folder):
        what = f"{lead(link)}; tritonserver does not load a model whose folder holds such a link"
        yield fails(CHECK, f"{model.name}/{link.name}", what, f"remove it: rm {link}, or put back what it led to")
    for top in (model.folder / "configs", *(version.path for version in model.versions)):
        for parent, _, _ in os.walk(top):
            for link in dead_links(Path(parent)):
                where = f"{model.name}/{link.relative_to(model.folder).as_posix()}"
                of_config = link.parent == model.folder / "configs" and link.suffix == ".pbtxt"
                instead = f"; --model-config-name={link.stem} would serve config.pbtxt, and not say so"
                what = f"{lead(link)}{instead if of_config else ''}"
                yield warning(CHECK, where, what, f"remove it: rm {link}, or put back what it led to")


def dead_links(folder: Path) -> list[Path]:
    """The entries of a folder that are symbolic links to nothing, or to each other."""
    return sorted(path for path in folder.iterdir() if path.is_symlink() and not path.exists())


def lead(link: Path) -> str:
    """Where a link leads, in words."""
    return f"a symbolic link to {link.readlink()}, where nothing is"
