"""Where weights come from, as one argument: paths that do for it, and verbs that take no single file."""

from __future__ import annotations

from pathlib import Path

import pytest

import headstart
from headstart.errors import BackboneError
from headstart.model.backbones.registry import at_hand, to_choose_from
from headstart.model.backbones.weights_source import WeightsSource, as_weights_source


def test_a_path_is_the_file_or_the_folder_that_it_is(tmp_path: Path) -> None:
    (tmp_path / "odd").touch()
    source = WeightsSource(offline=True)
    assert as_weights_source(source) is source
    assert as_weights_source(str(tmp_path)) == WeightsSource(folder=tmp_path)
    assert as_weights_source(tmp_path / "gone") == WeightsSource(folder=tmp_path / "gone")
    assert as_weights_source(tmp_path / "gone.safetensors") == WeightsSource(file=tmp_path / "gone.safetensors")
    assert as_weights_source(tmp_path / "odd") == WeightsSource(file=tmp_path / "odd")


def test_a_file_goes_before_all_else(tiny_weights: Path) -> None:
    file = tiny_weights / "test_resnet.a.safetensors"
    for source in (WeightsSource(file=file), WeightsSource(file=file, folder=tiny_weights / "gone")):
        assert [b.weights for b in at_hand(source)] == [b.weights for b in to_choose_from(source)] == [file]
    assert len(at_hand(WeightsSource(folder=tiny_weights))) > 1


@pytest.mark.parametrize("verb", ["backbones", "compare", "demo"])
def test_verbs_that_look_at_several_take_no_single_file(verb: str, photos: Path, tmp_path: Path) -> None:
    words = {"backbones": (), "compare": (photos,), "demo": ()}[verb]
    out = {} if verb == "backbones" else {"out": tmp_path / "out"}
    with pytest.raises(BackboneError) as caught:
        getattr(headstart, verb)(*words, weights="one.safetensors", **out)
    assert str(caught.value) == (
        "one.safetensors: is a weights file, expected a folder of weights.\n"
        "  Give the folder that holds NAME.safetensors and NAME.json for each backbone."
    )
    assert not list(tmp_path.iterdir())
