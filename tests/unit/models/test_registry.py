from pathlib import Path

import pytest

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.models import registry
from pipeline_tasks.models.base import Choice, FloatRange, IntRange, Recipe
from pipeline_tasks.models.registry import find_recipe, recipe_from_source
from pipeline_tasks.models.stock import STOCK

PARAMS = {"tabular_mlp": {"numbers": ["a"]}}


@pytest.mark.parametrize("name", STOCK)
def test_each_stock_recipe_is_whole(name):
    known = find_recipe(name)
    recipe = known.recipe
    params = recipe.resolve(PARAMS.get(name, {}))
    assert isinstance(recipe, Recipe)
    assert recipe.name == name
    assert recipe.modality == STOCK[name].modality
    assert known.own_source is None
    assert len(known.code_digest) == 64
    assert recipe.resolve(params) == params
    space = recipe.param_space(params)
    assert all(isinstance(entry, FloatRange | IntRange | Choice) for entry in space.values())
    # A tuned value that decoding depends on would not fit the inputs, which are decoded once.
    assert not space.keys() & recipe.preprocessing(params).keys()
    assert space.keys() <= params.keys()


def test_the_list_is_of_the_folders_that_have_a_recipe():
    folders = {path.parent.name for path in Path(registry.__file__).parent.glob("*/recipe.py")}
    assert folders == STOCK.keys()


@pytest.mark.parametrize("name", STOCK)
def test_facts_of_the_list_are_those_of_the_parameters(name):
    params = set(find_recipe(name).recipe.resolve(PARAMS.get(name, {})))
    assert STOCK[name].reads_columns == ({"numbers", "dates", "categories"} <= params)
    assert STOCK[name].int8_needs in {None, *params}


def test_stock_recipes_differ_in_their_digest():
    assert len({find_recipe(name).code_digest for name in STOCK}) == len(STOCK)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"one of image_cnn, text_bow, tabular_mlp or recipe.py \(got 'cnn'\)"):
        find_recipe("cnn")


def test_a_path_is_no_name(tmp_path):
    with pytest.raises(ConfigError, match="must be one of"):
        find_recipe("../recipe.py", folder=tmp_path)


def test_an_own_recipe_needs_a_folder():
    with pytest.raises(ConfigError, match="got no folder"):
        find_recipe("recipe.py")


def test_a_missing_own_recipe_names_the_path(tmp_path):
    with pytest.raises(ConfigError, match=r"recipe.py must exist \(got nothing there\)"):
        find_recipe("recipe.py", folder=tmp_path)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "evil.py").write_text("RECIPE = None")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "recipe.py").symlink_to(tmp_path / "evil.py")
    with pytest.raises(ConfigError, match="must be a regular file"):
        find_recipe("recipe.py", folder=tmp_path / "project")


def test_other_encodings_are_refused(tmp_path):
    (tmp_path / "recipe.py").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="must be UTF-8"):
        find_recipe("recipe.py", folder=tmp_path)


@pytest.mark.parametrize("source", ["x = 1", "RECIPE = 3"])
def test_a_source_without_a_recipe_says_what_to_define(source):
    with pytest.raises(ConfigError, match="must define RECIPE"):
        recipe_from_source(source)


def test_a_source_that_fails_names_the_error():
    with pytest.raises(ConfigError, match=r"got ZeroDivisionError: division by zero"):
        recipe_from_source("1 / 0")


def test_the_same_source_is_run_once():
    source = "from pipeline_tasks.models.text_bow.recipe import TextBowRecipe\nRECIPE = TextBowRecipe()\n"
    assert recipe_from_source(source).recipe is recipe_from_source(source).recipe


def test_unknown_and_wrong_params_are_named_together():
    with pytest.raises(
        ConfigError, match=r"recipe.params.epoch must be one of .*recipe.params.width must be a valid in"
    ):
        find_recipe("image_cnn").recipe.resolve({"epoch": 3, "width": "x"})


def test_a_hidden_layer_does_not_go_with_the_linear_models_rate():
    with pytest.raises(ConfigError, match=r"at most 1 with a hidden layer and sgd \(got 60.0\)"):
        find_recipe("text_bow").recipe.resolve({"hidden": 8})


def test_a_table_needs_columns():
    with pytest.raises(ConfigError, match="must name at least one column"):
        find_recipe("tabular_mlp").recipe.resolve({})
