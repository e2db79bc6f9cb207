"""The feature store: arrays are read as written, and nothing unfinished, stale or damaged is read."""

import pickle
import threading

import grain
import numpy as np
import pytest

from empatheia_jax.data.features import store
from empatheia_jax.data.features.records import FLOAT_DTYPES, Journal, StoreError, pack_record, unpack_record
from empatheia_jax.data.features.store import FeatureStore
from empatheia_jax.data.features.writer import FeatureWriter, pack_utterance, write_shard
from support.programs import start_program

SETTINGS = {"floats": "float16", "encoders": {"audio": {"shape": [4, 3], "version": 1}, "video": {"shape": [2, 5]}}}
SHARDS = [["train/00001/0", "train/00001/1"], ["train/00002/0"], ["test/00001/0"]]


def record(key: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(sum(key.encode()))
    arrays = {"audio": rng.normal(size=(4, 3)).astype(np.float32)}
    if key.endswith("/1"):
        arrays["phonemes"] = rng.integers(0, 178, 11).astype(np.int32)
        arrays["content_speech"] = rng.normal(size=(11, 4)).astype(np.float32)
        arrays["content_video"] = rng.normal(size=(25, 3)).astype(np.float32)
    return arrays


def write(directory, shards=None, finish=True) -> FeatureWriter:
    writer = FeatureWriter(directory, SETTINGS, "data", len(SHARDS))
    for index in writer.unfinished_shards() if shards is None else shards:
        utterances = [pack_utterance(key, record(key), writer.float_dtype) for key in SHARDS[index]]
        write_shard(directory, index, utterances, {"rejected": []})
    if finish:
        writer.finish({"utterances": 4})
    return writer


def test_round_trip(tmp_path):
    write(tmp_path / "store")
    store = FeatureStore(tmp_path / "store", SETTINGS)
    keys = [key for shard in SHARDS for key in shard]
    assert list(store.keys) == keys and len(store) == 4 and store.manifest["counts"] == {"utterances": 4}
    for key in reversed(keys):
        arrays = store[key]
        assert arrays.keys() == record(key).keys()
        for name, expected in record(key).items():
            assert arrays[name].dtype == (store.dtype if expected.dtype == np.float32 else np.int32)
            np.testing.assert_allclose(arrays[name], expected, rtol=1e-3, atol=1e-3)  # stored in half precision
    assert store.feature_shape("audio") == (4, 3)
    assert store.gold_sizes("train/00001/1") == (11, 25) and store.gold_sizes("train/00001/0") is None
    assert "train/00009/0" not in store and store.get("train/00009/0") is None
    with pytest.raises(KeyError):
        store["train/00009/0"]


def test_record_bytes():
    arrays = {"a": np.arange(6.0).reshape(2, 3), "empty": np.zeros((0, 4), np.float32), "ids": np.array([1, 70000])}
    key, unpacked = unpack_record(pack_record("train/ä/0", arrays))
    assert key == "train/ä/0"
    for name, array in arrays.items():
        np.testing.assert_array_equal(unpacked[name], array)
    for bad in (np.array([1e6]), np.array([np.nan]), np.array(["x"])):
        with pytest.raises(StoreError, match="train/1/0: bad"):
            pack_record("train/1/0", {"bad": bad})


@pytest.mark.parametrize("float_dtype", FLOAT_DTYPES)
def test_floats_are_kept_in_the_chosen_type(float_dtype):
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(FLOAT_DTYPES[float_dtype])
    _, unpacked = unpack_record(pack_record("k", {"a": values}, float_dtype))
    assert unpacked["a"].dtype == FLOAT_DTYPES[float_dtype]
    np.testing.assert_array_equal(unpacked["a"], values)


def test_content_is_left_out_where_it_is_not_asked_for(tmp_path):
    write(tmp_path / "store")
    store = FeatureStore(tmp_path / "store")
    assert store.get("train/00001/1", content=False).keys() == {"audio", "phonemes"}
    for key in store.keys:  # the records after it are read correctly too
        np.testing.assert_array_equal(store[key]["audio"], store.get(key, content=False)["audio"])


def test_a_journal_keeps_what_is_whole(tmp_path, seed):
    path, rng = tmp_path / "j", np.random.default_rng(seed)
    entries = [({"n": n}, [rng.bytes(int(rng.integers(0, 50))) for _ in range(n % 3)]) for n in range(7)]
    journal = Journal(path)
    ends = []
    for value, records in entries:
        journal.add(value, records)
        ends.append(path.stat().st_size)
    journal.close()
    content = path.read_bytes()
    for cut in {0, 3, *map(int, rng.integers(0, len(content), 20)), len(content)}:
        path.write_bytes(content[:cut])
        reopened = Journal(path)
        kept = sum(end <= cut for end in ends)
        assert reopened.entries == entries[:kept]
        reopened.add({"n": "new"}, [b"x"])
        reopened.close()
        last = Journal(path)
        assert last.entries == [*entries[:kept], ({"n": "new"}, [b"x"])]
        last.close()


def test_no_store(tmp_path):
    with pytest.raises(StoreError, match="empatheia extract"):
        FeatureStore(tmp_path)


def test_interrupted_store_is_refused_then_finished(tmp_path):
    directory = tmp_path / "store"
    write(directory, shards=[1], finish=False)
    with pytest.raises(StoreError, match="interrupted after 1 of 3 shards"):
        FeatureStore(directory)
    resumed = FeatureWriter(directory, SETTINGS, "data", len(SHARDS))
    assert resumed.unfinished_shards() == [0, 2]
    with pytest.raises(StoreError, match="2 of 3 shards are missing"):
        resumed.finish({})
    before = (directory / store.shard_name(1)).stat().st_mtime_ns
    write(directory)
    assert (directory / store.shard_name(1)).stat().st_mtime_ns == before
    assert len(FeatureStore(directory)) == 4


def test_other_settings_are_refused_and_named(tmp_path):
    write(tmp_path / "store")
    newer = {**SETTINGS, "encoders": {**SETTINGS["encoders"], "audio": {"shape": [4, 3], "version": 2}}}
    with pytest.raises(StoreError, match=r"encoders\.audio\.version 1, wanted 2"):
        FeatureStore(tmp_path / "store", newer)
    with pytest.raises(StoreError, match=r"encoders\.audio\.version 1, wanted 2"):
        FeatureWriter(tmp_path / "store", newer, "data", len(SHARDS))


def test_a_part_of_the_settings_is_enough(tmp_path):
    write(tmp_path / "store")
    FeatureStore(tmp_path / "store", {"encoders": {"audio": {"version": 1}}})
    with pytest.raises(StoreError, match="face None, wanted"):
        FeatureStore(tmp_path / "store", {"face": {"name": "classical"}})


def test_other_data_is_refused(tmp_path):
    write(tmp_path / "store")
    with pytest.raises(StoreError, match="other data"):
        FeatureWriter(tmp_path / "store", SETTINGS, "other", len(SHARDS))


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("text")
    with pytest.raises(StoreError, match="not empty"):
        FeatureWriter(tmp_path, SETTINGS, "data", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_shard(tmp_path, damage):
    writer = write(tmp_path / "store")
    path = tmp_path / "store" / store.shard_name(1)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.unlink()
    with pytest.raises(StoreError, match="shard-00001.*extract"):
        FeatureStore(tmp_path / "store")
    assert writer.unfinished_shards() == [1] and not writer.complete
    write(tmp_path / "store")
    assert len(FeatureStore(tmp_path / "store")) == 4


def test_what_a_kill_leaves_is_cleared_away(tmp_path):
    directory = tmp_path / "store"
    directory.mkdir()
    names = ("manifest.json", "shard-00001.array_record")
    writers = [start_program("write_slowly", directory / name) for name in names]
    dead, alive = (directory / writer.stdout.readline().strip() for writer in writers)
    writers[0].kill()
    writers[0].communicate()
    write(directory)
    assert not dead.exists() and alive.exists()
    writers[1].kill()
    writers[1].communicate()
    assert len(FeatureStore(directory)) == 4


def test_a_failing_shard_leaves_nothing(tmp_path):
    writer = FeatureWriter(tmp_path / "store", SETTINGS, "data", 1)

    def records():
        yield pack_utterance("train/00001/0", record("train/00001/0"), "float16")
        raise ValueError("bad media")

    with pytest.raises(ValueError, match="bad media"):
        write_shard(writer.directory, 0, records(), {})
    assert [path.name for path in writer.directory.iterdir()] == ["manifest.json"]


def test_pickled_and_shared_by_threads(tmp_path):
    write(tmp_path / "store")
    store = pickle.loads(pickle.dumps(FeatureStore(tmp_path / "store")))
    mismatched = []

    def read(seed):
        for key in np.random.default_rng(seed).choice(store.keys, 50):
            if not np.allclose(store[key]["audio"], record(key)["audio"], atol=1e-2):
                mismatched.append(key)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mismatched
    dataset = grain.MapDataset.source(list(store.keys)).map(store.get).to_iter_dataset()
    assert [arrays["audio"].shape for arrays in dataset] == [(4, 3)] * 4
