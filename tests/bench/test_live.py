"""The live bench counts every frame that comes, computed or dropped."""

from __future__ import annotations

import json

import pytest

from bench import live


def test_a_short_run_is_reported(tmp_path, capsys):
    out = tmp_path / "live.json"
    film = tmp_path / "live.mp4"
    live.main(live.Options(frames=20, height=36, width=64, threads=1, out=out, film=film))
    told = json.loads(out.read_text())
    assert told["frames"] == 20 and told["dropped"] == 0 and len(told["peak_mib"]) == 10
    assert 0 < told["latency_ms_p50"] <= told["latency_ms_p99"]
    assert told["p99_over_p50"] >= 1 and told["memory_mib_start"] <= told["memory_mib_end"] * 1.2
    assert film.exists() and told["processor_ms_a_frame_of_film"] > 0
    assert "20 frames at" in capsys.readouterr().out


def test_frames_that_come_too_fast_are_dropped_and_counted():
    source = live.DrawnSource(live.Options(frames=100, height=36, width=64, rate=500.0))
    source._begin -= 0.05  # 25 frames have come
    frame = source.take()
    assert frame is not None and source.dropped == frame.dropped >= 24
    following = source.take()
    assert following is not None and following.arrived > frame.arrived


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="preset must be one of demo, mini"):
        live.Options(preset="r500")
