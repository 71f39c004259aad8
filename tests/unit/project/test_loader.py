"""project.yaml and labeling.xml: what is taken, and the message for each thing that is not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.project.loader import json_schema, load_project, load_projects
from pipeline_tasks.project.scaffold import init_project, template_names
from pipeline_tasks.project.yaml_reader import MAX_FILE_BYTES, ProjectError, parse_yaml
from tests.unit.ingest.conftest import without_columns

ROOT = Path(__file__).resolve().parents[3]
DOCKER = "  target: docker\n  docker: {repository:"


@pytest.fixture
def folder(tmp_path):
    """A valid image project in tmp_path/pets."""
    return init_project(tmp_path, name="pets", template="image-classification")


def edit(folder, old, new):
    path = folder / "project.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def error_of(folder):
    with pytest.raises(ProjectError) as caught:
        load_project(folder)
    return str(caught.value).replace(f"{folder}/", "")


def test_the_committed_projects_load():
    projects, errors = load_projects(ROOT / "projects")
    assert errors == []
    assert [p.name for p in projects] == ["fashion", "newsgroups"]
    assert projects[0].config.labels.classes[9] == "boot"
    assert len(projects[1].config.labels.classes) == 20


def test_the_schema_file_is_the_schema():
    assert json.loads((ROOT / "docs" / "project.schema.json").read_text()) == json_schema()


@pytest.mark.parametrize("repository", ["localhost:5000/dethrone", "localhost/x", "registry.example.org/a/b-c"])
def test_a_project_on_docker_loads(folder, repository):
    edit(folder, "  top_k: 2", f"  top_k: 2\n{DOCKER} '{repository}', gpus: all, base: cuda, connection: registry}}")
    serving = load_project(folder).config.serving
    assert (serving.docker.repository, serving.docker.gpus, serving.docker.base) == (repository, "all", "cuda")


def test_every_example_key_is_in_the_schema():
    assert set(json_schema()["$defs"]["Project"]["properties"]) >= {"name", "sources", "labels", "gate", "schedules"}


@pytest.mark.parametrize("template", ["image-classification", "tabular", "text-classification"])
def test_each_template_is_a_valid_project(tmp_path, template):
    folder = init_project(tmp_path / "new", name="first_try", template=template)
    project = load_project(folder)
    assert project.name == "first_try"
    assert (folder / "incoming").is_dir()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["first_try", "project.schema.json"]
    assert template in template_names()


def test_init_refuses_what_is_there(tmp_path, folder):
    with pytest.raises(ConfigError, match="pets must not exist"):
        init_project(tmp_path, name="pets", template="tabular")


def test_init_refuses_a_bad_name(tmp_path):
    with pytest.raises(ConfigError, match=r"name must match .* \(got '\.\./x'\)"):
        init_project(tmp_path, name="../x", template="tabular")


def test_init_refuses_an_unknown_template(tmp_path):
    with pytest.raises(ConfigError, match="template must be one of image-classification, tabular, text-classification"):
        init_project(tmp_path, name="abc", template="video")


def test_one_broken_project_does_not_take_the_others_down(tmp_path, folder):
    init_project(tmp_path, name="broken", template="tabular")
    (tmp_path / "broken" / "project.yaml").write_text("name: [")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    projects, errors = load_projects(tmp_path)
    assert [p.name for p in projects] == ["pets"]
    assert len(errors) == 2
    assert "broken/project.yaml:1:8: project.yaml must be YAML" in str(errors[0])
    assert "empty/project.yaml must exist (got no such file)" in str(errors[1])


def test_a_missing_projects_folder_is_an_error(tmp_path):
    projects, errors = load_projects(tmp_path / "nowhere")
    assert projects == []
    assert "Set DETHRONE_PROJECTS" in str(errors[0])


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just text"])
def test_a_file_that_is_no_mapping(folder, text):
    (folder / "project.yaml").write_text(text)
    assert "project.yaml must be a mapping with name, modality, sources, labels and recipe (got" in error_of(folder)


def test_yes_and_no_can_be_classes(folder):
    edit(folder, "[cat, dog]", "[no, yes]")
    assert load_project(folder).config.labels.classes == ["no", "yes"]


def test_a_byte_order_mark_is_no_problem(folder):
    path = folder / "project.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_project(folder).name == "pets"


def test_bytes_that_are_no_utf8_are_named_by_line(folder):
    path = folder / "project.yaml"
    path.write_bytes(path.read_bytes().replace(b"owner: ml", b"owner: \xff"))
    assert error_of(folder).startswith("project.yaml:6:8: project.yaml must be UTF-8 text (got byte 0xff).")


def test_a_control_character_is_named_by_line(folder):
    edit(folder, "owner: ml", "owner: a\x00b")
    assert error_of(folder).startswith("project.yaml:6:1: project.yaml must hold printable text")


def test_a_ten_megabyte_file_is_refused_by_its_size(folder):
    (folder / "project.yaml").write_bytes(b"#" * 10_000_000)
    assert f"must be at most {MAX_FILE_BYTES:,} bytes (got more)" in error_of(folder)


def test_a_project_file_that_is_a_folder(folder):
    (folder / "project.yaml").unlink()
    (folder / "project.yaml").mkdir()
    assert "must be a readable file (got Is a directory)" in error_of(folder)


def test_an_alias_bomb_is_counted_not_expanded():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(ProjectError, match=r"must hold at most 20,000 values"):
        parse_yaml("\n".join(lines).encode(), file="project.yaml")


def test_a_small_alias_bomb_is_counted_too():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 5)]
    with pytest.raises(ProjectError, match=r"must hold at most 20,000 values"):
        parse_yaml("\n".join(lines).encode(), file="project.yaml")


def test_an_alias_may_be_used():
    assert parse_yaml(b"a: &x [1, 2]\nb: *x\n", file="f").value == {"a": [1, 2], "b": [1, 2]}


def test_a_very_deep_file_is_refused_before_it_is_built():
    with pytest.raises(ProjectError, match="must nest at most 20 levels"):
        parse_yaml(b"[" * 100_000, file="project.yaml")


def test_yaml_scalars_are_those_of_version_1_2():
    text = b"a: yes\nb: 0x1F\nc: 1:30\nd: 2026-01-01\ne: ~\nf: -3\ng: 1.5e3\nh: 1_000\ni: True\nj: 012\n"
    assert parse_yaml(text, file="f").value == {
        "a": "yes",
        "b": "0x1F",
        "c": "1:30",
        "d": "2026-01-01",
        "e": None,
        "f": -3,
        "g": 1500.0,
        "h": "1_000",
        "i": True,
        "j": 12,
    }


S3 = """  - type: s3
    bucket: {bucket}
    endpoint_url: {url}
    credentials: {credentials}
