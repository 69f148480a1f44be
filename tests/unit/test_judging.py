"""What runs are judged by, told by their evaluations: of all three kinds, alone and compared."""

import csv
import io
import json
import re

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    recall_score,
)

from segal.comparison import Question, analyse, gather, statement
from segal.errors import SegalError
from segal.functional.significance import statistics_permutation
from segal.jobs.comparing.report import write_report
from segal.jobs.rounds.results import NeverPredicted
from segal.reporting import details
from segal.reporting.tables import Table, number, words
from segal.runs.history import EVALUATION_FILE, METRICS_FILE, read_history
from segal.tasks.classification.evaluation import ClassificationEvaluation, MultilabelEvaluation
from segal.tasks.detection.evaluation import DetectionEvaluation, Found
from segal.tasks.detection.objects import Objects
from segal.tasks.judging import (
    metric_of,
    named,
    never_predicted,
    one_answer,
    read_evaluation,
    remark,
    shown_score,
)
from segal.tasks.segmentation.evaluation import SegmentationEvaluation, SegmentationMetrics
from tests.fake_runs import make_comparison, make_run

NAMES = ("cat", "dog", "eel", "fox")


def classified(images=200, seed=0, classes=NAMES):
    """The last class is nowhere in the labels; a tenth of the images have none."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(classes) - 1, images).astype(np.int32)
    wrong = rng.random(images) < 0.4
    predictions = np.where(wrong, rng.integers(0, len(classes), images), labels).astype(np.int32)
    labels[rng.random(images) < 0.1] = -1
    return ClassificationEvaluation(classes, paths(images), labels, predictions)


def ranked(images=60, seed=0):
    """Many equal scores; the third class is nowhere, and some images have no class."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, 4)) < 0.3).astype(np.int8)
    labels[:, 2] = 0
    labels[rng.random((images, 4)) < 0.1] = -1
    scores = np.rint(2 * rng.normal(size=(images, 4)) + labels).astype(np.float32)
    return MultilabelEvaluation(NAMES, paths(images), labels, scores)


def segmented():
    confusions = np.random.default_rng(0).integers(0, 9, (3, 4, 4)).astype(np.int32)
    sampled = np.zeros((3, 256), np.uint8)
    return SegmentationEvaluation(NAMES, paths(3), confusions, sampled, sampled)


def paths(count):
    return tuple(f"ünter\udcff/{i}.png" for i in range(count))


@pytest.fixture(params=[segmented, classified, ranked], ids=["miou", "accuracy", "map"])
def evaluation(request):
    return request.param()


def test_a_file_says_what_it_is(evaluation, tmp_path):
    evaluation.write(tmp_path / EVALUATION_FILE)
    read = read_evaluation(tmp_path / EVALUATION_FILE)
    assert type(read) is type(evaluation)
    assert (read.class_names, read.images) == (NAMES, evaluation.images)
    assert read.metrics.as_dict() == evaluation.metrics.as_dict()
    assert np.array_equal(read.truth, evaluation.truth)


def test_metrics_say_what_they_are_judged_by(evaluation):
    metrics = json.loads(json.dumps(evaluation.metrics.as_dict()))
    metric = metric_of(metrics)
    assert metric is evaluation.metric
    assert metric.of(metrics) == evaluation.metrics.score
    assert metric.classes(metrics) == list(NAMES)
    assert shown_score(metrics).startswith(f"{metric.title} {100 * evaluation.metrics.score:.2f} %")
    assert ("over 3 of 4 classes" in shown_score(metrics)) == (metric.key == "map")


def test_a_mean_over_some_classes_says_so():
    metrics = {"miou": 1.0, "absent": 2, "iou": {"sky": 1.0, "road": None, "car": None}}
    assert shown_score(metrics) == "mIoU 100.00 % over 1 of 3 classes"
    assert shown_score({**metrics, "absent": 0}) == "mIoU 100.00 %"
    assert shown_score({**metrics, "miou": None}) == "mIoU no labelled pixel"


