"""The commands that follow a model version's lineage: `lineage`, `blast-radius`, `retrain`."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline_tasks.command_answer import Answer


def lineage(arguments: argparse.Namespace) -> Any:
    """Show where something came from and what it touched."""
    from pipeline_tasks.assembly import build_parts
    from pipeline_tasks.wiring import lineage_tree
    from pipeline_tasks.wiring.lineage import lineage as trace

    parts = build_parts()
    tree = trace(parts.database, parts.store, arguments.id, project=arguments.project)
    return lineage_tree.as_json(tree) if arguments.json else lineage_tree.as_text(tree)


def blast_radius(arguments: argparse.Namespace) -> Any:
    """List what an item, a label or a person's answers affect."""
    from pipeline_tasks.assembly import build_parts
    from pipeline_tasks.wiring import lineage_tree
    from pipeline_tasks.wiring.lineage import blast_radius as measure

    parts = build_parts()
    found = measure(
        parts.database,
        parts.store,
        arguments.project,
        item=arguments.item,
        label=arguments.label,
        annotator=arguments.annotator,
    )
    return found.as_json() if arguments.json else lineage_tree.as_text(found.tree())


def retrain(arguments: argparse.Namespace) -> Answer:
    """Train a model version again and compare; exit code 1 when it differs."""
    from pipeline_tasks.assembly import build_parts, code_revision, lock_hash
    from pipeline_tasks.catalog.lineage import LineageRepository
    from pipeline_tasks.wiring import retrain as wiring
    from pipeline_tasks.wiring.lineage import find

    parts = build_parts()
    model = find(
        LineageRepository(parts.database), parts.store, arguments.version, project=arguments.project, kind="model"
    ).subject
    found = wiring.retrain(
        model.project,
        model.id,
        database=parts.database,
        store=parts.store,
        scratch=parts.settings.scratch_dir,
        lock_hash=lock_hash(),
        code_revision=code_revision(),
        tolerance=arguments.tolerance,
    )
    text = wiring.comparison_text(model.project, model.id, found)
    return Answer(wiring.comparison_json(model.project, model.id, found), (text,), code=0 if found.agrees else 1)
