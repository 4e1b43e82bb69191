from pathlib import Path

import pytest
import torch

from pipeline.errors import CheckpointError
from pipeline.train import checkpoint

META = {"fingerprint": "f" * 12, "recipe": {"name": "tiny"}, "mlflow_run_id": None}


def save(run: Path, step: int, keep: int = 2, **meta) -> Path:
    state = {"network": {"weight": torch.full((3,), float(step))}, "losses": [(step, 0.5)]}
    return Path(checkpoint.save(str(run), step, state, {**META, **meta}, keep=keep))


def test_what_was_saved_comes_back(tmp_path):
    uri = save(tmp_path, 7)
    state, meta = checkpoint.load(str(uri), META["fingerprint"])
    assert torch.equal(state["network"]["weight"], torch.full((3,), 7.0))
    assert state["losses"] == [(7, 0.5)]
    assert meta["step"] == 7
    assert meta["recipe"] == META["recipe"]
    assert checkpoint.start_of(str(tmp_path)) == 7


def test_nothing_yet(tmp_path):
    assert checkpoint.newest(str(tmp_path)) is None
    assert checkpoint.start_of(str(tmp_path)) == 0


def test_only_the_newest_are_kept(tmp_path):
    for step in (2, 4, 10, 8):
        save(tmp_path, step)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000008", "step-00000010"]
    assert checkpoint.start_of(str(tmp_path)) == 10


@pytest.mark.parametrize("damage", ["no mark", "short", "mark cut short", "empty"])
def test_a_kill_while_writing_leaves_the_one_before(tmp_path, damage):
    save(tmp_path, 4)
    newer = save(tmp_path, 8)
    state, meta = newer / "state.pt", newer / "meta.json"
    if damage == "no mark":
        meta.unlink()
    elif damage == "short":
        state.write_bytes(state.read_bytes()[:100])
    elif damage == "mark cut short":
        meta.write_bytes(meta.read_bytes()[:20])
    else:
        state.unlink()
        meta.unlink()
    assert checkpoint.start_of(str(tmp_path)) == 4


def test_changed_bytes_are_an_error(tmp_path):
    uri = save(tmp_path, 4)
    data = bytearray((uri / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (uri / "state.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        checkpoint.load(str(uri), META["fingerprint"])
    assert str(uri) in caught.value.hint


def test_another_recipe_is_refused(tmp_path):
    uri = save(tmp_path, 4)
    with pytest.raises(CheckpointError, match=f"belongs to recipe {META['fingerprint']}, not 0123456789ab"):
        checkpoint.load(str(uri), "0123456789ab")


def test_a_newer_format_is_refused(tmp_path):
    uri = save(tmp_path, 4)
    meta = uri / "meta.json"
    meta.write_text(meta.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointError, match="format 2, this program reads 1"):
        checkpoint.load(str(uri), META["fingerprint"])


def test_in_a_bucket_it_is_the_same(s3_server):
    run = s3_server.uri("run")
    for step in (2, 4, 6):
        checkpoint.save(run, step, {"x": torch.ones(2)}, META, keep=2)
    assert checkpoint.start_of(run) == 6
    assert torch.equal(checkpoint.load(checkpoint.newest(run), META["fingerprint"])[0]["x"], torch.ones(2))