def test_statistics_add_up_to_the_metric(evaluation):
    total = evaluation.metric.score(evaluation.statistics.sum(0).astype(np.float64))
    metrics = evaluation.metrics.as_dict()
    expected = metrics["image_ap" if evaluation.metric.key == "map" else evaluation.metric.key]
    assert float(total) == pytest.approx(expected, abs=1e-9)


def test_an_unknown_kind_or_metric_is_refused(tmp_path):
    path = tmp_path / EVALUATION_FILE
    np.savez(path, kind=np.array("os.system"), labels=np.zeros(3))
    with pytest.raises(SegalError, match=r"(?s)cannot be read as an evaluation.*os\.system"):
        read_evaluation(path)
    with pytest.raises(SegalError, match="not known"):
        metric_of({"metric": "f1"})
    with pytest.raises(SegalError, match="not known"):
        metric_of({"metric": ["map"]})


def test_classification_is_scikit_learns():
    evaluation = classified()
    known = evaluation.labels >= 0
    truth, predicted = evaluation.labels[known], evaluation.predictions[known]
    metrics = evaluation.metrics
    assert metrics.accuracy == accuracy_score(truth, predicted)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert metrics.balanced_accuracy == balanced_accuracy_score(truth, predicted)
    recalls = recall_score(truth, predicted, labels=range(3), average=None)
    np.testing.assert_allclose(list(metrics.recall.values())[:3], recalls, rtol=1e-15)
    assert np.isnan(metrics.recall["fox"]) and metrics.absent == 1
    matrix = confusion_matrix(truth, predicted, labels=range(4))
    assert np.array_equal(metrics.confusion, matrix)
    stored = metrics.as_dict()
    dense = np.zeros((4, 4), np.int64)
    for row, column, count in stored["confusion_pairs"]:
        dense[row, column] = count
    assert np.array_equal(dense, matrix)
    assert evaluation.metric.labelled(stored) == matrix.sum(1).tolist()
    assert evaluation.metric.answered(stored).tolist() == matrix.sum(0).tolist()


def test_mean_average_precision_is_scikit_learns():
    evaluation = ranked()
    found = evaluation.metrics
    expected = {}
    for column, name in enumerate(NAMES):
        known = evaluation.labels[:, column] >= 0
        truth, scores = evaluation.labels[known, column], evaluation.scores[known, column]
        if truth.any():
            expected[name] = average_precision_score(truth, scores)
    assert set(expected) == {"cat", "dog", "fox"}
    assert {n: found.ap[n] for n in expected} == pytest.approx(expected, rel=1e-12)
    assert np.isnan(found.ap["eel"]) and found.absent == 1
    assert found.map == pytest.approx(np.mean(list(expected.values())), rel=1e-12)
    rows = [
        (y[y >= 0], s[y >= 0]) for y, s in zip(evaluation.labels, evaluation.scores, strict=True)
    ]
    images = [average_precision_score(y, s) for y, s in rows if (y == 1).any()]
    assert found.image_ap == pytest.approx(np.mean(images), abs=1e-9)
    truth, predicted = evaluation.answers
    assert found.accuracy == accuracy_score(truth, predicted)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.full(200, 4, np.int32)},
        {"labels": np.full(200, -2, np.int32)},
        {"labels": np.zeros(199, np.int32)},
        {"predictions": np.full(200, -1, np.int32)},
        {"predictions": np.zeros(200)},
    ],
)
def test_answers_that_cannot_be_are_refused(changes):
    good = classified()
    given = {"labels": good.labels, "predictions": good.predictions} | changes
    with pytest.raises(ValueError, match=next(iter(changes))):
        ClassificationEvaluation(NAMES, good.images, **given)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.full((60, 4), 2, np.int8)},
        {"labels": np.zeros((60, 3), np.int8)},
        {"scores": np.full((60, 4), np.nan, np.float32)},
        {"scores": np.zeros((4, 60), np.float32)},
    ],
)
def test_rankings_that_cannot_be_are_refused(changes):
    good = ranked()
    given = {"labels": good.labels, "scores": good.scores} | changes
    with pytest.raises(ValueError, match=next(iter(changes))):
        MultilabelEvaluation(NAMES, good.images, **given)


