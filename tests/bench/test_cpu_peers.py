"""The side-by-side of CPU operators runs, compares and prints every call."""

from bench.cpu_peers import Options, main


def test_every_side_of_every_call_is_printed(capsys):
    main(Options(frames=1, height=64, width=64, queries=5, rounds=1))
    lines = capsys.readouterr().out.splitlines()[1:]
    ours = [line for line in lines if ": ours " in line]
    kinds = [f"{part} {way}" for part in ("encoder", "decoder") for way in ("forward", "both ways")]
    assert [line.partition(":")[0] for line in ours] == kinds
    assert all(line.endswith(" 1.0 of ours") for line in ours)
    assert sum(": grid_sample " in line for line in lines) == 4
