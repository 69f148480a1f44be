"""`segal scan` on several machines, and what `segal select --from-scan` takes of it."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from segal.scanning import blocks
from segal.signals import MeanFeature, Value
from segal.strategies.base import Picks
from tests.conftest import CLASSES, write_image


@dataclass(frozen=True)
class TwoPasses:
    """Picks by the entropy, of which a second pass measures the maximum where it was asked for."""

    name: ClassVar[str] = "two-passes"
    direction: ClassVar[str] = "higher"
    source: ClassVar[str] = "a test"
    uses_reference_labels: ClassVar[bool] = False

    def passes(self, context):
        yield [Value("entropy")]
        assert len(context.tables[0]) > 0
        yield [Value("entropy", "max"), MeanFeature()]

    def select(self, table, labelled, count, generator):
        scores = torch.from_numpy(table.values["entropy-max"])
        return Picks.best(scores, count, "higher")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Options of a selection, but for --out."""
    root = tmp_path_factory.mktemp("given")
    for i in range(9):
        write_image(root / "images" / f"{i}.png", 48, 40 + 8 * (i % 2), i)
    for seed in range(2):
        torch.manual_seed(seed)
        network = build_model(make_spec("tests.tiny_network:build", "", CLASSES)).eval()
        save_checkpoint(network, root / f"{seed}.safetensors")
    (root / "labelled.csv").write_text("image,x,y,width,height\n1.png,0,0,16,16\n5.png,5,0,9,9\n")
    return [
        *("--images", root / "images", "--checkpoint", root / "0.safetensors"),
        *("--arch", "tests.tiny_network:build"),
        *("--labelled", root / "labelled.csv", "--strategy", "coreset", "--region", "16"),
        *("--budget", "6", "--overlays", "1", "--threads", "1"),
    ]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "_FEW", 2)
    monkeypatch.setattr(blocks, "_LEAST", 1)


def chosen(run):
    files = [*run.rglob("*.npy"), *run.rglob("*/table.json"), *run.glob("masks/*")]
    files.append(run / "selection.csv")
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def test_shards_come_to_what_one_process_measures(segal, given, tmp_path):
    assert segal("select", *given, "--out", tmp_path / "whole")[0] == 0
    shards = tmp_path / "shards"
    for shard in ("3/3", "1/3"):
        code, stdout, stderr = segal("scan", *given, "--out", shards, "--shard", shard)
        assert (code, stdout) == (0, f"{shards}\n"), stderr
    assert "Shard 1/3: block 0 of 5 is there, with 2 of 9 images." in stderr
    taking = ("select", *given, "--from-scan", shards, "--out", tmp_path / "taken")
    code, _, stderr = segal(*taking)
    assert code == 2
    assert "shards: a scan that is not whole" in stderr
    assert "block 1 to 2: missing" in stderr
    assert segal("scan", *given, "--out", shards)[0] == 0  # all that is lacking
    code, stdout, stderr = segal(*taking)
    assert code == 0, stderr
    assert chosen(tmp_path / "taken") == chosen(tmp_path / "whole")
    assert segal(*taking)[1] == stdout


def test_more_shards_than_blocks_leave_some_with_nothing(segal, given, tmp_path):
    shards = tmp_path / "shards"
    said = [segal("scan", *given, "--out", shards, "--shard", f"{k}/7")[2] for k in range(1, 8)]
    assert sum("nothing to measure" in stderr for stderr in said) == 2
    code, _, stderr = segal("select", *given, "--from-scan", shards, "--out", tmp_path / "taken")
    assert code == 0, stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--checkpoint", "1.safetensors"), "another network"),
        (("--region", "24"), "another regions"),
        (("--strategy", "entropy"), "another signals"),
        (("--seed", "3"), "another seed"),
        (("embedding_dtype=float16",), "another embedding_dtype"),
        (("--images", "other"), "another images"),
    ],
)
def test_a_shard_of_another_scan_is_refused_by_name(segal, given, tmp_path, change, said):
    root = given[1].parent
    if change[0] == "--images":
        for i in range(9):
            write_image(tmp_path / "other" / f"{i}.png", 48, 40 + 8 * (i % 2), i + (i == 8))
        change = ("--images", tmp_path / "other")
    if change[0] == "--checkpoint":
        change = ("--checkpoint", root / change[1])
    shards = tmp_path / "shards"
    assert segal("scan", *given, *change, "--out", shards, "--shard", "1/5")[0] == 0
    for command in (("scan", "--shard", "2/5", "--out", shards), ("select", "--from-scan", shards)):
        out = () if command[0] == "scan" else ("--out", tmp_path / "taken")
        code, _, stderr = segal(*command, *given, *out)
        assert code == 2
        assert "block 0 of another scan" in stderr
        assert said in " ".join(stderr.split())


def test_shards_that_say_less_of_what_is_labelled_are_refused(segal, given, tmp_path):
    badge = ("--strategy", "badge", "--out", tmp_path / "shards")
    assert segal("scan", *given, *badge)[0] == 0
    by_labelled = ("--strategy", "badge", "strategy.init=labelled", "--out", tmp_path / "taken")
    code, _, stderr = segal("select", *given, *by_labelled, "--from-scan", tmp_path / "shards")
    assert code == 2
    assert "another signals of what is labelled" in " ".join(stderr.split())


def test_a_second_pass_is_made_by_the_selection(segal, given, tmp_path):
    two = ("--strategy", "tests.integration.test_scan_shards:TwoPasses")
    assert segal("scan", *given, *two, "--out", tmp_path / "shards")[0] == 0
    assert segal("select", *given, *two, "--out", tmp_path / "whole")[0] == 0
    taking = ("select", *given, *two, "--from-scan", tmp_path / "shards")
    assert segal(*taking, "--out", tmp_path / "taken")[0] == 0
    assert chosen(tmp_path / "taken") == chosen(tmp_path / "whole")


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2"])
def test_a_share_that_is_none_is_refused(segal, given, tmp_path, shard):
    code, _, stderr = segal("scan", *given, "--out", tmp_path / "x", "--shard", shard)
    assert code == 2
    assert "NUMBER/COUNT" in stderr


def test_what_needs_no_scan_and_what_is_no_folder_of_one_are_refused(segal, given, tmp_path):
    code, _, stderr = segal("scan", *given, "--strategy", "random", "--out", tmp_path / "x")
    assert code == 2
    assert "random measures nothing" in stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    code, _, stderr = segal("scan", *given, "--out", tmp_path / "mine")
    assert code == 2
    assert "letter.txt" in stderr
    taking = ("--from-scan", tmp_path / "nothing", "--out", tmp_path / "taken")
    code, _, stderr = segal("select", *given, *taking)
    assert code == 2
    assert "block 0 to 4: missing" in stderr
