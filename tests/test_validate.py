"""The sandbox: facts, what is remembered, and workers that crash, spin and talk nonsense; all with real processes."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from conftest import PATIENCE
from headstart.errors import HeadstartError, UnreadableImage
from headstart.images.decode import decode
from headstart.images.file_part import FilePart
from headstart.images.image_refs import read_image
from headstart.images.info_cache import MAX_SHARDS, add_infos, find_infos
from headstart.images.limits import REASONS
from headstart.images.validate import ImageInfo, validate_images, validate_with, worker_command
from headstart.images.validate_worker import dhash, greys
from headstart.io.files import sha256_bytes

needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and permissions")

MISCHIEF = """
import sys
sys.path += sys.argv[2:]
import os, signal, time
from headstart.images import validate_worker

def look(path, sha256):
    name = os.path.basename(path)
    print("a line on standard output that is no answer")
    if name.startswith(b"crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith(b"killed-once") and not os.path.exists(path + b".seen"):
        open(path + b".seen", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith(b"exit"):
        os._exit(0)
    if name.startswith(b"spin"):
        while True:
            pass
    if name.startswith(b"sleep"):
        time.sleep(1000)
    if name.startswith(b"memory"):
        bytearray(8 << 30)
    return validate_worker.look(path, sha256)

validate_worker.serve(float(sys.argv[1]), look)
"""


SLOW = """
import sys
sys.path += sys.argv[2:]
import time
from headstart.images import validate_worker

decode = validate_worker.decode_and_describe
validate_worker.decode_and_describe = lambda data: (time.sleep(0.25), decode(data))[1]
validate_worker.serve(float(sys.argv[1]))
"""


def mischievous(seconds_each: float) -> list[str]:
    """The command line of a worker that does what a file's name says, and otherwise the real work."""
    command = worker_command(seconds_each)
    command[command.index("-c") + 1] = MISCHIEF
    return command


def image(file: Path, number: int, size: tuple[int, int] = (32, 24)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number % 256, number // 256, 99)).save(file)
    return file


def shards(cache: Path) -> list[Path]:
    return sorted(cache.glob("facts/*/*.facts"))


def test_facts(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    ramp = Image.linear_gradient("L").resize((100, 80))
    ramp.save(tmp_path / "turned.jpg", exif=exif)
    red, blue = Image.new("RGB", (9, 7), "red"), Image.new("RGB", (9, 7), "blue")
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    (tmp_path / "empty.png").touch()
    turned, gif, empty = validate_images([tmp_path / "turned.jpg", tmp_path / "a.gif", tmp_path / "empty.png"])
    data = (tmp_path / "turned.jpg").read_bytes()
    mark, small = dhash(decode(data, (64, 64))), greys(decode(data, (64, 64)))
    assert turned == ImageInfo(sha256_bytes(data), len(data), "JPEG", 80, 100, "L", 6, 1, mark, small, "", "")
    assert (gif.format, gif.width, gif.height, gif.frames, gif.mode, gif.reason) == ("GIF", 9, 7, 2, "P", "")
    assert (empty.reason, empty.message, empty.dhash, empty.greys) == ("empty", "the file is empty (0 bytes).", -1, "")


def test_difference_hash_by_hand() -> None:
    ramp = Image.frombytes("L", (9, 8), bytes(range(9)) * 8)
    assert dhash(ramp) == 2**64 - 1
    assert dhash(ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    one = Image.frombytes("L", (9, 8), bytes([0, *[1] * 8]) + bytes(9 * 7))
    assert dhash(one) == 1 << 63


def test_difference_hash_survives_rescaling_and_recompression() -> None:
    photo = Image.radial_gradient("L").resize((400, 300)).rotate(30).convert("RGB")
    small = io.BytesIO()
    photo.resize((200, 150)).save(small, "JPEG", quality=40)
    assert (dhash(photo) ^ dhash(decode(small.getvalue()))).bit_count() <= 4


def test_greys_are_the_image_from_afar() -> None:
    """Halves of black and white, 160 pixels wide: 8 black columns of 16, then 8 white ones."""
    halves = Image.fromarray(np.repeat([[0] * 80 + [255] * 80], 90, axis=0).astype(np.uint8))
    rows = np.frombuffer(base64.b64decode(greys(halves)), np.uint8).reshape(16, 16)
    assert (rows[:, :7] == 0).all() and (rows[:, 9:] == 255).all()


def test_the_order_is_kept_and_copies_share_their_facts(tmp_path: Path) -> None:
    files = [image(tmp_path / f"{i}.png", i, (10 + i, 5)) for i in range(60)]
    files += [files[3], image(tmp_path / "copy.png", 3, (13, 5))]
    facts = validate_images(files, workers=3)
    assert [fact.width for fact in facts] == [*range(10, 70), 13, 13]
    assert facts[60] == facts[61] == facts[3]
    assert validate_images(files, workers=1) == facts
    assert validate_images([]) == []


def test_what_is_not_a_file_to_read(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "link.png").symlink_to(image(tmp_path / "real.png", 1))
    (tmp_path / "text.jpg").write_text("this is a text")
    names = ["missing.jpg", ".", "real.png/below.png", "loop", "link.png", "text.jpg", "zero\0byte"]
    facts = validate_images([tmp_path / name for name in names])
    expected = ["not_a_file", "not_a_file", "not_a_file", "unreadable", "", "not_an_image", "not_a_file"]
    assert [fact.reason for fact in facts] == expected
    assert all(fact.reason == "" or (fact.reason in REASONS and fact.message.endswith(".")) for fact in facts)
    assert facts[0].message == "could not be read: No such file or directory."
    part = FilePart(tmp_path / "loop", start=0, length=9, sha256="", path="a.png")
    assert validate_images([part])[0].reason == "unreadable"
    with pytest.raises(UnreadableImage) as caught:
        read_image(tmp_path / "loop")
    assert caught.value.reason == "unreadable"


@needs_posix
def test_pipes_and_forbidden_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    forbidden = image(tmp_path / "forbidden.png", 1)
    forbidden.chmod(0)
    pipe, locked = validate_images([tmp_path / "pipe.jpg", forbidden])
    assert pipe.reason == "not_a_file"
    assert locked.reason == ("no_permission" if os.geteuid() else "")


@needs_posix
def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    strange = [
        os.fsdecode(os.fsencode(tmp_path) + b"/" + name) for name in (b"\xff\xfe.png", b"new\nline.png", b'"q".png')
    ]
    for i, name in enumerate(strange):
        image(tmp_path / "x.png", i, (20 + i, 5)).rename(name)
    assert [fact.width for fact in validate_images([Path(name) for name in strange])] == [20, 21, 22]


def test_a_second_look_starts_no_process(tmp_path: Path, own_cache: Path) -> None:
    files = [image(tmp_path / f"{i}.png", i) for i in range(20)]
    first = validate_images(files)
    assert len(shards(own_cache)) == 1
    impossible = ["/nowhere/at/all"]
    assert validate_with(impossible, files) == first
    with pytest.raises(HeadstartError, match="could not be started: No such file or directory"):
        validate_with(impossible, [*files, image(tmp_path / "new.png", 999)])


def test_renamed_files_are_known_and_changed_ones_are_not(tmp_path: Path) -> None:
    file = image(tmp_path / "a.png", 1)
    first = validate_images([file])
    file.rename(tmp_path / "b.png")
    assert validate_with(["/nowhere"], [tmp_path / "b.png"]) == first
    image(tmp_path / "b.png", 2, (50, 50))
    assert validate_images([tmp_path / "b.png"])[0].width == 50


def test_damaged_shards_are_thrown_away(tmp_path: Path, own_cache: Path) -> None:
    files = [image(tmp_path / f"{i}.png", i) for i in range(5)]
    first = validate_images(files)
    (shard,) = shards(own_cache)
    shard.write_bytes(shard.read_bytes().replace(b'"PNG"', b'"GIF"'))
    assert validate_images(files) == first
    (again,) = shards(own_cache)
    for damage in (b"", again.read_bytes()[:-40]):
        again.write_bytes(damage)
        assert validate_images(files) == first


def test_many_shards_become_one(tmp_path: Path, own_cache: Path) -> None:
    files = [image(tmp_path / f"{i}.png", i) for i in range(70)]
    facts = validate_images(files)
    (shard,) = shards(own_cache)
    lines = shard.read_bytes().splitlines(keepends=True)
    for line in lines:
        (shard.parent / f"{sha256_bytes(line)}.facts").write_bytes(line)
    (shard.parent / "folder.facts").mkdir()  # cannot be read, and is left alone
    assert validate_with(["/nowhere"], files) == facts
    assert len(shards(own_cache)) == 2
    assert validate_with(["/nowhere"], files) == facts


def test_a_large_shard_is_searched_and_not_written_again(tmp_path: Path) -> None:
    values = {sha256_bytes(b"%d" % i): [i, "x" * (i % 300), "\n"] for i in range(3_000)}
    add_infos(tmp_path, values)
    (large,) = tmp_path.iterdir()
    assert [find_infos(tmp_path, [sha256]) for sha256 in values] == [{key: value} for key, value in values.items()]
    assert find_infos(tmp_path, ["0" * 64, "f" * 64, "8" * 64]) == {}
    assert find_infos(tmp_path, values) == values
    written = large.stat()
    for i in range(5_000, 5_000 + 2 * MAX_SHARDS):
        add_infos(tmp_path, {sha256_bytes(b"%d" % i): [i]})
        assert len(find_infos(tmp_path, [sha256_bytes(b"%d" % n) for n in (7, 5_000, i)])) == 3 - (i == 5_000)
        assert len(list(tmp_path.iterdir())) <= MAX_SHARDS + 1
    assert (large.stat().st_mtime_ns, large.stat().st_ino) == (written.st_mtime_ns, written.st_ino)
    line = large.read_bytes().splitlines()[1_000]
    large.write_bytes(large.read_bytes().replace(line, line.replace(b"x", b"y")))
    assert find_infos(tmp_path, [line[:64].decode()]) == {}
    assert len(find_infos(tmp_path, values)) == 2_999


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder that may not be written to")
def test_a_cache_that_cannot_be_written_is_only_slower(tmp_path: Path, own_cache: Path) -> None:
    own_cache.chmod(0o500)
    assert validate_images([image(tmp_path / "a.png", 1)])[0].reason == ""
    own_cache.chmod(0o700)


def test_a_file_in_the_way_of_the_cache_is_only_slower(tmp_path: Path, own_cache: Path) -> None:
    (own_cache / "facts").write_text("in the way")
    assert validate_images([image(tmp_path / "a.png", 1)])[0].reason == ""


@needs_posix
def test_crashes_cost_the_image_they_are_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = [f"{i:03}.png" for i in range(60)]
    names[7], names[8], names[30], names[59] = "crash-a.png", "crash-b.png", "exit.png", "crash-c.png"
    names[20] = "killed-once.png"
    files = [image(tmp_path / name, i, (10 + i, 5)) for i, name in enumerate(names)]
    facts = validate_with(mischievous(20), files, workers=2)
    assert {i for i, fact in enumerate(facts) if fact.reason} == {7, 8, 30, 59}
    assert {fact.reason for fact in facts} == {"", "decoder_crashed"}
    assert facts[7].message == "crashed its decoder twice (code -11)."
    assert [fact.width for i, fact in enumerate(facts) if not fact.reason] == [
        10 + i for i in range(60) if i not in (7, 8, 30, 59)
    ]
    assert "Traceback" not in capfd.readouterr().err
    again = validate_images(files)  # crashes are not remembered: it may have been the machine
    assert {fact.reason for fact in again} == {""}


@needs_posix
def test_images_that_take_too_long(tmp_path: Path) -> None:
    names = [f"{i:03}.png" for i in range(30)]
    names[5], names[6] = "spin.png", "sleep.png"
    files = [image(tmp_path / name, i) for i, name in enumerate(names)]
    begin = time.monotonic()
    facts = validate_with(mischievous(2.0), files, workers=2, seconds_each=2.0)
    assert time.monotonic() - begin < 100
    assert {i: fact.reason for i, fact in enumerate(facts) if fact.reason} == {5: "too_slow", 6: "too_slow"}
    assert facts[5].message == "took more than 2 s to decode and was stopped."


@needs_posix
def test_memory_is_bounded(tmp_path: Path) -> None:
    """An allocation of 8 GB ends the worker's image, not the machine."""
    (fact,) = validate_with(mischievous(20), [image(tmp_path / "memory.png", 1)])
    assert fact.reason == "decoder_crashed"


def test_a_worker_that_never_works(tmp_path: Path) -> None:
    file = image(tmp_path / "a.png", 1)
    with pytest.raises(HeadstartError, match="it ended with code 3 before it was ready"):
        validate_with([sys.executable, "-c", "import sys; sys.exit(3)"], [file])
    with pytest.raises(HeadstartError, match="before it was ready"):
        validate_with([sys.executable, "-c", "print('hello')"], [file])


def test_nonsense_for_an_answer(tmp_path: Path) -> None:
    for answer in ("nonsense", "[1]", "[]", "7", '{"a": 1}'):
        code = f"import sys; print('ready', flush=True); sys.stdin.readline(); print({answer!r}, flush=True); input()"
        (fact,) = validate_with([sys.executable, "-c", code], [image(tmp_path / "a.png", 1)])
        assert fact.reason == "decoder_crashed"


def test_a_file_that_changes_in_between(tmp_path: Path) -> None:
    """The worker checks that the bytes it decodes are those that were hashed."""
    file = image(tmp_path / "a.png", 1)
    command = worker_command(20)
    code = "import sys; from pathlib import Path; Path(sys.argv.pop()).write_bytes(b'other'); "
    command[command.index("-c") + 1] = code + command[command.index("-c") + 1]
    (fact,) = validate_with([*command, str(file)], [file])
    assert fact.reason == "changed"
    assert validate_images([file])[0].reason == "not_an_image"


def test_from_threads_and_with_a_shared_cache(tmp_path: Path) -> None:
    files = [image(tmp_path / f"{i}.png", i, (10 + i, 5)) for i in range(40)]
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(lambda part: validate_images(part, workers=1), [files, files[::-1], files[:20]]))
    assert results[0] == results[1][::-1] == validate_images(files)
    assert results[2] == results[0][:20]
    assert threading.active_count() < 20


@needs_posix
def test_an_interrupt_leaves_no_process_and_keeps_what_was_learnt(tmp_path: Path, own_cache: Path) -> None:
    files = [image(tmp_path / f"{i:03}.png", i) for i in range(40)]
    image(tmp_path / "999-sleep.png", 999).rename(tmp_path / "sleep.png")
    names = [str(file) for file in [*files, tmp_path / "sleep.png"]]
    code = (
        "import json, sys; from pathlib import Path; from headstart.images.validate import validate_with\n"
        "command, names = json.loads(sys.stdin.readline())\n"
        "validate_with(command, [Path(n) for n in names], workers=2, seconds_each=100.0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps([mischievous(100), names]).encode() + b"\n")
    process.stdin.flush()
    parent = psutil.Process(process.pid)
    deadline = time.monotonic() + PATIENCE
    while not parent.children() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1.0)
    children = parent.children()
    assert children
    process.send_signal(2)
    error = process.communicate(timeout=PATIENCE)[1]
    assert b"KeyboardInterrupt" in error
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert len(shards(own_cache)) == 1


def test_a_worker_imports_little(tmp_path: Path) -> None:
    code = "import sys; sys.path += sys.argv[1:]; import headstart.images.validate_worker; print(*sys.modules)"
    command = worker_command(1)
    names = subprocess.run(
        [*command[:3], "-c", code, *command[6:]], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numpy", "torch", "rich", "platformdirs", "safetensors", "importlib.metadata"} & set(names)


def test_a_real_data_set(shared: Path, tmp_path: Path) -> None:
    """All real images that stand beside a checkout can be read."""
    import zipfile

    with zipfile.ZipFile(shared / "data" / "cats-dogs.zip") as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if name.endswith("0.jpg")])
    files = sorted(tmp_path.rglob("*.jpg"))
    facts = validate_images(files)
    assert len(files) > 50 and {fact.reason for fact in facts} == {""}
    for file, fact in zip(files[:20], facts, strict=False):
        assert Image.open(file).size == (fact.width, fact.height)


def test_images_in_memory_have_their_time_each_not_together() -> None:
    """A pipe holds 64 kB, so a request of 200 kB can be written only while its worker reads it."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 250, 250, 3), np.uint8)
    images = [io.BytesIO() for _ in noise]
    for file, pixels in zip(images, noise, strict=True):
        Image.fromarray(pixels).save(file, "PNG")
    command = worker_command(2.0)
    command[command.index("-c") + 1] = SLOW
    infos = validate_with(command, [file.getvalue() for file in images], workers=1, seconds_each=2.0)
    assert [info.reason for info in infos] == [""] * 12