def test_many_images_of_many_classes_stay_small(tmp_path):
    evaluation = classified(100_000, classes=tuple(f"class {i}" for i in range(1000)))
    evaluation.write(tmp_path / EVALUATION_FILE)
    assert (tmp_path / EVALUATION_FILE).stat().st_size < 1_000_000
    read = read_evaluation(tmp_path / EVALUATION_FILE)
    assert read.statistics.nbytes < 2_000_000
    assert len(json.dumps(read.metrics.as_dict())) < 2_000_000


def test_one_answer_is_told_of_images():
    labels = np.zeros(50, np.int32)
    metrics = ClassificationEvaluation(NAMES, paths(50), labels, labels + 1).metrics.as_dict()
    assert one_answer(metrics) == "the network answers 'dog' on 100 % of the images"
    assert one_answer(classified().metrics.as_dict()) is None
    assert one_answer(ranked().metrics.as_dict()) is None  # the order is what counts


def test_classes_that_are_never_predicted_are_told():
    labels = np.array([0, 0, 1, 2, 2, -1], np.int32)
    predictions = np.array([0, 1, 1, 0, 1, 3], np.int32)
    metrics = ClassificationEvaluation(NAMES, paths(6), labels, predictions).metrics.as_dict()
    # The last class is not labelled: that it is not predicted either is right.
    assert never_predicted(metrics) == [NAMES[2]]
    assert remark(metrics) == f"the network never predicts {NAMES[2]!r}"
    right = ClassificationEvaluation(NAMES, paths(6), labels, labels.clip(0)).metrics.as_dict()
    assert never_predicted(right) == [] and remark(right) is None
    one = ClassificationEvaluation(NAMES, paths(6), labels, 0 * labels).metrics.as_dict()
    assert remark(one) == (
        f"the network answers {NAMES[0]!r} on 100 % of the images, and never predicts "
        f"{NAMES[1]!r}, {NAMES[2]!r}"
    )
    assert named(["a", "b", "c"], 2) == "'a', 'b' and 1 more"


def test_a_class_that_is_said_of_no_image_is_never_predicted():
    """Nobody has the third class, and the last is said of an image that nothing is known of."""
    labels = np.array([[1, 1, 0, 1], [0, 1, 0, 0], [1, 0, 0, -1]], np.int8)
    scores = np.array([[2, -1, -1, -1], [-1, 0, -1, -1], [1, -3, -1, 1]], np.float32)
    metrics = MultilabelEvaluation(NAMES, paths(3), labels, scores).metrics.as_dict()
    assert metrics["predicted"] == [2, 0, 0, 1]
    assert never_predicted(metrics) == [NAMES[1]]
    assert remark(metrics) == f"the network never predicts {NAMES[1]!r}"
    assert never_predicted(ranked().metrics.as_dict()) == []
    del metrics["predicted"]  # as runs before it wrote
    assert never_predicted(metrics) == []


def test_a_class_of_which_no_box_is_found_is_never_predicted():
    """Crowds of the third class do not count, and the last is found where it is not."""
    boxes = np.array([[0.0, 0, 4, 4], [5, 5, 9, 9], [1, 1, 9, 9]])
    crowd = np.array([False, False, True])
    objects = Objects(boxes, np.array([0, 1, 2]), crowd, ((0, 0, 9, 9),))
    found = Found(
        boxes[[0, 1]].astype(np.float32), np.array([0, 3]), np.array([0.9, 0.1], np.float32)
    )
    metrics = DetectionEvaluation.of(NAMES, paths(1), [found], [objects]).metrics.as_dict()
    assert never_predicted(metrics) == [NAMES[1]]
    never = NeverPredicted()
    never.look(0, {"test": metrics}, ["test"])
    (note,) = never.notes()
    assert note.endswith(f"never predicts there: {NAMES[1]!r} in every round.")


