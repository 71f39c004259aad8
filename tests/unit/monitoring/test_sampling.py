import pytest

from pipeline_tasks.monitoring.log_parts import Prediction
from pipeline_tasks.monitoring.sampling import audit_rank, inclusion_chances, pick_audits, pick_uncertain
from tests.unit.monitoring.builders import NOW


def prediction(number: int, **changes) -> Prediction:
    fields = {
        "prediction_id": f"p{number:05}",
        "at": NOW,
        "model_version": "m1",
        "label": "cat",
        "confidence": 0.9,
        "needs_review": False,
        "client": "key-1",
        "user_key": None,
        "payload_sha256": f"{number}",
        "object_key": "k",
    }
    return Prediction(**fields | changes)


def audits(predictions, **changes) -> list[str]:
    arguments = {"key": "secret", "share": 1.0, "limit": 1000, "max_share_per_client": 1.0}
    return [picked.prediction_id for picked in pick_audits(predictions, **arguments | changes)]


def uncertain(predictions, **changes) -> list[str]:
    arguments = {"limit": 1000, "max_share_per_client": 1.0, "wanted": lambda _: True}
    return [picked.prediction_id for picked in pick_uncertain(predictions, **arguments | changes)]


def test_the_sample_has_the_asked_share_and_is_the_same_in_any_order():
    many = [prediction(number) for number in range(5000)]
    picked = audits(many, share=0.1)
    assert 440 <= len(picked) <= 560  # 500, six standard deviations wide at most
    assert audits(many[::-1], share=0.1) == picked
    assert audits(many, share=0.1, key="another") != picked


def test_a_smaller_share_is_part_of_a_larger_one():
    many = [prediction(number) for number in range(2000)]
    assert set(audits(many, share=0.05)) < set(audits(many, share=0.2))


def test_the_sample_does_not_look_at_the_answer():
    confident = [prediction(number) for number in range(500)]
    unsure = [prediction(number, confidence=0.1, needs_review=True, label="dog") for number in range(500)]
    assert audits(confident, share=0.3) == audits(unsure, share=0.3)


def test_the_limit_keeps_the_lowest_ranks():
    many = [prediction(number) for number in range(300)]
    expected = sorted(
        (entry.prediction_id for entry in many), key=lambda prediction_id: audit_rank(prediction_id, key="secret")
    )[:20]
    assert audits(many, limit=20) == expected


@pytest.mark.parametrize(("share", "limit"), [(0.0, 100), (1.0, 0)])
def test_nothing_is_picked_where_nothing_is_asked(share, limit):
    assert audits([prediction(number) for number in range(50)], share=share, limit=limit) == []


def test_one_client_with_most_of_the_traffic_fills_only_its_share():
    loud = [prediction(number, client="loud") for number in range(900)]
    quiet = [prediction(number, client=f"quiet-{number % 10}") for number in range(900, 1000)]
    for picked in (
        audits(loud + quiet, limit=100, max_share_per_client=0.1),
        uncertain(
            [prediction(n, client="loud", confidence=0.1) for n in range(900)] + quiet,
            limit=100,
            max_share_per_client=0.1,
        ),
    ):
        clients = [prediction_id for prediction_id in picked if prediction_id < "p00900"]
        assert len(clients) == 10
        assert len(picked) == 100


def test_picks_of_a_dead_attempt_stay_and_count():
    many = [prediction(number) for number in range(100)]
    first = audits(many, limit=10)
    later = many + [prediction(number) for number in range(100, 200)]
    assert set(first) <= set(audits(later, limit=10, already=set(first)))
    assert len(audits(later, limit=10, already=set(first))) == 10
    assert len(audits(later, limit=12, already=set(first))) == 12


def test_the_least_confident_come_first_and_needs_review_before_all():
    some = [
        prediction(1, confidence=0.5),
        prediction(2, confidence=0.2),
        prediction(3, confidence=0.8, needs_review=True),
    ]
    assert uncertain(some) == ["p00003", "p00002", "p00001"]
    assert uncertain(some, limit=2) == ["p00003", "p00002"]


def test_each_content_is_asked_about_once():
    same = [prediction(number, payload_sha256="same", confidence=number / 10) for number in range(5)]
    assert uncertain(same) == ["p00000"]
    # The pick of a dead attempt is the one that stays.
    assert uncertain(same, already={"p00003"}) == ["p00003"]


def test_unwanted_predictions_leave_room_for_others():
    some = [prediction(number, confidence=number / 10) for number in range(6)]
    assert uncertain(some, limit=2, wanted=lambda entry: entry.prediction_id not in {"p00000", "p00002"}) == [
        "p00001",
        "p00003",
    ]


def test_it_stops_asking_when_it_is_full():
    asked = []

    def wanted(entry) -> bool:
        asked.append(entry)
        return True

    uncertain([prediction(number) for number in range(1000)], limit=3, wanted=wanted)
    assert len(asked) <= 4


def chances(predictions, **changes) -> dict[str, float]:
    arguments = {"key": "secret", "share": 1.0, "limit": 1000, "max_share_per_client": 1.0} | changes
    return dict(inclusion_chances(predictions, pick_audits(predictions, **arguments), **arguments))


def test_the_chance_of_a_pick_is_the_share_where_nothing_is_full():
    assert set(chances([prediction(number) for number in range(500)], share=0.1).values()) == {0.1}


@pytest.mark.parametrize(
    ("limit", "of_client"), [(20, 1.0), (20, 0.25), (60, 0.25), (1000, 0.01)], ids=["all", "both", "both2", "client"]
)
def test_picks_weighed_by_their_chances_stand_for_all_requests(limit, of_client):
    """One client sends ten times what each of ten others does: over many draws the weights sum to its requests."""
    many = [prediction(number, client="big" if number % 2 else f"small {number % 20}") for number in range(400)]
    sums = {"big": 0.0, "small": 0.0}
    num_draws = 300
    for draw in range(num_draws):
        for name, chance in chances(
            many, key=f"key {draw}", share=0.5, limit=limit, max_share_per_client=of_client
        ).items():
            sums["big" if int(name[1:]) % 2 else "small"] += 1 / chance / num_draws
    assert sums["big"] == pytest.approx(200, rel=0.1)
    assert sums["small"] == pytest.approx(200, rel=0.1)
