import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline import recipe
from pipeline.data.feed.batches import Batch, numbers_of
from pipeline.errors import CheckpointError, DivergedError, RecipeError, TrainingError
from pipeline.model import losses, networks
from pipeline.train import checkpoint
from pipeline.train.host import LocalHost
from pipeline.train.loop import Job, Outcome, train
from pipeline.world import World

CPU = torch.device("cpu")
ALONE = World()
ROOT = Path(__file__).parents[2]


def chip(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright square on noise, a pure function of its number; some pixels are IGNORE, more in some chips."""
    draw = torch.Generator().manual_seed(number)
    image = torch.randint(0, 120, (3, 32, 32), generator=draw, dtype=torch.int32)
    row, col = torch.randint(0, 16, (2,), generator=draw).tolist()
    mask = torch.zeros(32, 32, dtype=torch.uint8)
    mask[row : row + 14, col : col + 14] = 1
    image += 100 * mask.int()
    mask[:, : number % 5 * 5] = 255
    return image.to(torch.uint8), mask


def feed(world: World, section: recipe.Train):
    def batches(start: int):
        for step in range(start, section.steps):
            numbers = numbers_of(step, world, section.global_batch)
            images, masks = zip(*map(chip, numbers), strict=True)
            yield Batch(torch.stack(images), torch.stack(masks), tuple(numbers))

    return batches


class Lines:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.rows.append((step, metrics))

    def series(self, name: str) -> dict[int, float]:
        return {step: row[name] for step, row in self.rows if name in row}


def make_network(dropout: float = 0.0, **options) -> networks.Network:
    torch.manual_seed(0)
    network = networks.create_model(
        encoder="convnext_atto", norm="group", decoder_channels=[16, 8, 8, 8, 8], dropout=dropout, **options
    )
    network.set_statistics([80.0] * 3, [50.0] * 3)
    return network


def section_of(**fields) -> recipe.Train:
    given = {"steps": 6, "global_batch": 4, "log_every": 1, "checkpoint_every": 3, **fields}
    return recipe.Train.model_validate(given)


def run(folder: Path, section: recipe.Train, *, world=ALONE, network=None, tracker=None, **parts) -> Outcome:
    return train(
        Job(section, str(folder), "f" * 12, seed=3),
        network=network or make_network(),
        loss=losses.build([recipe.CrossEntropy(), recipe.Dice()], 2),
        world=world,
        host=parts.pop("host", LocalHost()),
        tracker=tracker or Lines(),
        device=CPU,
        **{"batches": feed(world, section), **parts},
    )


def values(outcome: Outcome) -> list[float]:
    return [value for _, value in outcome.losses]


def test_the_loss_falls_and_equal_seeds_give_equal_losses(tmp_path):
    section = section_of(steps=20, checkpoint_every=20)
    first, second = run(tmp_path / "a", section), run(tmp_path / "b", section)
    assert values(first) == values(second)
    assert values(first)[-1] < 0.8 * values(first)[0]
    assert [step for step, _ in first.losses] == list(range(1, 21))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ema": 0.9, "clip_norm": 0.1, "optimizer": {"kind": "sgd"}},
        {"log_every": 4},
    ],
    ids=["adamw", "sgd ema clip", "records of four"],
)
def test_resumed_steps_have_the_losses_of_an_unbroken_run(tmp_path, fields):
    section = section_of(steps=8, **fields)
    whole = make_network(dropout=0.5)
    unbroken = run(tmp_path / "unbroken", section, network=whole)

    def stops(start: int):
        for batch in feed(ALONE, section)(start):
            if batch.numbers[0] == 5 * section.global_batch:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", section, network=make_network(dropout=0.5), batches=stops)
    network = make_network(dropout=0.5)
    resumed = run(tmp_path / "broken", section, network=network)
    assert resumed.started_at == 3
    assert resumed.losses == unbroken.losses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


def test_records_are_means_and_hold_terms_rate_and_norm(tmp_path):
    every, fourth = Lines(), Lines()
    run(tmp_path / "a", section_of(steps=6, clip_norm=1.0), tracker=every)
    run(tmp_path / "b", section_of(steps=6, clip_norm=1.0, log_every=4), tracker=fourth)
    losses_ = list(every.series("loss").values())
    assert fourth.series("loss") == pytest.approx({4: sum(losses_[:4]) / 4, 6: sum(losses_[4:]) / 2})
    last = every.rows[-1][1]
    assert last["loss"] == pytest.approx(last["loss.cross_entropy"] + last["loss.dice"])
    assert 0 < last["lr"] < 1e-3
    assert min(last["gradient_norm"], last["chips_per_second"]) > 0


def test_the_average_is_what_is_validated_and_kept(tmp_path):
    def validate(network: nn.Module) -> dict[str, float]:
        assert not network.training
        return {"miou": 0.5}

    plain, averaged = make_network(), make_network()
    run(tmp_path / "a", section_of(), network=plain)
    outcome = run(tmp_path / "b", section_of(ema=0.99), network=averaged, validate=validate)
    state, kept = plain.state_dict(), averaged.state_dict()
    assert any(not torch.equal(state[name], kept[name]) for name in state)
    assert outcome.scores == {"miou": 0.5}
    assert averaged.training  # the loop went on training after it was scored
    saved, _ = checkpoint.load(checkpoint.newest(str(tmp_path / "b")), "f" * 12)
    assert all(torch.equal(saved["network"][name], state[name]) for name in state)
    assert all(torch.equal(saved["average"][name], kept[name]) for name in kept)


def test_reports_come_at_validations_and_checkpoints_with_the_scores(tmp_path):
    reports = []

    class Host:
        def report(self, step: int, metrics: dict[str, float]) -> None:
            reports.append((step, metrics))

    tracker = Lines()
    scores = iter([{"miou": 0.1}, {"miou": 0.2}, {"miou": 0.3}])
    section = section_of(steps=5, validate_every=2)
    run(tmp_path, section, host=Host(), tracker=tracker, validate=lambda network: next(scores))
    assert [step for step, _ in reports] == [2, 3, 4, 5]
    assert [metrics["miou"] for _, metrics in reports] == [0.1, 0.1, 0.2, 0.3]
    assert tracker.series("val.miou") == {2: 0.1, 4: 0.2, 5: 0.3}


def test_a_loss_that_is_not_finite_stops_with_the_last_one_that_was(tmp_path):
    section = section_of(steps=8, log_every=4, checkpoint_every=4, optimizer={"kind": "sgd", "lr": 1e30})
    with pytest.raises(
        DivergedError, match=r"the loss is \S+ at step (2|3); the last finite one was \d\S* at step"
    ) as e:
        run(tmp_path, section)
    assert "train.optimizer.lr" in e.value.hint
    assert checkpoint.newest(str(tmp_path)) is None


def test_a_batch_without_a_valid_pixel_changes_nothing(tmp_path):
    section = section_of(steps=1, optimizer={"kind": "adamw", "weight_decay": 0.0})

    def nothing(start: int):
        batch = next(feed(ALONE, section)(0))
        yield replace(batch, mask=torch.full_like(batch.mask, 255))

    network = make_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert values(run(tmp_path, section, network=network, batches=nothing)) == [0.0]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_chips_of_another_step_are_refused(tmp_path):
    section = section_of()
    with pytest.raises(TrainingError, match=r"step 0, rank 0: chips \(4, 5, 6, 7\) came, not \(0, 1, 2, 3\)"):
        run(tmp_path, section, batches=lambda start: feed(ALONE, section)(start + 1))
    with pytest.raises(TrainingError, match="the feed ended before step 2"):
        run(tmp_path, section, batches=lambda start: list(feed(ALONE, section)(start))[:2])


def test_bf16_computes_nearly_the_same_with_full_weights(tmp_path):
    exact = run(tmp_path / "a", section_of(steps=1))
    network = make_network()
    rounded = run(tmp_path / "b", section_of(steps=1, precision="bf16"), network=network)
    assert values(rounded) != values(exact)
    assert values(rounded) == pytest.approx(values(exact), rel=0.02)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_fp16_needs_a_gpu(tmp_path):
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        run(tmp_path, section_of(precision="fp16"))


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run(tmp_path, section_of(steps=3))
    other = networks.create_model(encoder="convnext_atto", norm="group", decoder_channels=[24, 8, 8, 8, 8])
    with pytest.raises(CheckpointError, match="belongs to another network"):
        run(tmp_path, section_of(steps=3), network=other)


def test_a_finished_training_is_not_repeated(tmp_path):
    first = run(tmp_path, section_of())
    network = make_network()
    again = run(tmp_path, section_of(), network=network, batches=lambda start: pytest.fail("it asked for batches"))
    assert (again.started_at, again.losses) == (6, first.losses)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int16, torch.float32])
@pytest.mark.parametrize("layout", [True, False], ids=["channels_last", "contiguous"])
def test_raw_pixels_of_any_type_go_in(tmp_path, dtype, layout):
    section = section_of(steps=1, channels_last=layout)
    reference = values(run(tmp_path / "a", section_of(steps=1)))

    def batches(start: int):
        for batch in feed(ALONE, section)(start):
            yield replace(batch, image=batch.image.to(dtype))

    assert values(run(tmp_path / "b", section, batches=batches)) == pytest.approx(reference, rel=1e-5)


# ---- two ranks: this file is also the program that torchrun starts -----------------------------------------------


def main(folder: str, norm: str) -> None:
    world = World.detect()
    if world.size > 1:
        torch.distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    section = section_of(steps=8)
    network = make_network()
    if norm == "batch":
        torch.manual_seed(0)
        network = networks.create_model(encoder="resnet10t", norm="batch", decoder_channels=[16, 8, 8, 8, 8])

    outcome = run(Path(folder), section, world=world, network=network)
    if world.leader:
        Path(folder, "losses.json").write_text(json.dumps({"losses": outcome.losses}))


def start(ranks: int, folder: Path, norm: str = "group") -> subprocess.CompletedProcess:
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*launcher, "-m", "tests.train.test_loop", str(folder), norm]
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)


def recorded(folder: Path, finished: subprocess.CompletedProcess) -> dict:
    assert finished.returncode == 0, finished.stderr[-3000:]
    return json.loads((folder / "losses.json").read_text())


def differences(first: dict, second: dict) -> list[float]:
    assert len(first["losses"]) == 8
    return [abs(a - b) for (_, a), (_, b) in zip(first["losses"], second["losses"], strict=True)]


def test_two_ranks_have_the_losses_of_one(tmp_path):
    alone, both = (recorded(tmp_path / str(n), start(n, tmp_path / str(n))) for n in (1, 2))
    assert max(differences(alone, both)) < 1e-5


def test_two_ranks_with_batch_norm_have_the_losses_of_one(tmp_path):
    alone, both = (recorded(tmp_path / str(n), start(n, tmp_path / str(n), "batch")) for n in (1, 2))
    # Moments over the few pixels of the deepest stage make rounding grow from step to step.
    assert differences(alone, both)[0] < 1e-5
    assert max(differences(alone, both)) < 1e-2


if __name__ == "__main__":
    main(*sys.argv[1:])
