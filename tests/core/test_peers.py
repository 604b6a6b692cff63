"""Real processes that sum, tell and leave together, over gloo."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sdtune.core.peers import Peers

BEGIN = """
import json, os, sys, time
import torch
from sdtune.core.peers import Dismissed, Peers
from sdtune.errors import SdtuneError

peers = Peers.here(torch.device("cpu"))

def say(**told):
    print(json.dumps(told), flush=True)
"""


def free_port() -> str:
    """A port that nobody listens at just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def started(work: str, of: int = 2) -> list[subprocess.Popen[str]]:
    """Processes as torchrun would start them."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(of), "OMP_NUM_THREADS": "1"}
    own = [{"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(of)]
    words = [sys.executable, "-W", "error", "-c", BEGIN + work]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen(words, env=os.environ | where | one, **pipes) for one in own]


def told(processes: Sequence[subprocess.Popen[str]], codes: Sequence[int]) -> list[dict[str, Any]]:
    """The last line that each says, once all have ended with these codes."""
    ends = []
    for process, code in zip(processes, codes, strict=True):
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        ends.append(json.loads(out.splitlines()[-1]))
    return ends


def test_three_processes_sum_in_place_and_hear_the_leader() -> None:
    ends = told(
        started(
            """
tensors = [torch.full((2, 3), 1.0 + peers.number), torch.arange(4.0) * peers.number, torch.tensor(0.5)]
parameter = torch.nn.Parameter(torch.ones(2))
whole = torch.tensor([2**40 + peers.number])
strided = torch.zeros(3, 2).T
strided += peers.number
peers.sum([*tensors, parameter])
peers.sum([whole])
peers.sum([strided])
value = peers.tell({"run": "runs/köln", "state": [1, 2.5, None]} if peers.leads else None)
empty = peers.tell("" if peers.leads else 7)
goes = [peers.go_on(), peers.go_on(not peers.leads), peers.go_on(peers.leads)]
peers.wait()
say(sums=[t.tolist() for t in tensors], parameter=parameter.tolist(), whole=whole.tolist(), value=value, empty=empty,
    strided=strided.tolist(), goes=goes, me=[peers.number, peers.of, peers.leads])
""",
            of=3,
        ),
        [0, 0, 0],
    )
    for number, end in enumerate(ends):
        assert end.pop("me") == [number, 3, number == 0]
    assert ends[0] == ends[1] == ends[2]
    assert ends[0] == {
        "sums": [[[6.0] * 3] * 2, [0.0, 3.0, 6.0, 9.0], 1.5],
        "parameter": [3.0, 3.0],
        "whole": [3 * 2**40 + 3],
        "strided": [[3.0] * 3] * 2,
        "value": {"run": "runs/köln", "state": [1, 2.5, None]},
        "empty": "",
        "goes": [True, False, True],
    }


def test_sums_are_the_same_bits_in_all_processes_and_each_time() -> None:
    work = """
import hashlib
digest = hashlib.sha256()
for step in range(50):
    numbers = torch.randn(10007, generator=torch.Generator().manual_seed(step * 8 + peers.number))
    peers.sum([numbers])
    digest.update(numbers.numpy().tobytes())
say(digest=digest.hexdigest())
"""
    ends = told(started(work, of=3), [0, 0, 0]) + told(started(work, of=3), [0, 0, 0])
    assert len({end["digest"] for end in ends}) == 1


def test_a_leader_that_ends_in_the_middle_of_a_step_dismisses_who_waits_in_its_sum() -> None:
    work = """
gradient = torch.ones(2)
peers.sum([gradient])
if peers.leads:
    peers.go_on(False)
    time.sleep(0.5)  # it saves
    say(left="in order")
else:
    try:
        peers.sum([gradient])
    except Dismissed:
        say(left="dismissed", gradient=gradient.tolist())
"""
    leader, other = told(started(work), [0, 0])
    assert leader == {"left": "in order"}
    assert other == {"left": "dismissed", "gradient": [2.0, 2.0]}


@pytest.mark.parametrize(
    ("gone", "wait"), [(0, "sum([torch.ones(3)])"), (0, "go_on()"), (0, "tell(None)"), (1, "sum([torch.ones(3)])")]
)
def test_who_is_killed_does_not_keep_the_other_waiting(gone: int, wait: str) -> None:
    processes = started(
        f"""
peers.wait()
if peers.number == {gone}:
    say(ready=True)
    time.sleep(60)
try:
    for _ in range(1000):
        peers.{wait}
        time.sleep(0.01)
except SdtuneError as error:
    say(problem=str(error))
    sys.exit(error.exit_code)
"""
    )
    first, stays = processes[gone], processes[1 - gone]
    assert first.stdout is not None
    first.stdout.readline()
    time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    (end,) = told([stays], [1])
    first.communicate()
    assert end["problem"].startswith(f"process {2 - gone} of 2: another has ended (")
    assert end["problem"].endswith("start them all again with accelerate launch or torchrun")
    assert "\n" not in end["problem"]


def test_one_process_alone_needs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ("", "1"):
        monkeypatch.setenv("WORLD_SIZE", size)
        peers = Peers.here(torch.device("cpu"))
        numbers, value = torch.arange(3.0), object()
        peers.sum([numbers])
        peers.wait()
        assert (numbers.tolist(), peers.tell(value) is value) == ([0.0, 1.0, 2.0], True)
        assert (peers, peers.leads, peers.go_on(), peers.go_on(False)) == (Peers(0, 1), True, True, False)
    assert not torch.distributed.is_initialized()
