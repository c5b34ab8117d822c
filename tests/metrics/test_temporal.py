"""The moment that a clip's map finds."""

from __future__ import annotations

import torch

import attention_refine as ar
from attention_refine.evaluation.measures import measure_maps


def masks(*frames: str) -> torch.Tensor:
    """A clip a word: o a frame with the object, . one without, ? one of which nothing is known."""
    values = {"o": 1, ".": 0, "?": 255}
    clips = [[values[frame] for frame in clip] for clip in frames]
    found = torch.zeros(len(frames), 1, len(frames[0]), 6, 8, dtype=torch.uint8)
    found[..., 2:4, 3:5] = torch.tensor(clips, dtype=torch.uint8)[:, None, :, None, None]
    return found


def peak(*at: int, frames: int = 4) -> torch.Tensor:
    maps = torch.full((len(at), 1, frames, 3, 4), 0.1)
    for row, frame in enumerate(at):
        maps[row, 0, frame] = 0.2
    return maps


def test_the_frame_with_most_of_the_map_is_the_one_that_counts():
    found = ar.metrics.temporal_pointing(peak(1, 3, 0), masks(".o..", ".o..", "oo.."))
    assert found.tolist() == [1, 0, 1]


def test_one_bright_cell_is_less_than_a_bright_frame():
    maps = peak(1)
    maps[0, 0, 3, 0, 0] = 1.0
    assert ar.metrics.temporal_pointing(maps, masks(".o..")).tolist() == [1]


def test_a_clip_without_a_moment_has_no_value():
    found = ar.metrics.temporal_pointing(peak(1, 1, 1), masks("oooo", "....", "o?oo"))
    assert found.isnan().all()


def test_an_unknown_frame_is_not_pointed_at():
    found = ar.metrics.temporal_pointing(peak(0, 0), masks("?o..", "?.o."))
    assert found.tolist() == [1, 0], "of equal frames the first that is known"
    maps = peak(0)
    maps[0, 0, 2] = 0.15
    assert ar.metrics.temporal_pointing(maps, masks("?.o.")).tolist() == [1]


def test_maps_of_other_sizes_and_batches():
    maps, mask = torch.rand(5, 1, 2, 3, 4), masks("o...o...", ".o......", "..oo....", "....oooo", "oooooooo")
    together = ar.metrics.temporal_pointing(maps, mask)
    apart = torch.cat([ar.metrics.temporal_pointing(maps[i : i + 1], mask[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, apart, equal_nan=True)
    assert together.isnan().tolist() == [False] * 4 + [True]


def test_an_evaluation_measures_clips_and_has_nothing_for_pictures():
    asked = {"temporal_pointing": {}, "energy_inside": {}}
    right = torch.ones(2, dtype=torch.bool)
    found = measure_maps(asked, peak(1, 3), masks(".o..", ".o.."), None, right)
    assert found["temporal_pointing"].tolist() == [1, 0] and not found["energy_inside"].isnan().any()
    pictures = measure_maps(asked, torch.rand(2, 1, 3, 4), masks("oo")[0, 0][:, None], None, right)
    assert pictures["temporal_pointing"].isnan().all()
    assert "temporal_pointing" in ar.list_measures()
