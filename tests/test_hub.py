"""The hub, through its real client, against a small server on this machine that answers as the hub does."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from hub_server import COMMIT, Hub, run, serve

LIST_HINT = "`headstart backbones` lists those with weights here."
GIVE_HINT = "Give the weights with --weights FILE.safetensors or --weights-dir DIR"
CFG = {"input_size": [3, 160, 160], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "license": "apache-2.0"}
REPO = "timm/test_resnet.r160_in1k"
NAME = "test_resnet.r160_in1k"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    yield from serve(tmp_path / "hub")


FETCH = f"fetch({REPO!r}, 'model.safetensors', 'main', {NAME!r}, False)"
TOLD_FETCH = f"told(fetch, {REPO!r}, 'model.safetensors', 'main', {NAME!r}, False)"


@pytest.fixture
def content(hub: Hub) -> bytes:
    content = save({"x": np.arange(300_000, dtype=np.float32)})
    hub.put(REPO, "model.safetensors", content)
    return content


def test_downloads_once(hub: Hub, content: bytes, tmp_path: Path) -> None:
    out = run(hub, f"out = [str({FETCH}), str({FETCH})]", tmp_path)
    assert out[0] == out[1]
    assert Path(out[0]).read_bytes() == content
    assert [method for method, _, _ in hub.requests if method == "GET"] == ["GET"]
    hub.requests.clear()
    assert run(hub, f"out = str({FETCH})", tmp_path) == out[0]
    assert hub.requests == []


def test_a_download_that_is_cut_off_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    large = save({"x": np.arange(6_000_000, dtype=np.float32)})
    hub.put(REPO, "model.safetensors", large)
    hub.cut.add("model.safetensors")
    found = run(hub, f"out = str({FETCH})", tmp_path)
    assert Path(found).read_bytes() == large
    first, second = hub.got("model.safetensors")
    assert first[2] == ""
    assert (
        second[2] == "bytes=10485760-"
    )  # of the 12 MB that came, what the client had written: it writes 10 MiB at a time


def test_offline_asks_nobody(hub: Hub, content: bytes, tmp_path: Path) -> None:
    offline = f"forbid_sockets(); out = told(fetch, {REPO!r}, 'model.safetensors', 'main', {NAME!r}, "
    message = f"{NAME}: its weights are not on this machine, and offline mode downloads nothing.\n  {GIVE_HINT}, or "
    out = run(hub, offline + "True)", tmp_path)
    assert out == {"error": "MissingWeights", "text": f"{message}run once without --offline. {LIST_HINT}"}
    out = run(hub, offline + "False)", tmp_path, HF_HUB_OFFLINE="1")
    assert out == {"error": "MissingWeights", "text": f"{message}unset HF_HUB_OFFLINE. {LIST_HINT}"}
    assert hub.requests == []
    found = run(hub, f"out = str({FETCH})", tmp_path)
    hub.requests.clear()
    assert run(hub, offline + "True)", tmp_path) == {"found": found}
    assert run(hub, offline + "False)", tmp_path, HF_HUB_OFFLINE="1") == {"found": found}
    assert hub.requests == []


def test_the_socket_trap_works(hub: Hub, content: bytes, tmp_path: Path) -> None:
    out = run(hub, f"forbid_sockets(); out = {TOLD_FETCH}", tmp_path)
    assert out["error"] == "NoAnswer"
    assert "(socket.getaddrinfo" in out["text"]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_is_used(hub: Hub, content: bytes, tmp_path: Path, variable: str) -> None:
    """The hub's name leads nowhere, so the file can only have come through the proxy."""
    nowhere = "http://hub.headstart.invalid"
    found = run(hub, f"out = str({FETCH})", tmp_path, HF_ENDPOINT=nowhere, **{variable: hub.address})
    assert Path(found).read_bytes() == content
    assert {address for _, address, _ in hub.requests} == {f"{nowhere}/{REPO}/resolve/main/model.safetensors"}


