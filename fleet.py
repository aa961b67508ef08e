#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = [
#   "tensorflow>=2.14.1,<2.22",
#   "numpy>=1.26,<3",
#   "absl-py>=2.1,<3",
#   "msgspec>=0.18.6,<0.23",
#   "requests>=2.31,<3",
#   "rich>=13.7,<16",
#   "tf2onnx>=1.17,<1.18",
#   "onnx>=1.17,<1.24",
#   "onnxruntime>=1.20,<1.33",
#   "nvidia-ml-py>=12.560,<14",
#   "matplotlib>=3.8,<4",
#   "pillow>=10,<14",
# ]
# ///
"""tensorrt.py on many devices: several GPUs of this machine, or a Ray cluster.

    python fleet.py --gpus=all --native --fp16              each case on all GPUs at once
    python fleet.py --gpus=all --spread --native --fp16     each case on one GPU, several at a time
    python fleet.py --ray_address=auto --native --fp16      each case on every node of a cluster

It takes all flags of tensorrt.py, writes the same records, one for each case and device, and prints
a table for each device.

    placement   a GPU, or with --gpus=cpu:2 a share of the CPU's cores
    together    what all devices did at the same time: the sum of their bursts

On several GPUs a case has a process on each. They wait for one another before every loop, so that
the loops run at the same time. With --spread neighbours run different cases meanwhile, and share
power and PCIe (shares of a CPU: memory), which every record says. On a cluster a case is a task;
nodes run what they are sent: use a cluster that you trust.

Exit status and environment: as tensorrt.py.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import multiprocessing
import os
import queue
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback

HERE = Path(__file__).resolve().parent
LIBRARY = "tensorrt_py"  # tensorrt.py's name as a module, where `tensorrt` is NVIDIA's


def load_library() -> ModuleType:
    """tensorrt.py, which takes this folder off sys.path: it would hide the package tensorrt."""
    path = HERE / "tensorrt.py"
    known = sys.modules.get(LIBRARY)
    # A node of a cluster may still have that of an earlier task.
    if known and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(LIBRARY, path)
    assert spec and spec.loader
    module = sys.modules[LIBRARY] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    import tensorrt as bench  # to a type checker the file beside this one has no other name
else:
    bench = load_library()

import msgspec
import numpy as np

if "gpus" not in bench.FLAGS:
    bench.DEFINE_string(
        "gpus",
        None,
        "all, or indices as 0,1: each case on these GPUs at once, a process each. cpu:2 splits the "
        "CPU's cores between two processes.",
    )
    bench.DEFINE_string(
        "ray_address",
        None,
        "auto, HOST:PORT or local: run the cases as tasks of a Ray cluster, on every node.",
    )
    bench.DEFINE_boolean(
        "spread",
        False,
        "With --gpus or --ray_address: different cases at the same time, each on one GPU.",
    )


def refuse_flags(config: Any) -> None:
    """Refuses flags that cannot be combined on many devices.

    Raises:
      UserError: two flags that exclude each other, or one that needs another.
    """
    if not config.gpus and not config.ray_address:
        where = "pass --gpus=all or --ray_address"
        what = "--spread needs GPUs to spread over" if config.spread else "no device is named"
        raise bench.UserError(f"{what}: {where} (tensorrt.py measures on one)")
    if config.gpus and config.ray_address:
        raise bench.UserError(
            "--gpus and --ray_address exclude each other: a cluster's tasks take all GPUs of "
            "their node"
        )
    if not config.isolate:
        raise bench.UserError(
            "--gpus and --ray_address need a process for each case: no --noisolate"
        )


# ------------------------------------------------------------------------------------- placements


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a process runs: on a GPU, on one of `count` equal shares of the cores, or anywhere."""

    gpu: int | None = None
    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        if self.gpu is not None:
            return f"gpu{self.gpu}"
        return f"cpu{self.index}of{self.count}" if self.count > 1 else ""

    def confine(self) -> None:
        """Confines this process to it, before anything asks what there is."""
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = str(self.gpu)
        elif self.count > 1:
            shares = np.array_split(bench.cores(), self.count)
            os.sched_setaffinity(0, shares[self.index].tolist())


