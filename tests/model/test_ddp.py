"""Every family learns in plain DDP, which forgives no parameter without gradient."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from pipeline.model.networks import NETWORKS
from pipeline.model.outputs import Outputs
from tests.model.families import HELPED, SUPERVISED, network


def worker(rank: int, folder: str) -> None:
    """Two steps of every family: the second fails if the first left a parameter without gradient."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    cases = [(kind, "conv", {}) for kind in NETWORKS]
    cases += [(kind, "conv", HELPED | SUPERVISED.get(kind, {})) for kind in NETWORKS]
    cases += [("upernet", "plain_vit", {}), ("dpt", "plain_vit", {}), ("unet", "from_stride_4", {"freeze": 1})]
    for kind, encoder, options in cases:
        net = DistributedDataParallel(network(kind, encoder, **options).train(), find_unused_parameters=False)
        torch.manual_seed(rank)
        for _ in range(2):
            net.zero_grad()
            given = net(torch.rand(1, 4, 64, 64) * 200)
            outputs = given if isinstance(given, Outputs) else Outputs(given)
            loss = sum(m.square().mean() for m in (outputs.logits, *outputs.auxiliary))
            if outputs.labels is not None:
                loss = loss + outputs.labels.square().mean()
            loss.backward()
        checksum = torch.stack([p.grad.double().sum() for p in net.parameters() if p.requires_grad])
        both = [torch.empty_like(checksum) for _ in range(2)]
        dist.all_gather(both, checksum)
        assert torch.equal(*both), f"{kind}: gradients differ between the workers"
    Path(folder, f"done-{rank}").write_text(str(len(cases)))
    dist.destroy_process_group()


def test_every_family_learns_in_two_processes(tmp_path):
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    assert {p.read_text() for p in tmp_path.glob("done-*")} == {str(2 * len(NETWORKS) + 3)}
    assert len(list(tmp_path.glob("done-*"))) == 2
