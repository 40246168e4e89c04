"""The side-by-side of exported files runs, and prints a line per side."""

from bench.export import Options, main


def test_sides_are_printed(capsys):
    size = {"backbone": "resnet_mini", "frames": 1, "height": 64, "width": 64}
    main(Options(**size, chunks=1, rounds=1, sides=("eager",)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "resnet_mini, 1 x 64x64, 1 threads" and len(lines) == 3
    name, ready, chunk, share, peak = lines[2].split()
    assert name == "eager" and float(ready) > 0 and float(chunk) > 0 and float(peak) > 10
    assert float(share) == 1