def choose_placements(wanted: str) -> list[Placement]:
    """What --gpus names: `all`, indices with commas, or `cpu:N`.

    Raises:
      UserError: a GPU that is not there, or no such division of the cores.
    """
    if shares := re.fullmatch(r"cpu:([1-9]\d*)", wanted):
        return share_cores(wanted, int(shares.group(1)))
    there = [str(gpu["index"]) for gpu in bench.gpus()]
    asked = there if wanted == "all" else wanted.split(",")
    if not there or not set(asked) <= set(there) or len(set(asked)) < len(asked):
        seen = "NVML sees no NVIDIA GPU"
        if there:
            seen = f"NVML sees {', '.join(there)}: pass all, or some of these"
        raise bench.UserError(
            f"--gpus={wanted}: {seen}; cpu:2 splits the CPU's cores between two processes"
        )
    return [Placement(gpu=int(index)) for index in asked]


def share_cores(wanted: str, count: int) -> list[Placement]:
    """As many placements as shares, each of one core at least.

    Raises:
      UserError: there are fewer cores, or this system cannot divide them.
    """
    cores = len(bench.cores())
    if not hasattr(os, "sched_setaffinity"):
        raise bench.UserError(
            f"--gpus={wanted}: only Linux lets a program divide its cores: leave --gpus out"
        )
    if count > cores:
        raise bench.UserError(f"--gpus={wanted}: there are {cores} cores: pass cpu:{cores} or less")
    return [Placement(index=index, count=count) for index in range(count)]


class Barrier:
    """Where the processes of one case meet: a slot each, which counts its meetings; -1 once it has
    left.

    Not multiprocessing's: a process that is killed while it waits there blocks all others for good.
    """

    def __init__(self, count: int) -> None:
        self.slots = multiprocessing.get_context("spawn").RawArray("q", count)

    def meet(self, own: int) -> None:
        """Waits until all that have not left came as often; `own` is the slot of who calls."""
        self.slots[own] += 1
        while any(0 <= slot < self.slots[own] for slot in self.slots):
            time.sleep(0.0002)

    def leave(self, own: int) -> None:
        """Nobody waits for this slot any more; there is no way back."""
        self.slots[own] = -1


class PlacedCase(bench.OpenCase):
    """A case in a process of its own, confined to a placement."""

    def __init__(self, job: Any, placement: Placement, barrier: Barrier | None, own: int) -> None:
        placement.confine()
        super().__init__(job)
        self.barrier = barrier
        self.own = own
        self.memory_share /= placement.count

    def meet(self) -> None:
        """Waits for the same case's other processes, where there are any."""
        if self.barrier:
            self.barrier.meet(self.own)


# --------------------------------------------------------------------------- all devices at once


NEIGHBOURS = "--spread: other devices ran other cases meanwhile"


class PlacedSession(bench.Session):
    """A case on one placement."""

    def __init__(self, job: Any, placement: Placement) -> None:
        super().__init__(job)
        self.placement = placement
        self.use(job)
        self.barrier: Barrier | None = None
        self.own = 0

    def use(self, job: Any) -> None:
        """As of one device, whose row says that it had neighbours."""
        super().use(job)
        if job.config.spread:
            shared = "may share memory and caches"
            if self.placement.gpu is not None:
                shared = "share power and PCIe"
            self.result.notes.append(f"{NEIGHBOURS}, and {shared}")

    def start(self, job: Any) -> Any:
        """A process on the placement, with its own artifacts: a plan is for one GPU."""
        folder = str(Path(job.config.output_dir, str(self.placement)))
        config = job.config.but(output_dir=folder)
        job = dataclasses.replace(job, config=config)
        return bench.start(config, PlacedCase, job, self.placement, self.barrier, self.own)

    def machine(self) -> dict[str, Any]:
        """As of one device, with the placement beside its name."""
        found = super().machine()
        if not str(self.placement):
            return found
        return {**found, "device": f"{found['device_kind']} ({self.placement})"}


