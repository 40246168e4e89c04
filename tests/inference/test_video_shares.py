"""How videos are shared among processes."""

from seqformer.inference.video_shares import balanced_shares


def test_shares_are_balanced_by_length():
    lengths = [5, 100, 7, 60, 50, 8, 0, 30]
    shares = balanced_shares(lengths, 3)
    assert sorted(i for share in shares for i in share) == list(range(8))
    assert all(share == sorted(share) for share in shares)
    loads = [sum(lengths[i] for i in share) for share in shares]
    assert max(loads) == 100 and min(loads) >= 78
    assert balanced_shares(lengths, 1) == [list(range(8))]
    assert balanced_shares([], 2) == [[], []]
