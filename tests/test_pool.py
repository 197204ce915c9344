"""The pool of backbones: what suits a task, and its downloads through the hub's real client from a small server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

import headstart
from headstart.errors import BackboneError
from headstart.model.backbones.pool import PoolEntry, PoolTask, is_commercial, read_pool, to_take
from hub_server import Hub, run, serve


def entry(name: str, mb: float, gmacs: float = 1.0, licence: str = "mit") -> PoolEntry:
    return PoolEntry(name, "", licence, int(mb * 250_000), mb, 224, gmacs, pace=1.0)


TABLE = (
    entry("quick", 10, 0.1),
    entry("first", 20),
    entry("second", 15),
    entry("third", 12),
    entry("middle", 100, 10),
    entry("forbidden", 90, licence="cc-by-nc-4.0"),
    entry("large", 300, 100),
)
TASK = PoolTask(seconds=600, images=100, speed=100, most_mb=500)


def taken(table: tuple[PoolEntry, ...] = TABLE, here: tuple[str, ...] = (), **changed: float) -> list[str]:
    return [e.name for e in to_take(table, replace(TASK, **changed), here)]


# --------------------------------------------------------------------------------------------------- what suits a task
def test_all_tiers_where_there_is_time_the_first_of_each_and_small_files_first() -> None:
    assert taken() == ["quick", "second", "first", "middle", "large"]


def test_large_ones_only_if_they_embed_all_images_in_time() -> None:
    assert taken(images=300) == ["quick", "second", "first", "middle"]
    assert taken(images=3_000) == ["quick", "second", "first"]
    assert taken(speed=3) == ["quick", "second", "first"]
    assert taken(images=1_000_000) == ["quick"]  # none is fast enough, so it is the fastest
    assert taken(seconds=1) == ["quick"]


def test_more_time_or_a_faster_machine_never_takes_fewer() -> None:
    for change in ("seconds", "speed"):
        counts = [len(taken(read_pool(), images=2_000, **{change: value})) for value in (10, 60, 240, 600, 1800, 7200)]
        assert counts == sorted(counts) and counts[0] >= 1


def test_downloads_stay_below_the_limit_and_what_is_here_is_free() -> None:
    assert taken(most_mb=45) == ["quick", "second", "first"]
    assert taken(most_mb=44) == ["quick", "third", "first"]  # the next of its size instead
    assert taken(most_mb=9) == []
    assert taken(most_mb=9, here=("middle",)) == ["middle"]


def test_a_licence_that_forbids_commercial_use_is_never_taken() -> None:
    assert taken((TABLE[5],)) == []
    assert not any(
        is_commercial(name) for name in ("cc-by-nc-4.0", "fair-noncommercial-research-license", "apple-amlr")
    )
    assert all(is_commercial(name) for name in ("apache-2.0", "mit", "bsd-3-clause"))


def test_the_facts_of_the_table_agree_with_timm() -> None:
    """The names are timm's, with safetensors on the hub, and licence and input size are those that timm states."""
    import timm

    known = set(timm.list_pretrained())
    for e in read_pool():
        assert e.name in known
        cfg = timm.get_pretrained_cfg(e.name)
        assert (cfg.hf_hub_id, cfg.license, max(cfg.input_size[1:])) == (f"timm/{e.name}", e.licence, e.px)
        assert 2e6 < e.parameters < 90e6
        assert e.mb == pytest.approx(4 * e.parameters / 1e6, rel=0.02)


def test_an_ordinary_budget_on_a_laptop_takes_several_kinds_of_pretraining_within_the_default_limit() -> None:
    chosen = to_take(read_pool(), PoolTask(seconds=600, images=1_000, speed=200, most_mb=500))
    assert len({e.pretraining for e in chosen}) >= 3
    assert sum(e.mb for e in chosen) <= 500
    assert all(is_commercial(e.licence) for e in chosen)


def test_a_limit_that_is_no_number_of_megabytes() -> None:
    for value in (-1, float("nan"), "1 GB"):
        with pytest.raises(BackboneError, match=f"max_download {value!r} is not a number of megabytes"):
            headstart.WeightsSource(max_download=value)  # type: ignore[arg-type]


