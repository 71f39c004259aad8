"""The plan of a migration of classes, and of its undo."""

import datetime as dt

import pytest

from pipeline_tasks.annotation.class_plan import ClassOptions, plan_classes, plan_undo, refuse_orphans, undoable
from pipeline_tasks.catalog.schema_versions import SchemaVersion, names_now
from pipeline_tasks.errors import ConfigError

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
FIRST = ["cat", "dog", "owl"]


def history(*versions):
    """Return versions of (classes, mapping) or (classes, mapping, the version that it undoes)."""
    return [
        SchemaVersion(number, tuple(classes), NOW, dict(to), undoes=undoes[0] if undoes else None)
        for number, (classes, to, *undoes) in enumerate(versions, 1)
    ]


def planned(wanted, *, before=None, **options):
    return plan_classes(before or history((FIRST, {})), wanted, ClassOptions(**options))


@pytest.mark.parametrize(
    ("wanted", "options", "mapping", "added", "unexplained"),
    [
        ([*FIRST, "bat"], {}, {}, ["bat"], ()),
        (["cat", "dog", "eagle"], {}, {}, ["eagle"], ("owl",)),
        (["cat", "dog", "eagle"], {"renames": ("owl=eagle",)}, {"owl": "eagle"}, [], ()),
        (["pet", "owl"], {"merges": ("cat,dog=pet",)}, {"cat": "pet", "dog": "pet"}, [], ()),
        (["pet", "owl"], {"merges": ("cat=pet", "dog=pet")}, {"cat": "pet", "dog": "pet"}, [], ()),
        (["cat", "owl"], {"merges": ("cat,dog=cat",)}, {"dog": "cat"}, [], ()),
        (["cat", "dog"], {"removed": ("owl",), "drop": True}, {"owl": None}, [], ()),
        (["cat", "dog"], {"removed": ("owl",), "move_to": "cat"}, {"owl": "cat"}, [], ()),
        (["bird", "pet", "bat"], {"renames": ("owl=bird",), "merges": ("cat,dog=pet",)},
         {"owl": "bird", "cat": "pet", "dog": "pet"}, ["bat"], ()),
    ],
)  # fmt: skip
def test_each_class_that_is_gone_is_explained_by_an_option_or_named(wanted, options, mapping, added, unexplained):
    plan = planned(wanted, **options)
    assert (plan.mapping, plan.added, plan.unexplained) == (mapping, added, unexplained)


def test_a_class_may_have_signs_of_the_command_line_in_its_name():
    before = history((["a=b", "c,d", "e"], {}))
    assert planned(["x", "y", "e"], before=before, renames=("a=b=x", "c,d=y")).mapping == {"a=b": "x", "c,d": "y"}
    assert planned(["e", "x"], before=before, merges=("a=b=x", "c,d=x")).mapping == {"a=b": "x", "c,d": "x"}


def test_what_happens_is_said_in_words():
    plan = planned(["cat", "bird", "bat"], renames=("owl=bird",), removed=("dog",), move_to="cat")
    assert [plan.becomes(name) for name in FIRST] == ["stays", "merged into cat", "renamed to bird"]
    plan = planned(["pet", "owl"], merges=("cat,dog=pet",))
    assert [plan.becomes(name) for name in FIRST] == ["merged into pet", "merged into pet", "stays"]
    assert planned(["cat", "dog"], removed=("owl",), drop=True).becomes("owl") == "removed"