def test_a_run_tells_in_which_rounds_a_class_was_never_predicted():
    confusions = [
        [[5, 0, 0], [2, 0, 0], [1, 0, 0]],
        [[5, 0, 0], [1, 1, 0], [1, 0, 0]],
        [[5, 0, 0], [2, 0, 0], [1, 0, 0]],
    ]
    never = NeverPredicted()
    for i, confusion in enumerate(confusions):
        metrics = SegmentationMetrics.of(np.array(confusion), ("a", "b", "c")).as_dict()
        fine = SegmentationMetrics.of(np.eye(3, dtype=np.int64), ("a", "b", "c")).as_dict()
        never.look(i, {"validation": fine, "test": metrics}, ["validation", "test"])
    assert never.notes() == [
        "Classes that test has and the network never predicts there: 'c' in every round; "
        "'b' in rounds 0, 2."
    ]
    assert NeverPredicted().notes() == []


def test_nothing_labelled_is_no_score():
    labels = np.full(5, -1, np.int32)
    metrics = ClassificationEvaluation(NAMES, paths(5), labels, labels + 1).metrics.as_dict()
    assert metrics["accuracy"] is None and metrics["absent"] == 4
    assert shown_score(metrics) == "accuracy no labelled image"


def test_accuracy_is_tested_as_mcnemar_does():
    """Of one budget and seed the images on which only one arm is right are fair coins."""
    ones, others = (classified(40, seed) for seed in (0, 0))
    flipped = others.predictions.copy()
    known = np.flatnonzero(others.labels >= 0)
    flipped[known[:12]] = (others.labels[known[:12]] + 1) % 4  # these are wrong now
    others = ClassificationEvaluation(NAMES, others.images, others.labels, flipped)
    a, b = (e.statistics[None, None] for e in (ones, others))
    result = statistics_permutation(
        a, b, ones.metric.score, permutations=2**12, generator=np.random.default_rng(0)
    )
    right, wrong = ((e.labels == e.predictions) for e in (ones, others))
    one_only, other_only = int((right & ~wrong).sum()), int((wrong & ~right).sum())
    expected = binomtest(one_only, one_only + other_only).pvalue
    assert result.p == pytest.approx(expected, rel=1e-12)
    assert result.difference == pytest.approx(ones.metrics.accuracy - others.metrics.accuracy)


# Whole comparisons

ABSENT = ("sign",)
ARMS = {
    "random": {"strategy": "random", "scores": (0.5, 0.6, 0.66)},
    "better": {"scores": (0.5, 0.64, 0.72)},
    "full": {"full": True, "scores": (0.8,)},
}


