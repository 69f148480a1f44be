"""TA-VAAL: ranks that tell the sets apart, scores by hand, and VAAL on whole images."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segal.candidates.regions import Boxes, RegionSize
from segal.candidates.table import CandidateTable
from segal.data.image_sets import ImageSet
from segal.data.pool import open_pool
from segal.errors import SegalError
from segal.jobs.strategies import check_network, configure_run
from segal.models.loss_prediction import LearningLossSettings, logistic_ranking_loss
from segal.models.vaal import SIDE, VaalTraining, train_vaal
from segal.models.wrapped import FEATURE_MAPS
from segal.scanning.scan import Scan, ScanSettings
from segal.scanning.workbench import Bench, forward
from segal.signals.crops import cut, in_pixels, shrink
from segal.signals.ta_vaal import RankedLooksLabelled, predicted_losses
from segal.signals.vaal import LooksLabelled
from segal.strategies import STRATEGIES
from segal.strategies.base import PassContext
from segal.tasks.classification.model import ClassificationModel
from segal.tasks.segmentation.task import Segmentation
from tests.tiny_classifier import CLASSES, make_bench, make_model, make_spec

CPU = torch.device("cpu")
SMALL = VaalTraining(steps=4, batch_size=4, latent=4)
SIGNAL = RankedLooksLabelled(SMALL, crops=12)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_discriminator_follows_the_rank_where_nothing_else_differs():
    crops = torch.randint(256, (2, 8, 3, SIDE, SIDE), generator=generator(), dtype=torch.uint8)
    low, high = torch.rand(2, 8, 1, generator=generator()) / 2
    training = VaalTraining(40, 4, 4, adversary=0.0, discriminator_rate=3e-3)
    for known, sign in (((low, high + 0.5), -1), ((high + 0.5, low), 1)):
        vaal = train_vaal(crops[0], crops[0], training, generator(), CPU, known=known)
        steps = torch.linspace(0.05, 0.95, 5)[:, None]
        for crop in crops[1, :4]:  # which it was not trained on
            logits = vaal.logits((crop.float() / 255).expand(5, -1, -1, -1), steps)
            assert (sign * logits.diff() > 0).all()


def test_nothing_known_is_vaal_itself():
    crops = torch.randint(256, (2, 6, 3, SIDE, SIDE), generator=generator(), dtype=torch.uint8)
    nothing = torch.empty(6, 0), torch.empty(6, 0)
    first, second = (
        train_vaal(crops[0], crops[1], SMALL, generator(), CPU, known=known)
        for known in (None, nothing)
    )
    given = crops[0].float() / 255
    assert torch.equal(first.logits(given), second.logits(given))


@pytest.fixture(scope="module")
def predicting(model):
    network = copy.deepcopy(model)
    network.add_loss_prediction(0)
    return network


BOUGHT = {0: [(0, 0, 64, 64)], 2: [(10, 5, 42, 50)]}


def sets(pool):
    return {"labelled": ImageSet(pool, inside=BOUGHT), "pool": ImageSet(pool, outside=BOUGHT)}


def test_scores_equal_the_networks_by_hand(image_folder, predicting):
    pool = open_pool(image_folder)
    settings = ScanSettings(CPU)
    bench = Bench(predicting, Segmentation(), settings, sets(pool), 0, [RegionSize.parse("32")])
    meter = SIGNAL.prepare(bench)
    image = torch.from_numpy(pool.read(1))[None]
    boxes = ((0, 0, 32, 32), (5, 9, 40, 30))
    evidence = forward(bench.task, predicting, image, settings, meter.catch, ["a"])
    measured = meter.measure(evidence, Boxes(boxes))
    losses = predicting.loss_prediction.of_units(evidence.maps, Boxes(boxes), evidence.upsampling)[
        0
    ]
    # The mean of what the module predicts of the crops that were trained on, found again.
    mean = float(losses[0] - torch.logit(meter.known(evidence, Boxes(boxes))[0, 0, 0].double()))
    for column, (x0, y0, x1, y1) in enumerate(boxes):
        crop = shrink(image[0, y0:y1, x0:x1].permute(2, 0, 1).float() / 255)
        with torch.no_grad():
            code = meter.vaal.vae.encode(crop[None])[0]
            rank = (losses[column] - mean).sigmoid().float().view(1, 1)
            expected = meter.vaal.discriminator(torch.cat([code, rank], 1)).double().sigmoid()
        torch.testing.assert_close(measured[0, column], expected[0], rtol=1e-5, atol=0)
    [note] = bench.notes
    assert note.startswith("ta_vaal: ")


def test_losses_of_crops_are_those_of_regions_and_only_their_images_are_run(
    image_folder, predicting, monkeypatch
):
    pool = open_pool(image_folder)
    crops = [(3, (0, 0, 20, 30)), (1, (4, 4, 50, 40)), (3, (8, 2, 9, 3))]
    bench = Bench(predicting, Segmentation(), ScanSettings(CPU), {"pool": ImageSet(pool)})
    reads = []
    read = type(pool).read
    monkeypatch.setattr(type(pool), "read", lambda self, i: reads.append(i) or read(self, i))
    found = predicted_losses(bench, "pool", crops, predicting.loss_prediction)
    assert reads == [1, 3]
    for loss, (image, box) in zip(found, crops, strict=True):
        with torch.no_grad():
            inputs = predicting.normalise(torch.from_numpy(read(pool, image))[None])
            evidence = predicting(inputs, (FEATURE_MAPS,))
            expected = predicting.loss_prediction.of_units(
                evidence.maps, Boxes((box,)), evidence.upsampling
            )
        torch.testing.assert_close(loss, expected[0, 0], rtol=1e-6, atol=1e-7)


def test_the_seed_decides_and_the_lowest_are_picked(image_folder, predicting, tmp_path):
    pool = open_pool(image_folder)
    strategy = STRATEGIES.get("ta_vaal")(steps=4, batch_size=4, latent=4, crops=12)
    assert list(strategy.passes(PassContext())) == [[SIGNAL]]
    found = []
    for name, seed, workers in (("a", 0, 1), ("b", 0, 3), ("c", 1, 1)):
        torch.manual_seed(len(found))
        Scan(
            pool=pool,
            task=Segmentation(),
            regions=[RegionSize.parse("32")],
            settings=ScanSettings(CPU, workers=workers),
            signals=(SIGNAL,),
            model=predicting,
            labelled=BOUGHT,
            sets=sets(pool),
            seed=seed,
        ).run(tmp_path / name)
        found.append(CandidateTable.open(tmp_path / name / "32"))
    values = [table.values[SIGNAL.column] for table in found]
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])
    nothing = found[0].view(np.zeros(0, np.int64), np.zeros(0, np.int64))
    picks = strategy.select(found[0], nothing, 3, generator())
    assert picks.rows.tolist() == np.argsort(values[0], kind="stable")[:3].tolist()


def test_without_a_module_it_is_refused(image_folder, model):
    pool = open_pool(image_folder)
    with pytest.raises(SegalError, match="predicts no losses"):
        SIGNAL.prepare(Bench(model, Segmentation(), ScanSettings(CPU), sets(pool)))
    with pytest.raises(SegalError, match=r"train\.learning_loss: false") as caught:
        configure_run({"strategy": {"name": "ta_vaal"}, **_run(image_folder)})
    assert "ta_vaal picks by" in caught.value.expected


def _run(root):
    return {
        "data": {"root": str(root), "validation": "val"},
        "seed_set": "1%",
        "budgets": ["1%"],
        "out": str(root / "out"),
    }


def test_logistic_ranking_is_the_cross_entropy_of_the_order():
    predicted, losses = torch.randn(2, 9, generator=generator(), dtype=torch.float64)
    predicted.requires_grad_()
    p, target = predicted[:8].view(4, 2), losses[:8].view(4, 2)
    expected = F.binary_cross_entropy(
        (p[:, 0] - p[:, 1]).sigmoid(), (target[:, 0] > target[:, 1]).double()
    )
    settings = LearningLossSettings(ranking="logistic")
    torch.testing.assert_close(settings.loss(predicted, losses), expected)
    assert float(logistic_ranking_loss(predicted[:1], losses[:1])) == 0
    # Runs from before there was the choice stay the same runs.
    assert "ranking" not in LearningLossSettings().identity()
    assert settings.identity()["ranking"] == "logistic"


# Whole images


@pytest.mark.parametrize(
    ("box", "elements", "pixels", "expected"),
    [
        ((0, 0, 1, 1), (1, 1), (12, 17), (0, 0, 17, 12)),
        ((0, 0, 1, 4), (4, 1), (10, 17), (0, 0, 17, 10)),
        ((0, 1, 1, 3), (4, 1), (10, 17), (0, 2, 17, 8)),
        ((3, 5, 40, 33), (70, 101), (70, 101), (3, 5, 40, 33)),
    ],
)
def test_boxes_in_pixels(box, elements, pixels, expected):
    assert in_pixels(box, elements, pixels) == expected


@pytest.mark.parametrize("task", ["classification", "multilabel"])
@pytest.mark.parametrize("ranked", [False, True])
def test_an_image_that_is_bought_as_a_whole_is_shown_as_a_whole(task, ranked):
    model = make_model(task)
    model.add_loss_prediction(0)
    bench = make_bench(model, 7)
    pool = bench.images("pool").pool
    height, width = pool.size(0)
    whole = (0, 0, width, height)
    bought = {i: [whole] for i in range(3)}
    bench.sets["labelled"] = ImageSet(pool, inside=bought)
    bench.sets["pool"] = ImageSet(pool, outside=bought)
    images = torch.stack([torch.from_numpy(pool.read(i)) for i in range(7)])
    shown = torch.stack([shrink(x.permute(2, 0, 1).float()) for x in images])
    for rows, some in cut(bench.images("pool"), [(5, whole), (3, whole)], 0):
        for row, crop in zip(rows, some, strict=True):
            expected = (shown[(5, 3)[row]] * 255).round().to(torch.uint8)
            assert (crop.int() - expected.int()).abs().max() <= 1
    signal = (RankedLooksLabelled if ranked else LooksLabelled)(SMALL, crops=8)
    meter = signal.prepare(bench)
    evidence = forward(bench.task, model, images, bench.settings, meter.catch, list("abcdefg"))
    measured = meter.measure(evidence, Boxes((whole,)))
    known = meter.known(evidence, Boxes((whole,)))[:, 0] if ranked else None
    with torch.no_grad():
        expected = meter.vaal.logits(shown, known).double().sigmoid()
    torch.testing.assert_close(measured[:, 0], expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("strategy", ["vaal", "ta_vaal"])
def test_a_table_of_features_is_refused(strategy):
    spec = make_spec(architecture="linear", mean=(0.0,), std=(1.0,), input_channels=9)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, len(CLASSES)))
    model = ClassificationModel(network, spec).eval()
    with pytest.raises(SegalError, match=f"^{strategy}: it learns from pictures") as caught:
        check_network(STRATEGIES.get(strategy)(), model)
    assert caught.value.got == "rows of 9 features"


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_losses_of_whole_images_are_predicted_from_global_averages(task):
    """Yoo and Kweon, figure 2b: global average pooling, a layer a map, and a last one."""
    model = make_model(task)
    module = model.add_loss_prediction(0)
    images = torch.rand(3, 3, 12, 12, generator=generator(), dtype=torch.float64)
    caught = {}
    for name in model.stages:
        model.network.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, name=name: caught.update({name: output})
        )
    with torch.no_grad():
        evidence = model(images, (FEATURE_MAPS,))
        maps = [caught[name].mean((2, 3)) for name in model.stages]
        means = [*maps, model.network.features(images)]
        hidden = [
            (x @ layer.weight.T + layer.bias).clamp(min=0)
            for layer, x in zip(module.maps, means, strict=True)
        ]
        expected = (torch.cat(hidden, 1) @ module.output.weight.T + module.output.bias)[:, 0]
        mask = torch.ones(3, *evidence.size, dtype=torch.bool)
        got = module.of_pixels(evidence.maps, mask, evidence.upsampling)
        units = RegionSize().grid(*evidence.size)
        of_units = module.of_units(evidence.maps, units, evidence.upsampling)
    assert len(model.stages) >= 2
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(of_units[:, 0], expected, rtol=1e-12, atol=1e-12)