class Team(bench.Session):
    """A case on several placements at once: a member each, whose loops begin together."""

    def __init__(self, job: Any, placements: list[Placement]) -> None:
        super().__init__(job)
        self.members = [PlacedSession(job, placement) for placement in placements]

    def start(self, job: Any) -> Any:
        """Starts a single process, on the first placement: for the search of the largest batch."""
        return self.members[0].start(job)

    def take_turn(self, others: list[Any]) -> None:
        """Measures a round of all members; none where that only made room for another try."""
        errors = self.open_all() or self.measure_all()
        for member, error in errors.items():
            member.close()
            if self.makes_room(error, others):
                self.close()
                return
            member.fail(error)
        self.job = self.members[0].job
        self.result.rounds = max((member.rounds for member in self.members), key=len)
        self.over = all(member.over for member in self.members)

    def open_all(self) -> dict[Any, Exception]:
        """Opens the members that are not open; returns their errors."""
        try:
            if self.job.case.batch_size is None and not self.job.error:
                self.use(self.find_largest_batch())
        except bench.UserError as error:
            return dict.fromkeys(self.members, error)
        closed = [member for member in self.members if not (member.over or member.worker)]
        if not closed:
            return {}
        barrier = Barrier(len(self.members))
        for own, member in enumerate(self.members):
            member.barrier = barrier
            member.own = own
            if member.over:
                barrier.leave(own)
        self.opened += 1
        return self.each(lambda member: member.open(), closed)

    def each(self, work: Callable[[Any], None], members: list[Any]) -> dict[Any, Exception]:
        """Does something with all members at the same time, a thread each; returns their errors."""
        errors: dict[Any, Exception] = {}

        def attempt(member: Any) -> None:
            """Notes an error of CASE_ENDS; the others no longer wait for a member that failed."""
            try:
                work(member)
            except bench.CASE_ENDS as error:
                errors[member] = error
                member.barrier.leave(member.own)

        with threads_for(len(members)) as threads:
            list(threads.map(attempt, members))
        return errors

    def measure_all(self) -> dict[Any, Exception]:
        """Measures a round of the members that are still there; returns their errors."""
        begun = time.monotonic()
        steps = self.steps
        members = [member for member in self.members if not member.over]
        errors = self.each(
            lambda member: member.add_round(member.worker.ask("measure_round", steps)), members
        )
        self.seconds.append(time.monotonic() - begun)
        return errors

    def is_open(self) -> bool:
        """Whether any member has a process."""
        return any(member.is_open() for member in self.members)

    def use(self, job: Any) -> None:
        """As of one case; another batch size is for all members, those that had room too."""
        super().use(job)
        for member in self.members:
            member.use(job)

    def judge(self) -> None:
        """Has all members compute outputs at the same time; the first ones are the case's."""
        if self.judged or not self.rounds:
            return
        self.judged = True
        self.each(lambda member: member.judge(), self.members)
        outputs = (member.result.outputs for member in self.members)
        self.result.outputs = next((found for found in outputs if found), None)

    def results(self) -> list[Any]:
        """One for each member, in the order of the placements; with what they did together."""
        for member in self.members:
            member.opened = self.opened
        results = [result for member in self.members for result in member.results()]
        add_up(results)
        return results

    def rounds_by_device(self) -> list[list[Any]]:
        """The rounds of each member, in the order of `results`."""
        return [member.rounds for member in self.members]

    def close(self) -> None:
        """Ends all members' processes."""
        for member in self.members:
            member.close()


