"""The numbers of the official evaluator on four reference problems, down to every array entry."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from seqformer.evaluation import evaluate, pairwise_ious

CASES = sorted((Path(__file__).parents[1] / "golden" / "ytvis_eval").iterdir())
TOLERANCE = 1e-9


def unzipped(case: Path, name: str, folder: Path) -> Path:
    """The file as plain JSON."""
    if (case / name).is_file():
        return case / name
    plain = folder / name
    plain.write_bytes(gzip.decompress((case / f"{name}.gz").read_bytes()))
    return plain


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def golden(request, tmp_path_factory):
    """The two files of a case, what is expected of it, and its arrays."""
    folder = tmp_path_factory.mktemp(request.param.name)
    files = [unzipped(request.param, name, folder) for name in ("gt.json", "results.json")]
    expected = json.loads((request.param / "expected.json").read_text())
    with np.load(request.param / "arrays.npz") as arrays:
        return files, expected, dict(arrays)


@pytest.fixture(scope="module")
def metrics(golden):
    return evaluate(*golden[0])


def test_there_are_four_cases():
    assert len(CASES) == 4


def test_statistics(golden, metrics):
    _, expected, _ = golden
    assert list(metrics.stats) == list(expected["stats"])
    assert metrics.stats == pytest.approx(expected["stats"], rel=0, abs=TOLERANCE)
    vector = list(metrics.stats.values())
    assert vector == pytest.approx(expected["stats_vector"], rel=0, abs=TOLERANCE)


def test_every_class(golden, metrics):
    _, expected, _ = golden
    assert {str(category_id) for category_id in metrics.per_class} == set(expected["per_category"])
    for category_id, row in metrics.per_class.items():
        official = expected["per_category"][str(category_id)]
        assert row["name"] == official.pop("name")
        got = {name: row[name] for name in official}
        assert got == pytest.approx(official, rel=0, abs=TOLERANCE)


def test_every_threshold(golden, metrics):
    _, expected, _ = golden
    for name, table in (("ap_per_iou", metrics.precision), ("ar100_per_iou", metrics.recall)):
        for of_threshold, official in zip(table[..., 0, 2], expected[name].values(), strict=True):
            valid = of_threshold[of_threshold > -1]
            assert valid.mean() == pytest.approx(official, rel=0, abs=TOLERANCE)


@pytest.mark.parametrize("name", ["precision", "recall", "scores"])
def test_every_array_entry(golden, metrics, name):
    np.testing.assert_allclose(getattr(metrics, name), golden[2][name], rtol=0, atol=TOLERANCE)


def test_every_iou(golden):
    files, _, arrays = golden
    got, official = pairwise_ious(*files), arrays["iou_table"]
    assert got.shape == official.shape
    order = [np.lexsort(table.T[:4]) for table in (got, official)]
    np.testing.assert_allclose(got[order[0]], official[order[1]], rtol=0, atol=TOLERANCE)


def test_parsed_json_scores_like_the_files(golden, metrics):
    contents = [json.loads(path.read_text()) for path in golden[0]]
    assert evaluate(*contents).to_dict() == metrics.to_dict()


def test_the_case_worked_by_hand():
    """Category 1 is TP FP over two instances from IoU 0.70 on, category 2 fails above 0.75."""
    case = CASES[0]
    stats = evaluate(case / "gt.json", case / "results.json").stats
    ap_1 = (4 + 6 * 51 / 101) / 10
    assert stats["AP"] == pytest.approx((ap_1 + 6 / 10) / 2)
    assert stats["AP75"] == pytest.approx((51 / 101 + 1) / 2)
    assert stats["AR1"] == stats["AR100"] == pytest.approx((0.7 + 0.6) / 2)
    assert stats["APs"] == stats["AP"]
    assert stats["APm"] == stats["APl"] == stats["ARl"] == -1
