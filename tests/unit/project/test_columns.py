"""The section `columns`: what follows from it, and what is refused."""

import pytest

from pipeline_tasks.project.loader import load_project
from pipeline_tasks.project.scaffold import init_project
from pipeline_tasks.project.yaml_reader import ProjectError

FULL = """[
  {name: amount, type: number, unit: EUR},
  {name: price, type: decimal},
  {name: day, type: date, format: "%d.%m.%Y"},
  {name: code, type: category, values: ["02", "1"]},
  {name: member, type: boolean},
  {name: note, type: text}]"""


@pytest.fixture
def folder(tmp_path):
    return init_project(tmp_path, name="rows", template="tabular")


def write(folder, columns: str, *edits: tuple[str, str]):
    path = folder / "project.yaml"
    text = path.read_text()
    text = text[: text.index("columns:")] + f"columns: {columns}\n" + text[text.index("sources:") :]
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


def test_sources_and_recipe_follow_from_the_columns(folder):
    write(folder, FULL)
    config = load_project(folder).config
    assert config.sources[0].content_columns == ["amount", "price", "day", "code", "member", "note"]
    assert config.recipe.params == {
        "numbers": ["amount", "price"],
        "dates": ["day"],
        "categories": {"code": ["02", "1"], "member": ["false", "true"]},
    }


def test_inputs_that_are_named_stay(folder):
    write(folder, FULL, ("  name: tabular_mlp", "  params: {numbers: [price]}\n  name: tabular_mlp"))
    assert load_project(folder).config.recipe.params == {"numbers": ["price"]}


SOURCE = "    key_column: id "
RECIPE = "  name: tabular_mlp"
WRONG = [
    ("[{name: a, type: float}]", (), "columns[0].type must be 'number', 'decimal'"),
    ("[{name: a, type: number}, {name: a, type: text}]", (), "columns[0].name must be unique (got 'a' 2 times)."),
    ('[{name: "a\\0", type: number}]', (), "columns[0].name must be 1 to 200 printable characters"),
    ("[{name: a, type: number, format: '%d'}]", (), "columns[0].format must be left out where type is number"),
    ("[{name: a, type: date, format: '%Q'}]", (), "columns[0].format must be a format of strptime"),
    ("[{name: a, type: date, format: '%Y-%d-%m'}]", (), "columns[0].format must not read ISO dates as other dates"),
    ("[{name: a, type: text, unit: kg}]", (), "columns[0].unit must be left out where type is text"),
    ("[{name: a, type: number, values: ['1']}]", (), "columns[0].values must be left out where type is number"),
    ("[{name: a, type: category, values: [x, x]}]", (), "columns[0].values must name each value once"),
    ("[{name: a, type: category, values: [NA], missing: [NA]}]", (), "columns[0].values must name each value once"),
    (
        "[{name: a, type: category}, {name: n, type: number}]",
        (),
        "columns[0].values must list the values that the model",
    ),
    (
        "[{name: a, type: number}]",
        ((SOURCE, f"    content_columns: [a, b]\n{SOURCE}"),),
        "sources[0].content_columns must be the names in columns (got a difference: b).",
    ),
    (
        "[{name: a, type: text}]",
        ((RECIPE, f"  params: {{numbers: [a]}}\n{RECIPE}"),),
        "recipe.params.numbers must name columns of the type number or decimal (got 'a', declared as text).",
    ),
    ("[{name: a, type: text}]", (), "recipe.params.numbers must name at least one column"),
    ("[]", (), "sources[0].content_columns must be a list of at least 1 column (got none). Name them, or declare"),
]


@pytest.mark.parametrize(("columns", "edits", "message"), WRONG, ids=[message[:50] for _, _, message in WRONG])
def test_what_contradicts_is_refused(folder, columns, edits, message):
    write(folder, columns, *edits)
    with pytest.raises(ProjectError) as error:
        load_project(folder)
    assert message in str(error.value)


def test_a_format_with_a_zone_is_one(folder):
    write(folder, "[{name: a, type: date, format: '%d.%m.%Y %H:%M%z'}]")
    assert load_project(folder).config.columns[0].format == "%d.%m.%Y %H:%M%z"


def test_columns_are_those_of_rows(tmp_path):
    folder = init_project(tmp_path, name="texts", template="text-classification")
    path = folder / "project.yaml"
    path.write_text(path.read_text().replace("sources:", "columns: [{name: a, type: text}]\nsources:", 1))
    with pytest.raises(ProjectError, match=r"columns must be left out for the modality text \(got some\)"):
        load_project(folder)