def add_up(results: list[Any]) -> None:
    """Adds to each device's result what all of them did at once: the sum of their bursts."""
    whole = [result for result in results if result.status == "ok"]
    if len(results) < 2:
        return
    for result in whole:
        sums = {
            inputs: sum(other.timings[inputs].throughput for other in whole)
            for inputs in result.timings
        }
        devices = [other.machine["device"] for other in whole]
        result.together = bench.Together(devices, sums)
        if len(whole) < len(results):
            result.notes.append(
                f"only {len(whole)} of {len(results)} devices came through: neighbours were missing"
            )


@contextlib.contextmanager
def threads_for(count: int) -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """Threads that each wait for a case's process; Ctrl-C kills those, so that the threads end."""
    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        try:
            yield threads
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.kill()
            raise


Measured = tuple[Any, list[Any]]  # a job, and its results


def compared_with_native(
    measured: Iterator[Measured], natives: int, reference: bench.Feed | None = None
) -> Iterator[Measured]:
    """Adds native's outputs to cases that are done in any order: the reference, or a case's own.

    Holds them back until one of so many native cases is done; on Ctrl-C it yields what it holds.
    """
    held: list[Measured] = []

    def compared() -> Iterator[Measured]:
        """Yields what is held, with the outputs to compare with."""
        while held:
            job, results = held.pop(0)
            yield job, bench.with_reference(results, reference)

    try:
        for job, results in measured:
            held.append((job, results))
            if job.case.precision == "native":
                natives -= 1
                outputs = (result.outputs for result in results)
                reference = reference or next((found for found in outputs if found), None)
            if reference or not natives:
                yield from compared()
    except KeyboardInterrupt:
        yield from compared()
        raise


def schedule_spread(jobs: list[Any], placements: list[Placement]) -> Iterator[Any]:
    """Different cases at the same time, each on the first placement that is free."""
    first = functools.partial(PlacedSession, placement=placements[0])
    natives = bench.count_natives(jobs)
    reference = None if natives else bench.untimed_reference(jobs, first)
    return compared_with_native(measure_spread(jobs, placements), natives, reference)


def measure_spread(jobs: list[Any], placements: list[Placement]) -> Iterator[Measured]:
    """The cases as they are done, each measured on a placement of its own."""
    free = queue.SimpleQueue[Placement]()
    for placement in placements:
        free.put(placement)

    def run(job: Any) -> list[Any]:
        """A job and its results, once a placement is free; the placement is given back."""
        placement = free.get()
        try:
            session = functools.partial(PlacedSession, placement=placement)
            return list(bench.schedule([job], session, {}))
        finally:
            free.put(placement)

    with threads_for(len(placements)) as threads:
        for future in concurrent.futures.as_completed([threads.submit(run, job) for job in jobs]):
            yield from future.result()


# ---------------------------------------------------------------------------------- a Ray cluster

PROGRAM = ("fleet.py", "tensorrt.py", "precision.py")  # what a node needs of it


