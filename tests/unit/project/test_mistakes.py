"""A wrong project.yaml or labeling.xml is refused with the key, the value and what was expected."""

import pytest

from pipeline_tasks.project.scaffold import init_project
from tests.unit.project.test_loader import DOCKER, edit, error_of


@pytest.fixture
def folder(tmp_path):
    return init_project(tmp_path, name="pets", template="image-classification")


SINGLE = [
    (
        "  confidence: 0.9",
        '  confidence: "0.9"',
        "project.yaml:34:3: gate.confidence must be a number (got '0.9'). Write it without quotes.",
    ),
    ("  confidence: 0.9", "  confidence: 95", "project.yaml:34:3: gate.confidence must be less than 1.0 (got 95)."),
    (
        "  confidence: 0.9",
        "  confidence: .nan",
        "project.yaml:34:15: gate.confidence must be a finite number (got .nan).",
    ),
    ("  confidence: 0.9", "  confidence: 1e999", "gate.confidence must be a finite number (got 1e999)."),
    ("  exam_share: 0.2", "  exam_share: -1", "split.exam_share must be greater than 0.0 (got -1)."),
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
        "  confidence: 0.9",
        "  slices: [{name: camera, by: key_pattern, pattern: '^([^/]+)/'}]",
        "gate.slices[0].pattern must have a group (?P<slice>...) (got '^([^/]+)/').",
    ),
    (
        "  confidence: 0.9",
        "  slices: [{name: camera, by: key_pattern, pattern: '(?P<slice>'}]",
        "gate.slices[0].pattern must be a regular expression (got '(?P<slice>':",
    ),
    (
        "  confidence: 0.9",
        "  slices: [{name: camera, by: key_pattern}]",
        "gate.slices[0].pattern must be a regular expression with a group (?P<slice>...) where by is key_pattern",
    ),
    (
        "  confidence: 0.9",
        "  slices: [{name: camera, by: source, pattern: '(?P<slice>.)'}]",
        "gate.slices[0].pattern must be left out where by is source",
    ),
    (
        "  confidence: 0.9",
        "  slices: [{name: camera, by: source}, {name: camera, by: origin}]",
        "gate.slices[1].name must be unique (got 'camera' 2 times)",
    ),
    (
        "  confidence: 0.9",
        "  slices: [{name: camera, by: color}]",
        "gate.slices[0].by must be",
    ),
    (
        "  confidence: 0.9",
        "  slices: [{name: camera, by: source, floor: 0.8}]",
        "gate.slices[0].floor must be a known key (got an unknown one). Did you mean floors?",
    ),
    (
        "  confidence: 0.9",
        "  slices: [{name: camera, by: source, floors: {accuracy: 80}}]",
        "gate.slices[0].floors.accuracy must be at most 1",
    ),
    (
        "  confidence: 0.9",
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
        "monitor:",
        "monitor:\n  min_audited: 300",
        "monitor.min_audited must be at most monitor.max_audits (got 300 and 200)",
    ),
    (
        "imported_in_exam: false",
        "imported_in_exam: true\n  imported: ignore",
        "labels.imported_in_exam must be false where labels.imported is ignore",
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
        "project.yaml:31:1: train must stand once (got it again; first on line 29).",
    ),
    ("owner: ml", "owner: 2026", "owner must be text (got 2026). Put it into quotes."),
    (
        "owner: ml",
        "owner: !!python/object:os.system x",
        "owner must be plain YAML (got 'x' as tag:yaml.org,2002:python/object:os.system).",
    ),
    ("owner: ml", "owner: !!timestamp 2026-01-01", "owner must be plain YAML"),
    (
        "owner: ml",
        "owner: !!python/object:os.system {a: 1}",
        "owner must be plain YAML (got the tag tag:yaml.org,2002:python/object:os.system). Remove the tag.",
    ),
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


LISTED = """<View>
  <Image name="image" value="$image"/>
  <Choices name="label" toName="image" choice="single" showInline="true">
    <Choice value="cat"/>
    <Choice value="dog"/>
  </Choices>
</View>
"""
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
        '<Choice value="dog"/>',
        '<Choice value="dgo"/>',
        "labeling.xml:5:5: <Choice> must be one of labels.classes: cat, dog (got 'dgo'). Did you mean 'dog'?",
    ),
    (
        '    <Choice value="dog"/>\n',
        "",
        "labeling.xml:3:3: <Choices> must have every class of labels.classes (got none for dog). Add them",
    ),
    (
        'name="label" toName="image"',
        'name="a" toName="image"><Choice value="cat"/><Choice value="dog"/></Choices><Choices name="b" toName="image"',
        'must have one <Choices name="label" toName="..."> for labels.classes (got 2 that could be it)',
    ),
    ("</View>", '<Text name="t" value="$caption"/></View>', "must be one of $image, $item_id, what a task carries"),
]


@pytest.mark.parametrize(("old", "new", "expected"), XML, ids=[new[:30] or "cut" for _, new, _ in XML])
def test_labeling_xml(folder, old, new, expected):
    assert old in LISTED
    (folder / "labeling.xml").write_text(LISTED.replace(old, new, 1))
    text = error_of(folder)
    assert text.startswith("labeling.xml:")
    assert expected in text


def test_a_labeling_xml_that_cannot_be_read(folder):
    (folder / "labeling.xml").unlink()
    (folder / "labeling.xml").mkdir()
    assert "labeling.xml must be a readable file (got Is a directory)" in error_of(folder)
