"""project.yaml and labeling.xml: what is taken, and the message for each thing that is not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.project_init import init_project, template_names
from pipeline_tasks.project_loader import json_schema, load_project, load_projects
from pipeline_tasks.project_yaml import MAX_FILE_BYTES, ProjectError, parse_yaml

ROOT = Path(__file__).resolve().parents[2]
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
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["first_try"]
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


SINGLE = [
    (
        "  confidence: 0.95",
        '  confidence: "0.9"',
        "project.yaml:33:3: gate.confidence must be a number (got '0.9'). Write it without quotes.",
    ),
    ("  confidence: 0.95", "  confidence: 95", "project.yaml:33:3: gate.confidence must be less than 1.0 (got 95)."),
    (
        "  confidence: 0.95",
        "  confidence: .nan",
        "project.yaml:33:15: gate.confidence must be a finite number (got .nan).",
    ),
    ("  confidence: 0.95", "  confidence: 1e999", "gate.confidence must be a finite number (got 1e999)."),
    ("  exam_share: 0.1", "  exam_share: -1", "split.exam_share must be greater than 0.0 (got -1)."),
    ("  annotators: 1", "  annotators: true", "labels.annotators must be a whole number (got True)."),
    (
        "  annotators: 1",
        "  annotator: 1",
        "labels.annotator must be a known key (got an unknown one). Did you mean annotators?",
    ),
    (
        "  annotators: 1",
        "  suggestions: yes",
        "labels.suggestions must be true or false (got 'yes'). Write true or false without quotes",
    ),
    ("gate:", "zzzz:", "zzzz must be a known key (got an unknown one). Known here: approval, checks,"),
    ("modality: image", "modality: video", "modality must be 'image', 'text' or 'tabular' (got 'video')."),
    ("name: pets", "name: Pets", "name must be text that matches"),
    ("name: pets", "name: dogs", "name must be the name of the project's folder, 'pets' (got 'dogs')."),
    ("version: 1", "version: 2", "project.yaml:3:1: version must be 1 (got 2). This release reads version 1"),
    (
        "    path: incoming ",
        "    pathh: incoming ",
        "sources[0].pathh must be a known key (got an unknown one). Did you mean path?",
    ),
    (
        "    path: incoming ",
        "    path: ../secret ",
        "sources[0].path must not contain `..` or `~` (got '../secret'): PATH_NOT_ALLOWED.",
    ),
    (
        "  - type: folder",
        "  - type: floder",
        "sources[0] must be of a `type` out of 'folder', 's3', 'table', 'sql' (got",
    ),
    (
        "'^labeled/(?P<label>[^/]+)/'",
        "'^labeled/([^/]+)/'",
        "sources[0].label_pattern must have a group (?P<label>...)",
    ),
    ("'^labeled/(?P<label>[^/]+)/'", "'(?P<label>'", "sources[0].label_pattern must be a regular expression"),
    ("[cat, dog]", "[cat]", "labels.classes must be a list of at least 2 (got ['cat'])."),
    ("[cat, dog]", "[cat, dog, cat]", "labels.classes must name each class once (got 'cat' again)."),
    ("[cat, dog]", "[cat, ' dog']", "labels.classes[1] must be 1 to 100 visible characters"),
    (
        "[cat, dog]",
        "[cat, dog, cow]",
        "labeling.xml:3:3: <Choices> must have every class of labels.classes (got none for cow).",
    ),
    (
        "[cat, dog]",
        "[cat, dot]",
        "labeling.xml:5:5: <Choice> must be one of labels.classes: cat, dot (got 'dog'). Did you mean 'dot'?",
    ),
    (
        "  confidence: 0.95",
        "  slices: [{name: camera, by: key_pattern, pattern: '^([^/]+)/'}]",
        "gate.slices[0].pattern must have a group (?P<slice>...) (got '^([^/]+)/').",
    ),
    (
        "  confidence: 0.95",
        "  slices: [{name: camera, by: key_pattern, pattern: '(?P<slice>'}]",
        "gate.slices[0].pattern must be a regular expression (got '(?P<slice>':",
    ),
    (
        "  confidence: 0.95",
        "  slices: [{name: camera, by: key_pattern}]",
        "gate.slices[0].pattern must be a regular expression with a group (?P<slice>...) where by is key_pattern",
    ),
    (
        "  confidence: 0.95",
        "  slices: [{name: camera, by: source, pattern: '(?P<slice>.)'}]",
        "gate.slices[0].pattern must be left out where by is source",
    ),
    (
        "  confidence: 0.95",
        "  slices: [{name: camera, by: source}, {name: camera, by: origin}]",
        "gate.slices[1].name must be unique (got 'camera' 2 times)",
    ),
    (
        "  confidence: 0.95",
        "  slices: [{name: camera, by: color}]",
        "gate.slices[0].by must be",
    ),
    (
        "  confidence: 0.95",
        "  slices: [{name: camera, by: source, floor: 0.8}]",
        "gate.slices[0].floor must be a known key (got an unknown one). Did you mean floors?",
    ),
    (
        "  confidence: 0.95",
        "  slices: [{name: camera, by: source, floors: {accuracy: 80}}]",
        "gate.slices[0].floors.accuracy must be at most 1",
    ),
    (
        "  confidence: 0.95",
        "  slices: [{name: camera, by: source, min_items: 0}]",
        "gate.slices[0].min_items must be at least 1 (got 0).",
    ),
    ("  exam_annotators: 2", "  exam_annotators: 0", "labels.exam_annotators must be at least 1 (got 0)."),
    (
        "  name: image_cnn",
        "  name: image_cmn",
        "recipe.name must be one of image_cnn, text_bow, tabular_mlp, recipe.py (got 'image_cmn').",
    ),
    (
        "  name: image_cnn",
        "  name: text_bow",
        "recipe.name must fit the modality image (got text_bow, for text). Use image_cnn or recipe.py.",
    ),
    ("  name: image_cnn", "  name: recipe.py", "recipe.name must be a recipe that exists (got recipe.py, not in"),
    ("    epochs: 5", "    epoch: 5", "recipe.params.epoch"),
    (
        "    epochs: 5",
        "    epochs: 5\n  tune:\n    trials: 3\n    epochs: 9",
        "recipe.tune.epochs must be at most recipe.params.epochs (got 9 and 5)",
    ),
    ("  when: never ", "  four_eyes: true ", "approval.four_eyes must be false where approval.when is never"),
    (
        "  top_k: 2",
        "  thresholds: {zebra: 0.5}",
        "serving.thresholds must name classes of labels.classes, letter by letter (got 'zebra').",
    ),
    ("  top_k: 2", "  thresholds: {zebra: 1.5}", "serving.thresholds.zebra must be at most 1.0 (got 1.5)."),
    ("  top_k: 2", "  abstain_below: -1", "serving.abstain_below must be at least 0.0 (got -1)."),
    (
        "  top_k: 2",
        "  business_labels: {zebra: x}",
        "serving.business_labels must name classes of labels.classes, letter by letter (got 'zebra').",
    ),
    ("  top_k: 2", "  runtime: tensorrt", "serving.runtime must be "),
    ("  top_k: 2", "  business_labels: {cat: ' x'}", "serving.business_labels.cat must be 1 to 100 visible"),
    (
        "  top_k: 2",
        "  rollout: {steps: [50, 5]}",
        "serving.rollout.steps must rise, each once (got [50, 5]). Example: [5, 25, 50].",
    ),
    ("  top_k: 2", "  rollout: {steps: [5, 5]}", "serving.rollout.steps must rise, each once (got [5, 5])."),
    ("  top_k: 2", "  rollout: {steps: [100]}", "serving.rollout.steps[0] must be at most 99 (got 100)."),
    ("  top_k: 2", "  rollout: {steps: []}", "serving.rollout.steps must"),
    ("  top_k: 2", "  rollout: {strategy: blue}", "serving.rollout.strategy must be"),
    (
        "  top_k: 2",
        "  rollout: {strategy: canary, bake_seconds: 100, shadow_seconds: 50, deadline_seconds: 350}",
        "bake_seconds of every step together (got 350 and 350)",
    ),
    ("  top_k: 2", "  target: docker", "serving.docker must be set when serving.target is docker (got nothing)."),
    ("  top_k: 2", f"{DOCKER} dethrone}}", "serving.docker.repository must be <registry host>/<path> in lower case"),
    ("  top_k: 2", f"{DOCKER} docker/x}}", "serving.docker.repository must be <registry host>/<path> in lower case"),
    ("  top_k: 2", f"{DOCKER} r.io/x:1}}", "without a tag (got 'r.io/x:1')."),
    ("  top_k: 2", f"{DOCKER} r.io/x, gpus: -1}}", "serving.docker.gpus must be 0 or more, or all (got -1)."),
    (
        "  top_k: 2",
        f"{DOCKER} r.io/x, gpus: all}}",
        "serving.docker.base must be cuda where gpus are asked for (got cpu)",
    ),
    (
        "  top_k: 2",
        f"{DOCKER} r.io/x, gpus: 1}}",
        "serving.docker.base must be cuda where gpus are asked for (got cpu)",
    ),
    (
        "  top_k: 2",
        f"  runtime: onnx\n{DOCKER} r.io/x, gpus: 1, base: cuda}}",
        "serving.docker.gpus must be 0 with serving.runtime onnx (got some): it runs on the CPU.",
    ),
    (
        "  top_k: 2",
        "  target: kubernetes\n  kubernetes: {namespace: a, repository: r.io/x, gpus: 1}",
        "serving.kubernetes.base must be cuda where gpus are asked for (got cpu)",
    ),
    ("  top_k: 2", f"{DOCKER} r.io/x, network: 'a b'}}", "serving.docker.network must be letters, digits and _.-"),
    ("  top_k: 2", f"{DOCKER} r.io/x, memory: lots}}", "serving.docker.memory"),
    ("  top_k: 2", "  target: kubernetes", "serving.target"),
    ("  top_k: 2", "  top_k: 3", "serving.top_k must be at most the number of labels.classes (got 3 and 2)."),
    (
        "train:",
        "schedules:\n  train: every day\ntrain:",
        "schedules.train must be a cron expression of five fields, or null (got 'every day').",
    ),
    (
        "train:",
        "monitor:\n  min_audited: 300\ntrain:",
        "monitor.min_audited must be at most monitor.max_audits (got 300 and 200)",
    ),
    ("train:", "checks:\n  max_class_share: 0.2\ntrain:", "checks.max_class_share must be at least 1/2"),
    (
        "train:",
        "checks:\n  min_side_pixels: 90000\ntrain:",
        "checks.min_side_pixels squared must be at most checks.max_pixels",
    ),
    (
        "train:",
        "train:\n  min_new_labels: 3\ntrain:",
        "project.yaml:30:1: train must stand once (got it again; first on line 28).",
    ),
    ("owner: ml", "owner: 2026", "owner must be text (got 2026). Put it into quotes."),
    (
        "owner: ml",
        "owner: !!python/object:os.system x",
        "owner must be plain YAML (got 'x' as tag:yaml.org,2002:python/object:os.system).",
    ),
    ("owner: ml", "owner: !!timestamp 2026-01-01", "owner must be plain YAML"),
    ("owner: ml", "owner: {a: 1}", "owner must be text (got {'a': 1})."),
    ("owner: ml", "1: ml", "a key of the file must be text (got '1'). Put it into quotes."),
    ("owner: ml", "owner:\tml\n\tx: y", "Indent with spaces, never with tabs."),
    ("owner: ml", "owner: &a [*a]", "project.yaml"),
]


@pytest.mark.parametrize(("old", "new", "expected"), SINGLE, ids=[new[:40].strip() for _, new, _ in SINGLE])
def test_each_mistake_has_its_message(folder, old, new, expected):
    edit(folder, old, new)
    assert expected in error_of(folder)


def test_all_mistakes_are_shown_at_once_in_the_order_of_the_file(folder):
    edit(folder, "modality: image", "modality: video")
    edit(folder, "  annotators: 1", "  annotators: 99")
    lines = error_of(folder).splitlines()
    assert [line.split(": ", 1)[1].split(" ")[0] for line in lines] == ["modality", "labels.annotators"]


def test_at_most_ten_problems_are_shown(folder):
    edit(folder, "[cat, dog]", str(list(range(15))))
    text = error_of(folder)
    assert len(text.splitlines()) == 11
    assert text.endswith("... and 5 more.")


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just text"])
def test_a_file_that_is_no_mapping(folder, text):
    (folder / "project.yaml").write_text(text)
    assert "project.yaml must be a mapping with name, modality, sources, labels and recipe (got" in error_of(folder)


def test_yes_and_no_can_be_classes(folder):
    edit(folder, "[cat, dog]", "[no, yes]")
    xml = folder / "labeling.xml"
    xml.write_text(xml.read_text().replace('"cat"', '"no"').replace('"dog"', '"yes"'))
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


XML = [
    ("<View>", '<!DOCTYPE v [<!ENTITY a "b">]><View>', "labeling.xml must have no DOCTYPE and no entities (got one)."),
    ("</View>", "", "labeling.xml must be well-formed XML (got: no element found)."),
    (
        "<Image",
        "<Text",
        'must show the modality \'image\' with <Image name="image" value="$image"/> (got <Text value="$image">)',
    ),
    ('value="$image"', 'value="$img"', '(got <Image value="$img">)'),
    ('value="$image"', 'value="x"', "(got no tag that shows data)"),
    ('toName="image"', 'toName="img"', "toName of <Choices> must be 'image', the name of <Image> (got 'img')."),
    ('choice="single"', 'choice="multiple"', "choice of <Choices> must be \"single\" (got 'multiple')."),
    ('<Choices name="label"', "<Choices", "<Choices> must have a name (got none)."),
    (
        '<Choice value="dog"/>',
        '<Choice value="dog"/><Choice value="dog"/>',
        "<Choice> 'dog' must stand once (got it again).",
    ),
    ('choice="single"', 'choice="single" value="$options"', "(got choices from the task's data)"),
    (
        "</View>",
        '<Choices name="b" toName="image"/></View>',
        'must have one <Choices name="label" toName="..."> with written choices (got 2 such tags)',
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), XML, ids=[new[:30] or "cut" for _, new, _ in XML])
def test_labeling_xml(folder, old, new, expected):
    path = folder / "labeling.xml"
    path.write_text(path.read_text().replace(old, new, 1))
    text = error_of(folder)
    assert text.startswith("labeling.xml:")
    assert expected in text


def test_a_missing_labeling_xml(folder):
    (folder / "labeling.xml").unlink()
    assert "labeling.xml must exist (got no such file)" in error_of(folder)


def test_an_alias_of_a_choice_is_the_answer(folder):
    path = folder / "labeling.xml"
    path.write_text(path.read_text().replace('<Choice value="cat"/>', '<Choice value="A cat" alias="cat"/>'))
    assert load_project(folder).name == "pets"


def test_own_recipe_is_found(folder):
    edit(folder, "  name: image_cnn", "  name: recipe.py")
    (folder / "recipe.py").write_text("RECIPE = None\n")
    assert load_project(folder).config.recipe.name == "recipe.py"


def test_loading_needs_neither_torch_nor_airflow():
    code = (
        "import sys; from pathlib import Path; from pipeline_tasks.project_loader import load_projects;"
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