@pytest.mark.parametrize(
    ("wanted", "options", "message"),
    [
        (FIRST, {"renames": ("owl=eagle",)}, r"--rename must be classes of before, =, and a class of labels.classes"),
        (["cat", "dog", "eagle"], {"renames": ("cow=eagle",)}, r"--rename must be classes of before.*got 'cow=eagle'"),
        (["cat", "dog"], {"renames": ("owl=cat",)}, r"a name of its own \(got owl=cat\). Use --merge."),
        (["pet", "owl"], {"renames": ("cat=pet", "dog=pet")}, r"a name of its own .* Use --merge."),
        ([*FIRST, "eagle"], {"renames": ("owl=eagle",)}, r"got 'owl', which stands in labels.classes still"),
        (["cat", "dog"], {"removed": ("owl",)}, r"--remove must be given with --move-to CLASS or --drop"),
        (["cat", "dog"], {"removed": ("owl",), "drop": True, "move_to": "cat"}, r"must not be given together"),
        (["cat", "dog"], {"removed": ("owl",), "move_to": "cow"}, r"--move-to must be one of labels.classes: cat, dog"),
        (["cat", "dog"], {"drop": True}, r"must be given with a class that is removed"),
        (["cat", "dog"], {"removed": ("cow",), "drop": True}, r"got 'cow', which was no class"),
        (["cat", "dog"], {"removed": ("owl", "owl"), "drop": True}, r"once \(got 'owl' again\)"),
    ],
)
def test_options_that_do_not_fit_are_refused(wanted, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        planned(wanted, **options)
    assert caught.value.code == "CLASSES_INVALID"


RENAMED = (["cat", "dog", "eagle"], {"owl": "eagle"})
MERGED = (["pet", "owl"], {"cat": "pet", "dog": "pet"})


def test_a_former_name_gets_no_second_meaning():
    with pytest.raises(ConfigError, match=r"no former name a second meaning \(got 'owl', which stands for eagle"):
        planned(["cat", "dog", "eagle", "owl"], before=history((FIRST, {}), RENAMED))
    dropped = history((FIRST, {}), (["cat", "dog"], {"owl": None}))
    assert planned(FIRST, before=dropped).added == ["owl"]  # what was removed comes back as what it was
    with pytest.raises(ConfigError, match="got 'owl', which stands for a removed class"):
        planned(["owl", "dog"], before=dropped, renames=("cat=owl",))
    undone = history((FIRST, {}), RENAMED, (FIRST, {"eagle": "owl"}, 2))
    assert planned(RENAMED[0], before=undone, renames=("owl=eagle",)).mapping == {"owl": "eagle"}


@pytest.mark.parametrize(
    ("version", "options", "mapping", "unexplained"),
    [
        (RENAMED, {}, {"eagle": "owl"}, ()),
        (MERGED, {}, {}, ("pet",)),
        (MERGED, {"move_to": "cat"}, {"pet": "cat"}, ()),
        (MERGED, {"drop": True}, {"pet": None}, ()),
        ((["cat", "owl"], {"dog": "cat"}), {}, {}, ()),
        ((["cat", "dog"], {"owl": None}), {}, {}, ()),
        (([*FIRST, "bat"], {}), {}, {}, ("bat",)),
    ],
)
def test_an_undo_goes_back_to_the_list_before(version, options, mapping, unexplained):
    plan = plan_undo(history((FIRST, {}), version), FIRST, ClassOptions(**options))
    assert (plan.classes, plan.mapping, plan.unexplained, plan.undoes) == (tuple(FIRST), mapping, unexplained, 2)


def test_undos_go_back_one_version_each():
    line = history((FIRST, {}), RENAMED, ([*RENAMED[0], "bat"], {}))
    assert undoable(line).version == 3
    line = history((FIRST, {}), RENAMED, ([*RENAMED[0], "bat"], {}), (*RENAMED, 3))
    assert undoable(line).version == 2
    line = history((FIRST, {}), RENAMED, ([*RENAMED[0], "bat"], {}), (*RENAMED, 3), (FIRST, {}, 2))
    assert undoable(line) is None
    with pytest.raises(ConfigError, match="--undo needs a schema version after the first that is not undone"):
        plan_undo(line, FIRST, ClassOptions())


def test_an_undo_gives_names_their_meaning_of_before():
    line = history(
        (FIRST, {}), (["feline", "dog", "owl"], {"cat": "feline"}), (["pet", "owl"], {"feline": "pet", "dog": "pet"})
    )
    assert names_now(line) == {"cat": "pet", "feline": "pet", "dog": "pet"}
    moved = history(*[(row.classes, row.mapping) for row in line], (line[1].classes, {"pet": "dog"}, 3))
    assert names_now(moved) == {"cat": "feline", "pet": "dog"}
    back = history((FIRST, {}), (["cat", "dog"], {"owl": None}), (FIRST, {}), (["cat", "dog"], {"owl": "cat"}, 3))
    assert names_now(back) == {"owl": "cat"}  # what was said of the name at last


def test_an_undo_needs_the_list_to_go_back_to():
    with pytest.raises(ConfigError, match="must be the list to go back to, that of schema version 1: cat, dog, owl"):
        plan_undo(history((FIRST, {}), RENAMED), ["cat", "dog", "eagle"], ClassOptions())


def test_a_class_with_labels_that_nothing_is_said_of_is_refused_with_its_items():
    plan = planned(["cat", "dog"])
    refuse_orphans(plan, [], num_annotations=0, project="pets")
    items = [f"{number:064x}" for number in range(12)]
    with pytest.raises(ConfigError) as caught:
        refuse_orphans(plan, items, num_annotations=13, project="pets")
    assert caught.value.code == "CLASSES_ORPHANED"
    text = str(caught.value)
    assert "got nothing of owl: 13 annotations and 12 items would be orphaned: 000000000000, " in text
    assert "and 2 more" in text
    assert "--rename owl=NEW" in text