class Cluster:
    """A Ray cluster. A case is a task: on all GPUs of every node or, with --spread, on one GPU of
    any.

    A task takes whole GPUs; where no node has one it takes the CPUs of a node. The graph, the
    samples and the ONNX file go through Ray's object store, once to each node.
    """

    def __init__(self, config: Any) -> None:
        self.ray = join_cluster(config.ray_address)
        self.samples = None
        self.spread = config.spread
        self.ship = functools.cache(lambda path: self.ray.put(Path(path).read_bytes()))
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        with_gpus = any(node["Resources"].get("GPU", 0) >= 1 for node in alive)
        self.unit = "GPU" if with_gpus else "CPU"
        nodes = [node for node in alive if node["Resources"].get(self.unit, 0) >= 1]
        if not nodes:
            raise bench.UserError(
                f"--ray_address={config.ray_address}: no node has a GPU or CPU to give: start one "
                "without --num-cpus=0"
            )
        self.names = names_of(nodes)
        self.sizes = {node["NodeID"]: int(node["Resources"][self.unit]) for node in nodes}
        count = sum(self.sizes.values())
        bench.say(f"Ray {self.ray.__version__}: nodes: {len(nodes)}, {self.unit}s: {count}")

    def submit(self, node: str | None, work: str, *data: Any) -> Any:
        """A task that does work(folder, *data) on a node or GPU; gives the node and the answer."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if node is None:
            wanted = 1 if self.unit == "GPU" else min(self.sizes.values())
            where = "SPREAD"
        else:
            wanted = self.sizes[node]
            where = NodeAffinitySchedulingStrategy(node, soft=False)
        units = {"num_cpus": wanted}
        if self.unit == "GPU":
            units = {"num_gpus": wanted, "num_cpus": 0}
        files = [HERE / name for name in PROGRAM if (HERE / name).exists()]
        script = {path.name: path.read_bytes() for path in files}
        task = self.ray.remote(max_retries=0)(on_node)
        return task.options(scheduling_strategy=where, **units).remote(script, work, *data)

    def choose_cases(self, config: Any, batch_sizes: list[int | None]) -> list[Any]:
        """The cases as a node of the cluster sees them: this machine may have no GPU."""
        task = self.submit(None, choose_there.__name__, vars(config), batch_sizes)
        try:
            return msgspec.convert(self.ray.get(task)[1], list[bench.Case])
        except self.ray.exceptions.RayError as error:
            raise bench.UserError(
                f"a node of the cluster cannot run this program ({bench.one_line(error)}): install "
                "requirements.txt there, with the same Python"
            ) from error

    def schedule(self, jobs: list[Any]) -> Iterator[Any]:
        """All cases as tasks; one whose node died is tried once again, then it is a failed row."""
        nodes = [None] if self.spread else list(self.names)
        for job in jobs:
            if job.error:
                session = bench.Session(job)
                session.fail(bench.UserError(job.error))
                yield session.job, session.results()
        ready = [job for job in jobs if not job.error]
        natives = bench.count_natives(ready) * len(nodes)
        reference = None if natives else self.reference(jobs)
        measured = self.run(list(itertools.product(ready, nodes)))
        yield from compared_with_native(measured, natives, reference)

    def reference(self, jobs: list[Any]) -> bench.Feed | None:
        """Native's outputs, computed by any node."""
        if not jobs or jobs[0].config.build_only:
            return None
        ((_, results),) = self.run([(bench.reference_job(jobs), None)])
        return bench.outputs_to_compare_with(results)

    def run(self, wanted: list[tuple[Any, str | None]]) -> Iterator[tuple[Any, list[Any]]]:
        """Each job on its node; gives results in the order in which they come."""
        waiting = {self.submit_job(job, node): (job, node, True) for job, node in wanted}
        while waiting:
            (task,), _ = self.ray.wait(list(waiting))
            job, node, again = waiting.pop(task)
            try:
                answer = self.ray.get(task)
            except self.ray.exceptions.RayError as error:
                name = self.names[node] if node else "a node"
                if again and not isinstance(error, self.ray.exceptions.RayTaskError):
                    bench.say(f"{job.case} was lost with {name}: tried once more")
                    waiting[self.submit_job(job, node)] = job, node, False
                else:
                    yield job if job.case.batch_size else job.at(1), [lost(job, name, error)]
            else:
                yield self.taken(job, answer)

    def submit_job(self, job: Any, node: str | None) -> Any:
        """The task of a job on a node, on any where that is None; files go once to each node."""
        self.samples = self.samples or self.ray.put(dataclasses.asdict(job.samples))
        files = [job.graph.path, *([job.source.path] if job.source else [])]
        parts = {name: msgspec.to_builtins(getattr(job, name)) for name in PARTS}
        parts["config"] = vars(job.config)
        return self.submit(node, run_there.__name__, parts, self.samples, *map(self.ship, files))

    def taken(self, job: Any, answer: tuple[str, Any]) -> tuple[Any, list[Any]]:
        """What a node found, with its name."""
        node, (case, found) = answer
        name = self.names.get(node, node[:6])
        results = list(map(unpacked_result, found))
        for result in results:
            facts = result.machine
            placement = re.search(r" \((.+)\)$", facts["device"])
            where = ", ".join([name, *(placement.groups() if placement else ())])
            result.machine = {
                **facts,
                "device": f"{facts['device_kind']} ({where})",
                "node": name,
                "versions": {**facts["versions"], "ray": self.ray.__version__},
            }
        return dataclasses.replace(job, case=msgspec.convert(case, bench.Case)), results