@pytest.fixture(scope="module", params=["classification", "multilabel"])
def compared(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    common = {"task": request.param, "noise": 0.05, "images": 100, "absent": ABSENT, "lift": 0.01}
    common["measured"] = False
    make_comparison(folder, {name: given | common for name, given in ARMS.items()})
    runs = {}
    for run in sorted((folder / "runs").glob("*/*")):
        runs.setdefault(run.parent.name, {})[int(run.name.removeprefix("seed-"))] = read_history(
            run
        )
    question = Question("random", ("better", "random"), permutations=200, label_permutation=True)
    tables = analyse(gather(runs, ["full"]), question)
    analysis = {"tables": [t.as_dict() for t in tables], "statement": statement(tables)}
    (folder / "comparison.json").write_text(json.dumps(analysis))
    page = write_report([folder], folder / "report.html", axis="regions")
    return runs, tables, page


def test_histories_have_the_scores(compared):
    runs, _, _ = compared
    assert runs["better"][1].scores == pytest.approx([0.51, 0.65, 0.73], abs=2e-3)


def test_tables_speak_of_the_metric(compared):
    runs, tables, _ = compared
    title = runs["random"][0].metric.title
    text = "\n".join(table.as_text() for table in tables)
    assert f"{title} (%)" in text and f"points of {title}" in text
    for word in ("mIoU", "IoU", "pixel"):
        assert word not in text
    scores = next(t for t in tables if t.title.lower() == f"{title} by budget".lower())
    assert len(scores.columns) == len(set(scores.columns))
    saving = next(t for t in tables if t.title.startswith("Annotation saving"))
    assert saving.columns[2] == f"{title} along the curve (%)"
    better = next(row for row in saving.rows if row[0] == "better")
    assert better[saving.columns.index("saving (%)")] > 10


def test_both_tests_are_there(compared):
    runs, tables, _ = compared
    primary = next(t for t in tables if t.title.startswith("Primary"))
    by_seeds, by_images = primary.rows
    area = np.mean([0, 0.04, 0.04, 0.06]) * 100  # trapezes of the lead
    assert by_seeds[3] == pytest.approx(area, abs=0.2)
    assert by_images[1] == "600 images" and by_images[4] < 0.05
    exact = runs["random"][0].metric.key == "accuracy"
    assert (by_images[3] == pytest.approx(by_seeds[3], rel=1e-9)) == exact
    assert any("no sum over images" in note for note in primary.notes) != exact


def test_the_page_speaks_of_the_metric(compared):
    runs, _, page = compared
    metric = runs["random"][0].metric
    html = page.read_text()
    # Keys of the configuration are the same for every task.
    beside = r"<style.*?</style>|data:[^\"]*|<path[^>]*>|train\.pixels"
    text = re.sub(beside, "", html, flags=re.DOTALL)
    for word in ("mIoU", "IoU", "pixel"):
        assert word not in text, text[text.index(word) - 80 :][:160]
    assert f"Learning curves: {metric.title} against what the labels cost" in text
    assert f"{metric.class_title} by class, last round (%)" in text
    assert "Up to 1 of 6 classes are absent" in text
    assert f"22 {metric.regions}" in text  # the cost in words
    assert ("balanced accuracy" in text) == (metric.key == "accuracy")
    files = page.with_name("report_files")
    rows = list(csv.DictReader(io.StringIO((files / "learning-curves.csv").read_text())))
    assert float(rows[0][metric.key]) == pytest.approx(0.5, abs=0.02) or rows[0]["arm"] == "full"
    assert (files / f"{metric.class_key}-last-round.csv").exists()


def test_runs_of_two_tasks_are_not_drawn_together(tmp_path):
    make_run(tmp_path / "a", task="classification", measured=False, scores=(0.5, 0.6))
    make_run(tmp_path / "b", task="multilabel", measured=False, scores=(0.5, 0.6), seed=1)
    with pytest.raises(SegalError, match=r"judged by"):
        write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "report.html")


def test_other_labels_are_not_compared(tmp_path):
    common = {"task": "classification", "measured": False, "scores": (0.5, 0.6)}
    one = read_history(make_run(tmp_path / "a", strategy="random", **common))
    other = read_history(make_run(tmp_path / "b", **common))
    file = other.rounds[1].folder / EVALUATION_FILE
    kept = read_evaluation(file)
    labels = np.roll(kept.labels, 1)
    ClassificationEvaluation(kept.class_names, kept.images, labels, kept.predictions).write(file)
    with pytest.raises(SegalError, match="evaluated on other labels"):
        analyse(gather({"random": {0: one}, "uwe": {0: other}}), Question("random"))


def test_a_metric_that_is_not_known_is_told_of(tmp_path):
    run = make_run(tmp_path / "a", task="classification", measured=False, scores=(0.5, 0.6))
    for file in run.rglob(METRICS_FILE):
        file.write_text(file.read_text().replace('"metric": "accuracy"', '"metric": "f1"'))
    with pytest.raises(SegalError, match="'f1'"):
        write_report([run], tmp_path / "report.html")


def test_of_very_many_classes_the_hardest_are_shown():
    values = np.random.default_rng(0).permutation(300) / 300
    rows = tuple((words(f"c{i}"), number(100 * v, heat=v)) for i, v in enumerate(values.tolist()))
    mean = (words("balanced accuracy"), number(50.0, heat=0.5))
    shown = details.hardest(Table("recall", "Recall", ("class", "arm"), (*rows, mean)), 300)
    assert [row[1].heat for row in shown.rows[:-1]] == sorted(values.tolist())[:40]
    assert shown.rows[-1] == mean
    assert shown.notes == ("The 40 lowest of 300 classes; all are in recall.csv.",)
    few = Table("recall", "Recall", ("class", "arm"), (*rows[:200], mean))
    assert details.hardest(few, 200) is few