@pytest.mark.parametrize(
    ("status", "code", "reason", "advice"),
    [
        (
            401,
            "RepoNotFound",
            "there is no such repository, or it is not public (HTTP 401)",
            "log in with `hf auth login`",
        ),
        (
            404,
            "RepoNotFound",
            "there is no such repository, or it is not public (HTTP 404)",
            "log in with `hf auth login`",
        ),
        (
            403,
            "GatedRepo",
            "it is gated, so its terms must be accepted first (HTTP 403)",
            "accept them on its page and log in with `hf auth login`",
        ),
        (418, "", "the hub answered HTTP 418", "try again later"),
    ],
)
def test_refusals(hub: Hub, tmp_path: Path, status: int, code: str, reason: str, advice: str) -> None:
    hub.refused[REPO] = (status, code)
    assert run(hub, f"out = {TOLD_FETCH}", tmp_path) == {
        "error": "MissingWeights",
        "text": f"{NAME}: its weights are not on this machine, and {REPO} could not be downloaded: {reason}.\n"
        f"  {GIVE_HINT}, or {advice}. {LIST_HINT}",
    }


def test_nobody_answers(hub: Hub, tmp_path: Path) -> None:
    """Told at once: the client alone would ask again and again, with 23 s between its attempts."""
    address = "http://127.0.0.1:9"
    out = run(
        hub,
        f"import time; slept = []; time.sleep = slept.append; out = {TOLD_FETCH}; out['slept'] = sum(slept)",
        tmp_path,
        HF_ENDPOINT=address,
    )
    assert out["slept"] < 10
    assert out["error"] == "NoAnswer"
    assert out["text"].startswith(
        f"{NAME}: its weights are not on this machine, and {REPO} could not be downloaded: no answer from {address} ("
    )
    assert out["text"].endswith(f").\n  {GIVE_HINT}, or check the network and try again. {LIST_HINT}")


def test_a_cache_that_cannot_be_written(hub: Hub, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "hf").write_text("a file in the way")
    out = run(hub, f"out = {TOLD_FETCH}", tmp_path)
    assert out["error"] == "WriteError"
    assert out["text"].startswith(f"{tmp_path / 'hf' / 'hub'}: the hub's cache could not be written: ")


def test_a_file_the_repository_does_not_have(hub: Hub, content: bytes, tmp_path: Path) -> None:
    out = run(hub, f"out = told(fetch, {REPO!r}, 'config.json', 'main', {NAME!r}, False)", tmp_path)
    assert out == {"found": "None"}


# ------------------------------------------------------------------------- where no backbone is named, and none is here
STARTER = "timm/mobilenetv2_100.ra_in1k"
CHOICE = """
import logging
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
notes = []
logging.getLogger("headstart").addFilter(lambda record: notes.append(record.getMessage()) or True)
def choice(**options):
    return [(b.name, b.source) for b in to_choose_from(WeightsSource(**options))]
"""
LAST_RESORT = [["mobilenetv2_050.headstart", "embedded"]]
NONE_HERE = "No weights on this machine: "


@pytest.fixture
def starter(hub: Hub) -> None:
    """The hub has that one: the true network, random weights."""
    import timm
    from safetensors.torch import save as save_torch

    model = timm.create_model("mobilenetv2_100", pretrained=False)
    spec = {"architecture": "mobilenetv2_100", "pretrained_cfg": {**CFG, "classifier": "classifier"}}
    hub.put(STARTER, "config.json", json.dumps(spec).encode())
    hub.put(STARTER, "model.safetensors", save_torch(model.state_dict()))