def test_the_verb_lists_the_pool_with_estimates_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = headstart.backbones(pool=True)
    assert "of them (" in found.table() and "convnext_tiny.in12k_ft_in1k" in found.table()
    rows = found.to_json()["pool"]
    assert [row["mb"] for row in rows] == sorted(row["mb"] for row in rows)
    assert sum(row["mb"] for row in rows if row["taken"] and not row["here"]) <= 500
    assert all(row["seconds_per_1000"] > 0 for row in rows)
    taken = {row["name"]: row["taken"] for row in rows}
    for pattern in ("convnext", "*next*in12k*"):
        some = headstart.backbones(pattern, pool=True).to_json()["pool"]
        assert "convnext_tiny.in12k_ft_in1k" in {row["name"] for row in some}
        assert {row["name"]: row["taken"] for row in some}.items() < taken.items()


# ------------------------------------------------------------------------------------------- downloads: one process for all
SMALL = ("test_resnet.r160_in1k", "test_vit.r160_in1k", "test_convnext.r160_in1k", "test_nfnet.r160_in1k")
RESNET, VIT, CONVNEXT, NFNET = SMALL
STORY = """
import logging, shutil
from huggingface_hub import constants
from headstart.model.backbones.pool import PoolEntry
from headstart.model.backbones.pool_downloads import candidates

notes = []
logging.getLogger("headstart").addFilter(lambda record: notes.append(record.getMessage()) or True)
logging.getLogger("headstart").setLevel(logging.INFO)
def entry(name, mb, licence="mit"):
    return PoolEntry(name, "", licence, 1, mb, 160, 0.01)

SIZES = {"resnet": 10.0, "vit": 11.0, "convnext": 12.0, "nfnet": 100.0}
POOL = [entry(f"test_{name}.r160_in1k", mb) for name, mb in SIZES.items()]

def story(pool=POOL, *, fresh=True, seconds=600, **options):
    if fresh:
        shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    notes.clear()
    found = candidates(WeightsSource(**options), budget_seconds=seconds, images=10, pool=pool)
    return {"names": sorted(b.name for b in found), "notes": [n for n in notes if ": weights from " not in n]}
"""
SCENES = """
out = {}
out["all"] = story()
out["again"] = story(fresh=False)
out["offline"] = story(fresh=False, offline=True)
out["offline, none here"] = story(offline=True)
out["little"] = story(max_download=25)
out["then more"] = story(fresh=False)
out["nothing"] = story(max_download=0)
out["too full a disk"] = story([entry(%(resnet)r, 10.0), entry(%(nfnet)r, 1e9)], max_download=10**10)
out["forbidden"] = story([entry(%(resnet)r, 10.0), entry(%(vit)r, 9.0, "cc-by-nc-4.0")])
out["half is missing"] = story([entry("test_efficientnet.r160_in1k", 8.0), entry("not_in_this_timm.in1k", 9.0), *POOL])
out["slow"] = story([entry(%(vit)r, 10.0), entry(%(nfnet)r, 100.0)], seconds=40)
find_backbone(%(forbidding)r)
out["forbidden here"] = story(fresh=False)
out["in an empty folder"] = story(fresh=False, folder=%(empty)r)
out["in a folder"] = story(fresh=False, folder=%(folder)r)
out["in an empty folder, none here"] = story(folder=%(empty)r)
find_backbone(%(forbidding)r)
out["only a forbidden one"] = story(fresh=False, offline=True)
out["without a budget"] = [(b.name, b.source) for b in to_choose_from(WeightsSource(offline=True))]
out["without a budget, in a folder"] = [b.name for b in to_choose_from(WeightsSource(folder=%(folder)r, offline=True))]
"""
FORBIDDING, OWN = "test_vit2.r160_in1k", "test_vit3.r160_in1k"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What one process found and noted in each scene."""
    folder = tmp_path_factory.mktemp("pool")
    (folder / "empty").mkdir()
    (folder / "own").mkdir()
    for hub in serve(folder / "hub"):
        for name in SMALL:
            put(hub, name)
        put(hub, FORBIDDING, "cc-by-nc-4.0")
        for name, licence in ((RESNET, "mit"), (OWN, "cc-by-nc-4.0")):
            described, weights = contents(name, licence)
            (folder / "own" / f"{name}.json").write_bytes(described)
            (folder / "own" / f"{name}.safetensors").write_bytes(weights)
        hub.slow[f"timm/{VIT}"] = 1.0
        values = {"resnet": RESNET, "vit": VIT, "nfnet": NFNET, "forbidding": FORBIDDING}
        yield run(
            hub, STORY + SCENES % (values | {"empty": str(folder / "empty"), "folder": str(folder / "own")}), folder
        )


def contents(name: str, licence: str) -> tuple[bytes, bytes]:
    """The config and the weights of a backbone."""
    cfg = {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.5] * 3, "license": licence}
    spec = {"architecture": name.partition(".")[0], "pretrained_cfg": cfg}
    return json.dumps(spec).encode(), save({"fc.weight": np.zeros((2, 3), np.float32)})


def put(hub: Hub, name: str, licence: str = "mit") -> None:
    described, weights = contents(name, licence)
    hub.put(f"timm/{name}", "config.json", described)
    hub.put(f"timm/{name}", "model.safetensors", weights)


THREE = "test_resnet.r160_in1k (10 MB, mit), test_vit.r160_in1k (11 MB, mit), test_convnext.r160_in1k (12 MB, mit)"


def test_downloads_are_said_beforehand_with_names_and_sizes(told: dict[str, Any]) -> None:
    assert told["all"]["names"] == sorted(SMALL)
    assert told["all"]["notes"] == [
        "No weights on this machine: downloading 4 backbones from the hub's pool, 133 MB in all, once "
        f"(--max-download 500): {THREE}, test_nfnet.r160_in1k (100 MB, mit)."
    ]


def test_what_is_here_is_not_asked_for_again_and_offline_uses_it(told: dict[str, Any]) -> None:
    assert told["again"] == told["offline"] == {"names": sorted(SMALL), "notes": []}


def test_offline_and_a_limit_of_zero_use_the_embedded_one(told: dict[str, Any]) -> None:
    for scene in ("offline, none here", "nothing"):
        assert told[scene]["names"] == ["mobilenetv2_050.headstart"]
        assert "using the small, weak built-in backbone" in told[scene]["notes"][0]


def test_a_limit_is_kept_and_a_higher_one_adds_to_what_is_here(told: dict[str, Any]) -> None:
    assert told["little"]["names"] == [RESNET, VIT]
    assert told["then more"]["names"] == sorted(SMALL)
    assert told["then more"]["notes"][0].startswith("More weights suit this budget: downloading 2 backbones from")


def test_a_disk_without_room_is_said_and_what_fits_is_taken(told: dict[str, Any]) -> None:
    assert told["too full a disk"]["names"] == [RESNET]
    assert "its disk has room for " in told["too full a disk"]["notes"][0]


def test_the_missing_half_is_named_and_replaced(told: dict[str, Any]) -> None:
    assert told["half is missing"]["names"] == sorted(SMALL)
    first, why, others = told["half is missing"]["notes"]
    assert "not_in_this_timm.in1k (9 MB, mit)" in first
    assert why.startswith(
        "test_efficientnet.r160_in1k: its weights are not on this machine, and timm/test_efficientnet."
    )
    assert "could not be downloaded" in why
    assert others == "not_in_this_timm.in1k could not be downloaded either."


def test_a_slow_hub_ends_the_downloads(told: dict[str, Any]) -> None:
    assert told["slow"]["names"] == [VIT]
    assert told["slow"]["notes"][-1].startswith("The hub is slow (10 MB in ")
    assert told["slow"]["notes"][-1].endswith(" (100 MB) is not downloaded within this budget.")


def test_forbidding_licences_are_used_only_if_named(told: dict[str, Any]) -> None:
    assert told["forbidden"]["names"] == [RESNET]
    assert FORBIDDING not in told["forbidden here"]["names"]
    assert (
        told["forbidden here"]["notes"][0]
        == told["only a forbidden one"]["notes"][0]
        == f"Not used unless named, because of their licence: {FORBIDDING} (cc-by-nc-4.0)."
    )
    assert told["only a forbidden one"]["names"] == ["mobilenetv2_050.headstart"]
    assert told["without a budget"] == [["mobilenetv2_050.headstart", "embedded"]]


def test_who_gives_a_folder_has_chosen_what_is_in_it_but_not_what_is_in_the_hubs_cache(told: dict[str, Any]) -> None:
    assert told["in a folder"]["names"] == sorted([*told["in an empty folder"]["names"], OWN])
    assert FORBIDDING not in told["in a folder"]["names"] and RESNET in told["in a folder"]["names"]
    assert sorted(told["without a budget, in a folder"]) == [RESNET, OWN]
    assert told["in an empty folder, none here"]["names"] == ["mobilenetv2_050.headstart"]
    assert not any("downloading" in n for s in told if "folder" in s and "budget" not in s for n in told[s]["notes"])