def join_cluster(address: str) -> Any:
    """Ray, connected.

    Raises:
      UserError: no Ray here, or no cluster there.
    """
    try:
        import ray
    except ImportError as error:
        raise bench.UserError(
            "--ray_address needs Ray: pip install -r requirements-cluster.txt"
        ) from error
    local = {"include_dashboard": False} if address == "local" else {}
    os.environ.setdefault("RAY_worker_niceness", "0")  # a local cluster's: not behind all others
    try:
        with bench.waiting(f"Connecting to {address}"), bench.quiet():
            if at := re.fullmatch(r"([^/:]+):(\d+)", address):  # Ray would try for minutes
                socket.create_connection((at.group(1), int(at.group(2))), timeout=10).close()
            heeded = signal.getsignal(signal.SIGTERM)
            ray.init(address, log_to_driver=False, logging_level="ERROR", **local)
            signal.signal(signal.SIGTERM, heeded)  # Ray overwrites it
    except Exception as error:  # no cluster, another Python or Ray there, a malformed address
        remedy = "start one with `ray start --head`, or pass local"
        if "AuthToken" in str(error.__cause__):  # from Ray 2.59 on clusters ask for one
            token = "copy the head's ~/.ray/auth_token here"
            remedy = f"it asks for a token: set RAY_AUTH_MODE=token, and {token}"
        raise bench.UserError(
            f"--ray_address={address}: no cluster to use there ({bench.one_line(error)}): {remedy}"
        ) from error
    return ray


def names_of(nodes: list[dict[str, Any]]) -> dict[str, str]:
    """The nodes' names by their ids; of equal ones with some digits of the id."""
    count = collections.Counter(node["NodeName"] for node in nodes)
    names = {}
    for node in nodes:
        name = node["NodeName"]
        identity = node["NodeID"]
        names[identity] = name if count[name] == 1 else f"{name}-{identity[:6]}"
    return names


def lost(job: Any, name: str, error: BaseException) -> Any:
    """The failed row of a case whose node gave no answer."""
    text = f"{name} gave no answer: {type(error).__name__}, {bench.one_line(error)}"
    machine = bench.machine(job.config, "")
    machine |= {"device": f"lost ({name})", "device_kind": "lost", "gpu": None}
    return bench.Result("failed", text, machine=machine)


def on_node(script: dict[str, bytes], work: str, *data: Any) -> tuple[str, Any]:
    """What a task does: loads this program in a folder of its own and lets it work there.

    Ray ships this function by value: it may use nothing of this module.
    """
    import importlib.util
    import sys
    import tempfile
    from pathlib import Path

    import ray

    with tempfile.TemporaryDirectory(prefix="tensorrt_py_") as folder:
        for name, text in script.items():
            Path(folder, name).write_bytes(text)
        name = "__mp_main__"  # as multiprocessing calls the main module in the processes of cases
        spec = importlib.util.spec_from_file_location(name, f"{folder}/fleet.py")
        assert spec and spec.loader
        program = importlib.util.module_from_spec(spec)
        main = sys.modules["__main__"]
        sys.modules["__main__"] = sys.modules[name] = program
        try:
            spec.loader.exec_module(program)
            program.__spec__ = None  # they find it by its file
            answer = getattr(program, work)(folder, *data)
            return ray.get_runtime_context().get_node_id(), answer
        finally:
            sys.modules["__main__"] = main


