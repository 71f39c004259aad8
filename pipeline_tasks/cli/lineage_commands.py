"""The commands that follow a model version's lineage: `lineage`, `blast-radius`, `retrain`."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline_tasks.cli.command import argument, command, one_of
from pipeline_tasks.cli.output import Answer


@command(
    argument(
        "id",
        help="(the beginning of) the id of a prediction, model version, snapshot, verdict or item; `kind:id` names the "
        "kind: label:<item id>, or prediction:<id> where the catalog knows another thing that begins so",
    ),
    argument("--project", help="where ids of several projects begin so"),
)
def lineage(arguments: argparse.Namespace) -> Any:
    """Show where something came from and what it touched."""
    from pipeline_tasks.audit import lineage_tree
    from pipeline_tasks.audit.lineage import lineage as trace
    from pipeline_tasks.orchestration.resources import build_resources

    parts = build_resources()
    tree = trace(parts.database, parts.store, arguments.id, project=arguments.project)
    return lineage_tree.as_json(tree) if arguments.json else lineage_tree.as_text(tree)


@command(
    argument("project"),
    one_of(
        argument("--item", metavar="ID", help="(the beginning of) an item's id"),
        argument("--label", metavar="ITEM_ID", help="the same item's label"),
        argument("--annotator", metavar="NAME", help="everything that a person labeled"),
        required=True,
    ),
)
def blast_radius(arguments: argparse.Namespace) -> Any:
    """List snapshots, models, predictions, services affected."""
    from pipeline_tasks.audit import lineage_tree
    from pipeline_tasks.audit.lineage import blast_radius as measure
    from pipeline_tasks.orchestration.resources import build_resources

    parts = build_resources()
    impact = measure(
        parts.database,
        parts.store,
        arguments.project,
        item=arguments.item,
        label=arguments.label,
        annotator=arguments.annotator,
    )
    return impact.as_json() if arguments.json else lineage_tree.as_text(impact.tree())


@command(
    argument("version", help="a model version, or its beginning"),
    argument("--project", help="where versions of several projects begin so"),
    argument(
        "--tolerance",
        type=float,
        help="largest difference of a metric (empty: 0 and the same weights; 0.02 where code, environment or hardware "
        "are not the recorded ones)",
    ),
)
def retrain(arguments: argparse.Namespace) -> Answer:
    """Train a model version again from its lineage and compare.

    Exit code 1 when it differs.
    """
    from pipeline_tasks.audit import retrain as audit_retrain
    from pipeline_tasks.audit.lineage import find
    from pipeline_tasks.catalog.lineage import LineageRepository
    from pipeline_tasks.orchestration.resources import build_resources, code_revision, lock_hash

    parts = build_resources()
    model = find(
        LineageRepository(parts.database), parts.store, arguments.version, project=arguments.project, kind="model"
    ).subject
    comparison = audit_retrain.retrain(
        model.project,
        model.id,
        database=parts.database,
        store=parts.store,
        scratch=parts.settings.scratch_dir,
        lock_hash=lock_hash(),
        code_revision=code_revision(),
        tolerance=arguments.tolerance,
    )
    text = audit_retrain.comparison_text(model.project, model.id, comparison)
    return Answer(
        audit_retrain.comparison_json(model.project, model.id, comparison), (text,), code=0 if comparison.agrees else 1
    )
