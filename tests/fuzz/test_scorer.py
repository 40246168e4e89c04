"""A few hundred damaged files through the C code of scoring, under the address sanitiser."""

from __future__ import annotations

import pytest

from tests.fuzz import scorer


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    if scorer.compiler() is None:
        pytest.skip("no C compiler")
    try:
        return scorer.build(tmp_path_factory.mktemp("harness"))
    except RuntimeError as error:
        if "asan" in str(error) or "ubsan" in str(error):
            pytest.skip("the compiler comes without its sanitisers")
        raise


def test_nothing_is_read_out_of_bounds(harness, tmp_path):
    line = scorer.run(harness, tmp_path, 0, 400, seed=0)
    counts = [int(word) for word in line.replace(":", " ").split() if word.isdigit()]
    assert counts[0] == 400 and min(counts[1:]) > 30, line  # damaged, but not beyond all reading