def test_one_is_downloaded_where_there_is_none(hub: Hub, starter: None, tmp_path: Path) -> None:
    assert run(hub, CHOICE + "out = choice(offline=True)", tmp_path) == LAST_RESORT
    assert hub.requests == []
    assert run(hub, CHOICE + "out = choice(max_download=10)", tmp_path) == LAST_RESORT
    assert hub.requests == []
    first = run(hub, CHOICE + "out = {'found': choice(), 'notes': notes[:1]}", tmp_path)
    assert first["found"] == [["mobilenetv2_100.ra_in1k", "hub"]]
    assert first["notes"] == [f"{NONE_HERE}downloading mobilenetv2_100.ra_in1k (14 MB, once)."]
    asked = len(hub.requests)
    assert len(hub.got("model.safetensors")) == 1
    again = run(hub, CHOICE + "out = {'found': choice(offline=True), 'notes': notes}", tmp_path)
    assert again == {"found": first["found"], "notes": []}  # at hand from now on
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "no answer from http://127.0.0.1:9 ("),
        pytest.param(
            {"HF_ENDPOINT": "silent", "HF_HUB_ETAG_TIMEOUT": "2"},
            "no answer from http://127.0.0.1:",
            marks=pytest.mark.slow,
        ),
        pytest.param({"HF_HOME": "file in the way"}, "the hub's cache could not be written: ", marks=pytest.mark.slow),
        ({}, "there is no such repository, or it is not public (HTTP 404)"),
    ],
)
def test_or_the_embedded_one_saying_why(hub: Hub, tmp_path: Path, environment: dict[str, str], reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing, as some firewalls do
        if environment.get("HF_ENDPOINT") == "silent":
            environment = {**environment, "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        if "HF_HOME" in environment:
            hub.put(STARTER, "config.json", b"{}")
            (tmp_path / "file").touch()
            environment = {"HF_HOME": str(tmp_path / "file")}
        code = "import time; slept = []; time.sleep = slept.append\n"
        code += "out = {'found': choice(), 'notes': notes, 'slept': sum(slept)}"
        out = run(hub, CHOICE + code, tmp_path, **environment)
    assert out["found"] == LAST_RESORT
    assert out["slept"] < 10
    _, why, resort = out["notes"]
    assert reason in why
    assert resort.startswith(f"{NONE_HERE}using the small, weak built-in backbone. A linear head on it")
    assert resort.endswith(
        "For a stronger one, run it once with an internet connection, and neither --offline nor --max-download 0; for an "
        "offline machine, see `headstart bundle`."
    )


@pytest.mark.slow
def test_a_comparison_asks_the_hub_once(hub: Hub, tmp_path: Path, photos: Path) -> None:
    """Its trials, which are processes of their own, are told that it had nothing."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text("approach = 'linear'\n")
    recipes = ",".join(str(tmp_path / f"{name}.toml") for name in ("one", "two"))
    code = f"""
from headstart import compare
found = compare({str(photos)!r}, out={str(tmp_path / "out")!r}, recipes={recipes!r}, budget="5m")
out = [[row.error, row.backbones] for row in found.rows]
"""
    assert run(hub, code, tmp_path) == [["", "mobilenetv2_050.headstart"]] * 2
    asked = Counter(address for _, address, _ in hub.requests)
    assert f"/{STARTER}/resolve/main/config.json" in asked
    assert set(asked.values()) == {2}  # whether it is there, and the download


# ----------------------------------------------------------------------------- by name, with timm: one process for all
@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Hub]]:
    """One fresh process that finds several backbones one after the other: what each gave, and what was asked for."""
    folder = tmp_path_factory.mktemp("story")
    for hub in serve(folder / "hub"):
        for name in ("test_resnet", "test_vit", "test_convnext", "test_nfnet"):
            config = {"architecture": name, "pretrained_cfg": CFG}
            hub.put(f"timm/{name}.r160_in1k", "config.json", json.dumps(config).encode())
        hub.put("timm/test_vit.r160_in1k", "model.safetensors", b"\x80\x04\x95cos\nsystem\n.")
        hub.put("timm/test_convnext.r160_in1k", "pytorch_model.bin", b"\x80\x04K\x01.")
        hub.put("timm/test_nfnet.r160_in1k", "model.safetensors", save({"x": np.zeros(3)}))
        code = f"""
import timm, torch
from safetensors.torch import save_file
seen = []
sys.addaudithook(lambda event, args: event == "pickle.find_class" and seen.append(str(args)))
served = {str(folder / "hub" / REPO / "model.safetensors")!r}
state = timm.create_model("test_resnet", pretrained=False).state_dict()
save_file(state, served)
first = find_backbone("test_resnet.r160_in1k")
out = {{
    "first": repr(first),
    "again": repr(find_backbone("test_resnet.r160_in1k")),
    "bare": repr(find_backbone("test_resnet")),
    "offline": repr(find_backbone("test_resnet", WeightsSource(offline=True))),
    "here": [found.name for found in at_hand()],
    "weights": str(first.weights),
    "same": all(torch.equal(v, state[k]) for k, v in build(first).state_dict().items()),
    "feature_dim": first.feature_dim,
    "pickle": told(find_backbone, "test_vit"),
    "only bin": told(find_backbone, "test_convnext"),
    "no repository": told(find_backbone, "test_byobnet"),
    "other network": told(build, find_backbone("test_nfnet")),
    "unpickled": seen,
}}
"""
        yield run(hub, code, folder), hub


def test_found_on_the_hub_then_in_its_cache(story: tuple[Any, Hub]) -> None:
    out, hub = story
    assert out["first"] == out["again"] == out["bare"] == out["offline"]
    assert f"source='hub', weights=PosixPath('{out['weights']}')" in out["first"] or os.name == "nt"
    assert f"name='{NAME}', architecture='test_resnet', model_args=()" in out["first"]
    assert f"origin='hub: {REPO} at {COMMIT[:12]}'" in out["first"]
    assert "image_size=160" in out["first"]
    assert [entry[1] for entry in hub.got("model.safetensors") if REPO in entry[1]] == [
        f"/{REPO}/resolve/{COMMIT}/model.safetensors"
    ]
    assert out["same"]
    assert out["feature_dim"] == 96


def test_at_hand_lists_what_the_cache_has_and_can_be_used(story: tuple[Any, Hub]) -> None:
    assert story[0]["here"] == [NAME]


def test_a_pickle_under_the_name_of_safetensors_is_refused(story: tuple[Any, Hub]) -> None:
    told = story[0]["pickle"]
    assert told["error"] == "BadWeights"
    assert (
        "model.safetensors: is a pickle (protocol 4), not safetensors.\n  Only safetensors are loaded." in told["text"]
    )


def test_pickles_are_not_even_fetched(story: tuple[Any, Hub]) -> None:
    out, hub = story
    assert out["only bin"] == {
        "error": "MissingWeights",
        "text": "test_convnext.r160_in1k: timm/test_convnext.r160_in1k on the hub has no model.safetensors; its other"
        f" formats can be pickles, which are not loaded.\n  {GIVE_HINT}, or choose another backbone. {LIST_HINT}",
    }
    assert not [address for _, address, _ in hub.requests if not address.endswith((".safetensors", "config.json"))]
    assert out["unpickled"] == []


def test_a_repository_that_is_not_there(story: tuple[Any, Hub]) -> None:
    told = story[0]["no repository"]
    assert told["error"] == "MissingWeights"
    assert told["text"].startswith(
        "test_byobnet.r160_in1k: its weights are not on this machine, and timm/test_byobnet.r160_in1k could not be"
        " downloaded: there is no such repository, or it is not public (HTTP 404).\n"
    )


def test_weights_on_the_hub_that_do_not_fit(story: tuple[Any, Hub]) -> None:
    told = story[0]["other network"]
    assert told["error"] == "BadWeights"
    assert "these are not the weights of test_nfnet: " in told["text"]
