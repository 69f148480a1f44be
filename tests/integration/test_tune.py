"""`segal tune` on scans that `segal select` and `segal run` left."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest

from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable
from segal.jobs.tuning.scan import coarsen
from segal.runs.ledger import Ledger
from tests.integration.test_select import arguments


@pytest.fixture
def seed_set(segal, image_folder, tmp_path):
    """A few labelled regions, so that there are centres to start from."""
    out = tmp_path / "seed"
    assert (
        segal(*arguments(image_folder, None, out, strategy="random", budget=5, overlays=0))[0] == 0
    )
    return out / "selection.csv"


def select(segal, image_folder, checkpoint, out, *extra, **options):
    call = arguments(image_folder, checkpoint, out, overlays=0, **options)
    code, _, stderr = segal(*call, *extra)
    assert code == 0, stderr
    with (out / "selection.csv").open(newline="") as file:
        return [(r["image"], int(r["x"]), int(r["y"])) for r in csv.DictReader(file)]


def picked(segal, tmp_path, scan, tau, *extra, region="32", budget="12"):
    """What tune says that a tau picks, by way of its job."""
    from segal.jobs.tuning.tune import configure_tuning, run_tuning  # noqa: PLC0415

    raw = {"scan": scan, "budget": budget, "taus": [tau], "out": tmp_path / "tuned"}
    tuning = configure_tuning({**raw, "regions": [region]})
    (result,) = run_tuning(tuning)
    table = tuning.scan.table(RegionSize.parse(region), "entropy")
    return [
        (table.images[table.image[row]], int(table.box[row, 0]), int(table.box[row, 1]))
        for row in result.batches[0].rows
    ]


@pytest.mark.parametrize("tau", [0, 0.3, 1, 2.5])
@pytest.mark.parametrize("budget", ["12", "20%"])
def test_picks_are_those_of_select(
    segal, image_folder, checkpoint, tmp_path, seed_set, tau, budget
):
    given = {"labelled": seed_set, "budget": budget}
    chosen = select(segal, image_folder, checkpoint, tmp_path / "run", "--tau", str(tau), **given)
    assert picked(segal, tmp_path, tmp_path / "run", tau, budget=budget) == chosen
    if tau == 0:
        other = tmp_path / "coreset"
        given["strategy"] = "coreset"
        coreset = select(segal, image_folder, checkpoint, other, **given)
        assert chosen == coreset


def test_picks_without_labels_and_in_half_precision(segal, image_folder, checkpoint, tmp_path):
    half = "embedding_dtype=float16"
    chosen = select(segal, image_folder, checkpoint, tmp_path / "run", half)
    assert picked(segal, tmp_path, tmp_path / "run", 1) == chosen


def test_a_file_and_overrides_say_what_options_say(segal, image_folder, checkpoint, tmp_path):
    scan = tmp_path / "run"
    select(segal, image_folder, checkpoint, scan)
    file = tmp_path / "tune.yaml"
    file.write_text(f"scan: {scan}\nregions: [32]\nbudget: 4\ntaus: [0, 1]\nout: never\n")
    called = (("--scan", scan, "--region", "32", "--budget", "5", "--taus", "0,1"),)
    called += (("--config", file, "--budget", "5"), ("--config", file, "budget=5"))
    tables = []
    for number, call in enumerate(called):
        out = tmp_path / f"tuned-{number}"
        code, _, stderr = segal("tune", *call, "--out", out)
        assert code == 0, stderr
        tables.append((out / "tune.csv").read_bytes())
    assert tables[0] == tables[1] == tables[2]
    code, _, stderr = segal("tune", "--config", file, "taux=1")
    assert code == 2 and "did you mean 'taus'?" in stderr


def test_writes_a_table_numbers_and_a_picture(segal, image_folder, checkpoint, tmp_path, seed_set):
    scan, out = tmp_path / "run", tmp_path / "tuned"
    select(segal, image_folder, checkpoint, scan, "extra_regions=16", labelled=seed_set)
    code, stdout, stderr = segal(
        "tune", "--scan", scan, "--budget", "30%", "--taus", "1,0,0.5,0,4", "--out", out,
        *("--region", "32", "--region", "16", "--region", "64", "--region", "image"),
    )  # fmt: skip
    assert code == 0, stderr
    assert "region 64" in stdout
    assert "summed from 32" in stdout
    assert "section 5.2" in stdout
    with (out / "tune.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["region"] for r in rows] == [x for x in ("32", "16", "64", "image") for _ in range(6)]
    for i in range(0, 24, 6):
        entropy, coreset, *swept = rows[i : i + 6]
        assert (entropy["batch"], coreset["batch"]) == ("entropy", "coreset")
        assert [float(r["tau"]) for r in swept] == [0, 0.5, 1, 4]
        assert float(entropy["overlap_uncertainty"]) == 1
        zero = swept[0]
        shared = set(zero) - {"batch", "tau", "suggested"}
        assert {k: zero[k] for k in shared} == {k: coreset[k] for k in shared}
        assert sum(int(r["suggested"]) for r in swept) == 1
        assert all(float(entropy["uncertainty"]) >= float(r["uncertainty"]) for r in swept)
    found = json.loads((out / "tune.json").read_text())
    assert found["labelled"] == 5
    assert len(found["scan"]["fingerprint"]) == 64
    assert found["regions"]["image"]["suggestion"]["paper"] == 1.0
    assert found["regions"]["64"]["suggestion"]["paper"] == 0.1
    assert found["regions"]["64"]["source"] == "32"
    height, width, _ = cv2.imread(str(out / "tune.png")).shape
    assert width > 1000
    assert height > 1000


def test_sums_of_small_regions_are_the_large_ones(
    segal, image_folder, checkpoint, tmp_path, seed_set
):
    scan = tmp_path / "run"
    select(segal, image_folder, checkpoint, scan, "extra_regions=16,64,image,16x48,32x48")
    for small, large in [("16", "64"), ("32", "image"), ("16x48", "32x48"), ("32", "64")]:
        fine = CandidateTable.open(scan / "candidates" / small)
        stored = CandidateTable.open(scan / "candidates" / large)
        summed = coarsen(fine, RegionSize.parse(large), ["entropy"], ["mean_feature"])
        assert np.array_equal(summed.box, stored.box)
        assert np.array_equal(summed.image, stored.image)
        assert np.array_equal(summed.pixels, stored.pixels)
        np.testing.assert_allclose(summed.values["entropy"], stored.values["entropy"], rtol=1e-6)
        np.testing.assert_allclose(
            summed.embedding("mean_feature"), stored.embedding("mean_feature"), rtol=1e-4, atol=1e-6
        )


def test_what_is_labelled_is_not_offered(segal, image_folder, checkpoint, tmp_path, seed_set):
    scan = tmp_path / "run"
    select(segal, image_folder, checkpoint, scan, labelled=seed_set)
    with seed_set.open(newline="") as file:
        bought = {(r["image"], int(r["x"]), int(r["y"])) for r in csv.DictReader(file)}
    everything = CandidateTable.open(scan / "candidates" / "32")
    most = str(len(everything) - len(bought) - 1)
    picks = picked(segal, tmp_path, scan, 1, budget=most)
    assert len(picks) == int(most)
    assert not bought & set(picks)


# Mistakes


def test_all_mistakes_at_once(segal, image_folder, checkpoint, tmp_path):
    scan = tmp_path / "run"
    select(segal, image_folder, checkpoint, scan)
    code, _, stderr = segal(
        "tune", "--scan", scan, "--budget", "3 regions", "--taus", "0,-1,x",
        *("--out", tmp_path / "t", "--region", "48", "--region", "none"),
    )  # fmt: skip
    assert code == 2
    for part in ("taus.1", "taus.2", "budget", "48 was not scanned", "expected: 32", "'none'"):
        assert part in stderr, part
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("100%", "every tau buys all of it"),
        ("5000", "every tau buys all of it"),
        ("0.001%", "does not buy a single region"),
    ],
)
def test_budgets_that_leave_nothing_to_tune(
    segal, image_folder, checkpoint, tmp_path, budget, message
):
    scan = tmp_path / "run"
    select(segal, image_folder, checkpoint, scan)
    code, _, stderr = segal("tune", "--scan", scan, "--budget", budget, "--out", tmp_path / "t")
    assert code == 2
    assert message in stderr
    assert "remedy" in stderr


def test_a_scan_without_the_columns(segal, image_folder, checkpoint, tmp_path):
    for strategy, missing in [("entropy", "entropy"), ("coreset", "entropy"), ("uwe", "bvsb")]:
        scan = tmp_path / strategy
        select(segal, image_folder, checkpoint, scan, strategy=strategy)
        code, _, stderr = segal(
            "tune", "--scan", scan, "--budget", "5", "--out", tmp_path / "t",
            "--uncertainty", missing,
        )  # fmt: skip
        assert code == 2
        assert "segal select --strategy uwe" in stderr
        assert f"strategy.uncertainty={missing}" in stderr


def test_no_scan(segal, image_folder, tmp_path):
    code, _, stderr = segal("tune", "--scan", tmp_path / "no", "--budget", "5", "--out", tmp_path)
    assert code == 2
    assert "not a run folder" in stderr
    code, _, stderr = segal("tune")
    assert code == 2
    assert all(f"{key}: missing" in stderr for key in ("scan", "budget", "out"))


def test_a_tau_out_of_range(segal, image_folder, checkpoint, tmp_path):
    scan = tmp_path / "run"
    select(segal, image_folder, checkpoint, scan)
    table = scan / "candidates" / "32" / "value-entropy.npy"
    values = np.load(table)
    np.save(table, values * 1e3)
    given = ("tune", "--scan", scan, "--budget", "5", "--out", tmp_path / "t", "--taus")
    code, _, stderr = segal(*given, "1,100")
    assert code == 2
    assert "100 takes the embeddings out of range" in stderr
    np.save(table, -values)
    code, _, stderr = segal(*given, "1")
    assert code == 2
    assert "below 0" in stderr


def test_a_round_of_a_run(segal, image_folder, checkpoint, tmp_path):
    select(segal, image_folder, checkpoint, tmp_path / "run")
    out = tmp_path / "rounds of a run"
    tables = out / "rounds" / "001" / "candidates"
    with Ledger.open(out, "run", {"seed": 0}) as ledger:
        shutil.copytree(tmp_path / "run" / "candidates", tables)
        ledger.finish("scan-0", 1, "0" * 64, artefacts=[tables])
    given = {"region": "32", "budget": "12"}
    assert picked(segal, tmp_path, tables.parent, 1, **given) == picked(
        segal, tmp_path, tmp_path / "run", 1, **given
    )
    code, _, stderr = segal("tune", "--scan", out, "--budget", "5", "--out", tmp_path / "t")
    assert code == 2
    assert "give a round's folder" in stderr
    assert str(tables.parent) in stderr


def test_validate_knows_its_configuration(segal, image_folder, checkpoint, tmp_path):
    select(segal, image_folder, checkpoint, tmp_path / "run")
    config = tmp_path / "tune.yaml"
    config.write_text(f"scan: {tmp_path / 'run'}\nbudget: 12\nout: {tmp_path / 'tuned'}\n")
    code, out, _ = segal("validate", config)
    assert code == 0
    assert "a configuration of segal tune, without mistakes" in out
    assert segal("validate", config.rename(tmp_path / "t.yml"))[0] == 0
    (tmp_path / "t.yml").write_text((tmp_path / "t.yml").read_text() + "taus: -1\n")
    code, _, err = segal("validate", tmp_path / "t.yml")
    assert code == 2
    assert "taus" in err
