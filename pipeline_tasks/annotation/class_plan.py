"""The plan of a migration of classes: what becomes of each class that project.yaml no longer has. Pure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from pipeline_tasks.catalog.schema_versions import SchemaVersion, names_now, same_classes
from pipeline_tasks.errors import ConfigError

CLASSES_INVALID = "CLASSES_INVALID"
CLASSES_ORPHANED = "CLASSES_ORPHANED"
SHOWN_ITEMS = 10


@dataclasses.dataclass(frozen=True, slots=True)
class ClassOptions:
    """The wishes of a person about classes, as they stand on the command line: `OLD=NEW`, `A,B=NEW`, class names."""

    renames: tuple[str, ...] = ()
    merges: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    move_to: str | None = None
    drop: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ClassPlan:
    """Two class lists and what becomes of the classes that only the first has (None: removed, with its labels).

    Of the `unexplained` nothing is said; `undoes` is the schema version that is taken back.
    """

    before: tuple[str, ...]
    classes: tuple[str, ...]
    mapping: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    unexplained: tuple[str, ...] = ()
    undoes: int | None = None

    @property
    def added(self) -> list[str]:
        return [name for name in self.classes if name not in self.before and name not in self.mapping.values()]

    @property
    def is_empty(self) -> bool:
        return same_classes(self.before, self.classes)

    def becomes(self, name: str) -> str:
        """Return what happens to a class of before, in words."""
        if name in self.classes:
            return "stays"
        to = self.mapping.get(name)
        if to is None:
            return "removed"
        merged = to in self.before or Counter(self.mapping.values())[to] > 1
        return f"{'merged into' if merged else 'renamed to'} {to}"


def plan_classes(history: Sequence[SchemaVersion], wanted: Sequence[str], options: ClassOptions) -> ClassPlan:
    """Return the plan from the newest version to the list of project.yaml.

    Raises:
        ConfigError: CLASSES_INVALID, an option does not fit the lists, or a name would get a second meaning.
    """
    before = history[-1].classes
    mapping: dict[str, str | None] = {}
    for old, new in _renames(options, before, wanted):
        _set(mapping, old, new, before=before, wanted=wanted)
    for name, to in _removed(options, wanted):
        _set(mapping, name, to, before=before, wanted=wanted)
    former = names_now(history)
    targets = set(mapping.values())
    for name in set(wanted) - set(before):
        to = former.get(name)
        is_same = to is not None and mapping.get(to) == name
        if name in former and not is_same and (to is not None or name in targets):
            raise _invalid(
                f"labels.classes must give no former name a second meaning (got {name!r}, which stands for "
                f"{to or 'a removed class'}: answers given under it are read so). Take another name, or --undo."
            )
    unexplained = tuple(name for name in before if name not in wanted and name not in mapping)
    return ClassPlan(before, tuple(wanted), mapping, unexplained)


def plan_undo(history: Sequence[SchemaVersion], wanted: Sequence[str], options: ClassOptions) -> ClassPlan:
    """Return the plan back to the list before the newest version that is not undone.

    Labels that the version gave go back one by one; its `mapping` is of those that were given since, under names that
    only it had: back to the one name that it renamed, or by --move-to and --drop. `unexplained` are the others.

    Raises:
        ConfigError: CLASSES_INVALID, there is nothing to undo, or project.yaml has another list than that.
    """
    if options.renames or options.merges or options.removed:
        raise _invalid("--undo must be given without --rename, --merge and --remove (got some of them).")
    undone = undoable(history)
    if undone is None:
        raise _invalid("--undo needs a schema version after the first that is not undone (got none).")
    target = history[undone.version - 2].classes
    if not same_classes(target, wanted):
        raise _invalid(
            f"labels.classes must be the list to go back to, that of schema version {undone.version - 1}: "
            f"{', '.join(target)} (got {', '.join(wanted)}). Write it into project.yaml, then give --undo again."
        )
    before = history[-1].classes
    sources = {new: [old for old, to in undone.mapping.items() if to == new] for new in before if new not in wanted}
    mapping: dict[str, str | None] = {new: old[0] for new, old in sources.items() if len(old) == 1}
    rest = [new for new, old in sources.items() if len(old) != 1]
    said = options.drop or options.move_to is not None
    mapping |= dict(_removed(dataclasses.replace(options, removed=tuple(rest) if said else ()), wanted))
    unexplained = tuple(name for name in rest if not said)
    return ClassPlan(before, tuple(wanted), mapping, unexplained, undoes=undone.version)


def undoable(history: Sequence[SchemaVersion]) -> SchemaVersion | None:
    """Return the newest version that is neither undone nor an undo itself, after the first."""
    undone = {version.undoes for version in history}
    left = [version for version in history[1:] if version.undoes is None and version.version not in undone]
    return left[-1] if left else None


def refuse_orphans(plan: ClassPlan, orphans: Sequence[str], *, num_annotations: int, project: str) -> None:
    """Refuse a plan that says nothing of a class with labels; `orphans` are the ids of its items.

    Raises:
        ConfigError: CLASSES_ORPHANED.
    """
    if not orphans:
        return
    first = plan.unexplained[0]
    named = ", ".join(item_id[:12] for item_id in orphans[:SHOWN_ITEMS])
    more = f" and {len(orphans) - SHOWN_ITEMS} more" if len(orphans) > SHOWN_ITEMS else ""
    advice = (
        "--move-to CLASS, or --drop"
        if plan.undoes is not None
        else f"one of: --rename {first}=NEW; --merge {first},OTHER=NEW; --remove {first} with --move-to CLASS or "
        "--drop; or put it back into labels.classes"
    )
    raise ConfigError(
        f"every class that is gone from labels.classes of {project} must be explained (got nothing of "
        f"{', '.join(plan.unexplained)}: {num_annotations} annotations and {len(orphans)} items would be orphaned: "
        f"{named}{more}). "
        f"Give {advice}.",
        code=CLASSES_ORPHANED,
    )


def _renames(options: ClassOptions, before: Collection[str], wanted: Collection[str]) -> Iterator[tuple[str, str]]:
    renamed = [_sides(text, option="--rename", before=before, wanted=wanted) for text in options.renames]
    counts = Counter(new for _, new in renamed)
    for old, new in renamed:
        if new in before or counts[new] > 1:
            raise _invalid(f"--rename must give each class a name of its own (got {old}={new}). Use --merge.")
        yield old, new
    for text in options.merges:
        old, new = _sides(text, option="--merge", before=before, wanted=wanted)
        for name in [old] if old in before else old.split(","):
            if name != new or new not in before:
                yield name, new


def _sides(text: str, *, option: str, before: Collection[str], wanted: Collection[str]) -> tuple[str, str]:
    """Return what is before and after the `=`; a class may have one in its name."""
    cuts = [at for at, char in enumerate(text) if char == "=" and text[at + 1 :] in wanted]
    known = [at for at in cuts if text[:at] in before or all(name in before for name in text[:at].split(","))]
    if len(known) != 1:
        raise _invalid(
            f"{option} must be classes of before, =, and a class of labels.classes (got {text!r}). Before: "
            f"{', '.join(before)}; labels.classes: {', '.join(wanted)}."
        )
    return text[: known[0]], text[known[0] + 1 :]


def _removed(options: ClassOptions, wanted: Collection[str]) -> Iterator[tuple[str, str | None]]:
    if options.drop and options.move_to is not None:
        raise _invalid("--drop and --move-to must not be given together (got both).")
    if (options.drop or options.move_to is not None) and not options.removed:
        raise _invalid("--drop and --move-to must be given with a class that is removed (got none).")
    if options.removed and not options.drop and options.move_to is None:
        raise _invalid(
            f"--remove must be given with --move-to CLASS or --drop (got neither): labels have "
            f"{', '.join(options.removed)}."
        )
    if options.move_to is not None and options.move_to not in wanted:
        raise _invalid(f"--move-to must be one of labels.classes: {', '.join(wanted)} (got {options.move_to!r}).")
    for name in options.removed:
        yield name, options.move_to


def _set(
    mapping: dict[str, str | None], name: str, to: str | None, *, before: Collection[str], wanted: Collection[str]
) -> None:
    if name not in before or name in wanted:
        problem = "stands in labels.classes still: take it out there" if name in before else "was no class"
        raise _invalid(f"--rename, --merge and --remove must name classes of before (got {name!r}, which {problem}).")
    if name in mapping:
        raise _invalid(f"a class must be renamed, merged or removed once (got {name!r} again).")
    mapping[name] = to


def _invalid(message: str) -> ConfigError:
    return ConfigError(message, code=CLASSES_INVALID)
