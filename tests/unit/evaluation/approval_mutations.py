"""Mutations of the approval; see gate_mutations."""

from tests.unit.evaluation import approval_checks as check

APPROVAL_MUTATIONS = [
    (
        "rejection is a yes",
        'if answer.decision != "approve":',
        "if False:",
        check.approval_stops_a_no,
    ),
    (
        "yes and no swapped",
        'answer is None or answer.decision != "approve":',
        'answer is None or answer.decision == "approve":',
        check.approval_lets_a_yes_pass,
    ),
    (
        "silence is a yes",
        "if answer is None:\n",
        "if answer is None:\n        return\n    if False:\n",
        check.approval_stops_silence,
    ),
    (
        "expiry is a yes",
        'if answer.decision == "expired":\n',
        'if answer.decision == "expired":\n        return\n    if False:\n',
        check.approval_stops_what_expired,
    ),
    (
        "nobody is asked",
        "if approval_needed(project.config.approval, record.ref):",
        "if False:",
        check.approval_stops_a_no,
    ),
    ("always is never", 'approval.when == "always" or ', "", check.approval_stops_a_no),
    (
        "any answer ships",
        'if document["decision"]["answer"] != "promote":',
        "if False:",
        check.approval_stops_another_answer,
    ),
    (
        "stale baseline ships",
        "if head_version not in {record.ref.champion_version, record.ref.contender_version}:",
        "if False:",
        check.approval_stops_a_stale_baseline,
    ),
    (
        "row and document differ",
        "faults = list(contradictions(record, document))",
        "faults = []",
        check.approval_stops_a_row_that_contradicts_its_document,
    ),
    (
        "past the ledger",
        "if entry is None or entry.evidence_digest != record.digest:",
        "if False:",
        check.approval_stops_what_the_ledger_does_not_know,
    ),
    (
        "two eyes are enough",
        "policy.four_eyes and _same_person(answer.by",
        "False and _same_person(answer.by",
        check.approval_needs_four_eyes,
    ),
]