# What follows runs on a node. Only plain data travels: there these classes belong to another
# module.


def choose_there(_: str, config: dict[str, Any], batch_sizes: list[int | None]) -> list[Any]:
    """The cases, by the engines that the node has."""
    return msgspec.to_builtins(bench.choose_cases(bench.Config(**config), batch_sizes))


def run_there(
    folder: str, parts: dict[str, Any], samples: dict[str, Any], *files: bytes
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A job on all GPUs that Ray gave its task: the case and results; files come to `folder`."""
    # Ray runs its workers at niceness 15; only root may change it
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    bench.gpus.cache_clear()  # the same worker may have had another GPU before
    placements = [Placement(gpu=gpu["index"]) for gpu in bench.gpus()] or [Placement()]
    job = unpacked(Path(folder), parts, bench.samples_of(samples), files)
    team = functools.partial(Team, placements=placements)
    ((job, results),) = bench.schedule([job], team, {})
    if nice := os.getpriority(os.PRIO_PROCESS, 0):
        for result in results:
            result.notes.append(
                f"ran at niceness {nice}, behind all else on the node: start Ray there with "
                "RAY_worker_niceness=0"
            )
    return msgspec.to_builtins(job.case), list(map(packed_result, results))


# Of a job, those that travel as they are.
PARTS: dict[str, Any] = {"case": bench.Case, "graph": bench.Graph, "source": bench.Artifact | None}


def unpacked(folder: Path, parts: dict[str, Any], samples: Any, files: tuple[bytes, ...]) -> Any:
    """The job, with its files and what it writes in the folder."""
    told: dict[str, Any] = {
        name: msgspec.convert(parts[name], kind) for name, kind in PARTS.items()
    }
    shipped = [name for name in ("graph", "source") if told[name]]
    for name, data in zip(shipped, files, strict=True):
        path = folder / Path(told[name].path).name
        path.write_bytes(data)
        told[name] = dataclasses.replace(told[name], path=str(path))
    config = bench.Config(**parts["config"]).but(output_dir=str(folder))
    return bench.Job(**told, config=config, samples=samples)


def packed_result(result: Any) -> dict[str, Any]:
    """A result as plain data, but for the arrays of its outputs."""
    plain = msgspec.structs.replace(result, outputs=None, reference=None, native_rounds=[])
    return {**msgspec.to_builtins(plain), "outputs": result.outputs}


def unpacked_result(found: dict[str, Any]) -> Any:
    """The counterpart of packed_result; the arrays are as they came."""
    result = msgspec.convert({**found, "outputs": None}, bench.Result)
    result.outputs = found["outputs"]
    return result


# ------------------------------------------------------------------------------------------- main


def measure(config: Any) -> int:
    """From the flags to the report; the exit status."""
    refuse_flags(config)
    bench.check_output_dir(config.output_dir)
    placements = [] if config.ray_address else choose_placements(config.gpus)
    for placement in placements:
        bench.refuse_threads(config, len(bench.cores()) // placement.count)
    cluster = Cluster(config) if config.ray_address else None
    bench.recover_rounds(config)
    model = bench.load_model(config, cluster.choose_cases if cluster else None)
    bench.announce(model.cases, config)
    bench.TELLERS["show"] = lambda *_: None  # bars of several processes would paint over each other
    folder = config.output_dir
    with bench.RoundsOnDisk(folder) as rounds, bench.Report(config, model.cases, rounds) as report:
        jobs = bench.make_jobs(config, model, rounds)
        if cluster:
            measured = cluster.schedule(jobs)
        elif config.spread:
            measured = schedule_spread(jobs, placements)
        else:
            measured = bench.schedule(jobs, functools.partial(Team, placements=placements))
        for job, results in measured:
            report.add(job, results)
    return report.status()


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit status."""
    return bench.main(argv, measure, __doc__)


if __name__ == "__main__":
    bench.heed_signals()
    sys.exit(main(sys.argv))