"""


@pytest.mark.parametrize(
    ("bucket", "url", "credentials", "expected"),
    [
        ("Bad_Bucket", "http://s3.local", "PARTNER", "sources[1].bucket must be an S3 bucket's name"),
        ("data", "file:///etc", "PARTNER", "sources[1].endpoint_url must be http(s)://host[:port]"),
        ("data", "http://me:pass@s3.local", "PARTNER", "sources[1].endpoint_url must be http(s)://host[:port]"),
        ("data", "http://s3.local", "null", "sources[1].credentials must be set where endpoint_url is"),
        ("data", "http://s3.local", "AKIA/secret", "sources[1].credentials must be the name of environment variables"),
    ],
)
def test_s3_sources(folder, bucket, url, credentials, expected):
    edit(folder, "labels:\n", S3.format(bucket=bucket, url=url, credentials=credentials) + "labels:\n")
    text = error_of(folder)
    assert expected in text
    assert "pass@" not in text
    assert "secret" not in text


def test_source_names_are_unique(folder):
    edit(folder, "labels:\n", "  - type: folder\n    name: incoming\n    path: other\nlabels:\n")
    assert "sources[0].name must be unique (got 'incoming' 2 times)" in error_of(folder)


def test_rows_are_no_images_and_files_no_rows(tmp_path, folder):
    edit(
        folder,
        "  - type: folder\n",
        "  - type: table\n    key_column: id\n    content_columns: [a]\n    label_column: b\n",
    )
    edit(folder, "    label_pattern: '^labeled/(?P<label>[^/]+)/'", "   ")
    assert "sources[0].type must be folder or s3 for the modality image (got 'table')" in error_of(folder)
    rows = init_project(tmp_path, name="rows", template="tabular")
    edit(rows, "  - type: table\n", "  - type: folder\n    path: incoming\n    name: x\n  - type: table\n")
    assert "sources[0].type must be table or sql for the modality tabular (got 'folder')" in error_of(rows)


def test_columns_of_the_recipe_are_columns_of_the_source(tmp_path):
    folder = init_project(tmp_path, name="rows", template="tabular")
    without_columns(folder)
    edit(folder, "content_columns: [amount, country]", "content_columns: [amount, land]")
    assert (
        "sources[0].content_columns must have the columns that recipe.params names (got none of the name country)"
        in (error_of(folder))
    )


def test_a_text_is_one_column_and_a_url_variable_is_no_url(tmp_path):
    folder = init_project(tmp_path, name="texts", template="text-classification")
    edit(folder, "content_columns: [text]", "content_columns: [title, text]")
    sql = "  - type: sql\n    url_variable: postgresql://me:hunter2@host/db\n    query: SELECT 1\n"
    edit(folder, "labels:\n", sql + "    key_column: id\n    content_columns: [text]\nlabels:\n")
    text = error_of(folder)
    assert "sources[0].content_columns must be one column for the modality text (got 2)." in text
    assert "sources[1].url_variable must be the name of environment variables" in text
    assert "hunter2" not in text


def test_int8_needs_a_layer_to_quantize(tmp_path):
    folder = init_project(tmp_path, name="texts", template="text-classification")
    edit(folder, "serving:\n", "serving:\n  runtime: onnx-int8\n")
    assert "serving.runtime must be eager, amp or onnx for text_bow without recipe.params.hidden" in error_of(folder)
    edit(folder, "runtime: onnx-int8", "runtime: onnx")
    assert load_project(folder).config.serving.runtime == "onnx"


def test_an_alias_of_a_choice_is_the_answer(folder):
    path = folder / "labeling.xml"
    choices = '<Choice value="A cat" alias="cat"/><Choice value="dog"/>'
    path.write_text(f'<View><Image name="i" value="$image"/><Choices name="c" toName="i">{choices}</Choices></View>')
    assert load_project(folder).name == "pets"


def test_own_recipe_is_found(folder):
    edit(folder, "  name: image_cnn", "  name: recipe.py")
    (folder / "recipe.py").write_text("RECIPE = None\n")
    assert load_project(folder).config.recipe.name == "recipe.py"


def test_loading_needs_neither_torch_nor_airflow():
    code = (
        "import sys; from pathlib import Path; from pipeline_tasks.project.loader import load_projects;"
        "assert load_projects(Path('projects'))[1] == [];"
        "print(sorted({'torch', 'airflow', 'boto3', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_project_can_be_copied_and_renamed(tmp_path):
    shutil.copytree(ROOT / "projects" / "fashion", tmp_path / "garments", ignore=shutil.ignore_patterns("incoming"))
    path = tmp_path / "garments" / "project.yaml"
    path.write_text(path.read_text().replace("name: fashion", "name: garments"))
    assert load_project(tmp_path / "garments").name == "garments"
