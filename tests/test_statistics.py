"""Estimates over rounds, against numbers worked out by hand and against what other runs say."""

import json
import math

import msgspec
import numpy as np
import pytest
from helpers import ROOT, load, needs_proc
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def report():
    return load("report_of_statistics", "report.py")


def rounds_of(*medians):
    """A round for each median: steps a tenth under it, at it, and twice it."""
    return [[0.9 * median, median, 2 * median] for median in medians]


def test_typical_speed_lies_between_the_slowest_and_the_fastest_batch(bench):
    """Five rounds are five batches: their median, the lowest and the highest, in images/s."""
    found = bench.typical(rounds_of(0.2, 0.1, 0.4, 0.25, 0.5), 8)
    assert found == pytest.approx((8 / 0.25, 8 / 0.5, 8 / 0.1))
    assert found.uncertainty == pytest.approx((80 - 32) / 32)


def test_twenty_rounds_are_eight_batches_of_neighbours(bench):
    """Batches of 3, 3, 3, 3, 2, 2, 2, 2 rounds; the interval of eight medians reaches from lowest
    to highest.
    """
    medians = [0.1, 0.2, 0.1] + [0.2] * 15 + [0.4, 0.2]
    found = bench.typical(rounds_of(*medians), 1)
    last = math.sqrt(0.4 * 0.2)  # the median of two logarithms
    assert found == pytest.approx((1 / 0.2, 1 / last, 1 / 0.1))


def test_undisturbed_speed_by_hand(bench):
    """The tenth of the rounds' tenths, give or take what the four quieter of five batches lie
    apart.
    """
    rounds = [[seconds] * 3 for seconds in (0.100, 0.300, 0.101, 0.102, 0.104)]
    logs = np.log([0.100, 0.101, 0.102, 0.104, 0.300])
    value, apart = logs[0] + 0.4 * (logs[1] - logs[0]), logs[3] - logs[0]
    found = bench.undisturbed(rounds, 4)
    assert found == pytest.approx([4 / math.exp(value + side * apart) for side in (0, 1, -1)])


@pytest.mark.parametrize(
    ("values", "share_of_low", "share_of_high"),
    [
        # from the ends to the middle: r = 2 / 8, worth 38.4 of 64, 1.96 sqrt(0.09 / 38.4) = 0.0949
        ([end for pair in zip(range(32), range(63, 31, -1)) for end in pair], 0.0051, 0.1949),
        # in order: r = 0.95, worth 1.64, 1.96 sqrt(0.09 / 1.64) = 0.459
        (list(range(64)), 0, 0.559),
    ],
)
def test_the_quiet_end_of_many_rounds_by_hand(bench, values, share_of_low, share_of_high):
    """Between the values at these shares of 0 to 63, which are evenly apart."""
    found = bench.quiet_end(np.array(values, float))
    shares = (0.1, share_of_low, share_of_high)
    assert found == pytest.approx([63 * share for share in shares], abs=0.01)


def test_equal_rounds_are_known_exactly(bench):
    for count in (5, bench.MANY_ROUNDS):
        assert bench.quiet_end(np.full(count, 0.1)) == pytest.approx((0.1, 0.1, 0.1))


def test_what_others_do_for_a_while_leaves_the_undisturbed_speed_alone(bench):
    """Sixteen rounds, six of them at half the speed: the typical speed's interval holds both, the
    other's only one.
    """
    quiet = [[0.100, 0.101, 0.102]] * 16
    disturbed = [*quiet[:4], *[[0.2, 0.202, 0.204]] * 6, *quiet[:6]]
    typical = bench.typical(disturbed, 1)
    assert typical.low == pytest.approx(1 / 0.202) and typical.high == pytest.approx(1 / 0.101)
    assert bench.undisturbed(disturbed, 1) == pytest.approx(bench.undisturbed(quiet, 1))


def test_times_native_pairs_the_rounds_of_one_turn(bench):
    """What slows both rounds of a pair cancels: exactly twice, although the speed halves on the
    way.
    """
    native = rounds_of(0.2, 0.2, 0.4, 0.4, 0.4, 0.4)
    ours = rounds_of(0.1, 0.1, 0.2, 0.2, 0.2)
    assert bench.times_native(ours, native) == pytest.approx((2, 2, 2))
    assert bench.typical(ours, 1).uncertainty > 0.4


def test_fewer_than_five_rounds_are_told_by_their_parts(bench):
    """One loop of 16 steps is eight pairs of steps; three rounds are three parts of each."""
    loop = [0.1] * 8 + [0.2] * 8
    assert bench.typical([loop], 1) == pytest.approx((1 / math.sqrt(0.02), 1 / 0.2, 1 / 0.1))
    assert len(bench.in_parts([loop] * 3)) == 9 and len(bench.in_parts([loop] * 4)) == 8
    assert len(bench.in_parts([[0.1, 0.2]])) == 2 and bench.typical(
        [[0.1, 0.2]], 1
    ).high == pytest.approx(10)


def test_auto_stops_when_speed_and_times_native_are_known(bench):
    steady = [[0.1, 0.1005, 0.101]] * 5
    moving = [[0.1 * factor] * 3 for factor in (1, 1.05, 1, 1.05, 1)]
    assert not bench.known_well_enough(steady[:4])
    assert bench.known_well_enough(steady) and bench.known_well_enough(steady, steady)
    assert not bench.known_well_enough(moving) and not bench.known_well_enough(steady, moving)


def test_auto_goes_on_after_a_step_of_the_speed(bench):
    """Five rounds at one speed are known; a sixth at another is not what they said, and five more
    make no median.
    """
    first, second = [[0.1] * 3] * 5, [[0.12] * 3] * 5
    assert bench.known_well_enough(first) and not bench.known_well_enough([*first, *second])


@pytest.mark.parametrize(("count", "rank"), [(299, 299), (300, 300), (500, 499), (1000, 996)])
def test_p99_bound_ranks(bench, count, rank):
    """Ranks of the upper 95 % bound of the 99th percentile, by the binomial
    distribution's own sum.
    """
    bound = bench.p99_bound(list(range(1, count + 1)))
    assert bound == rank

    def under(k):
        return sum(math.comb(count, i) * 0.99**i * 0.01 ** (count - i) for i in range(k))

    assert under(rank) >= 0.95 > under(rank - 1)


def test_p99_has_no_bound_where_steps_are_too_few(bench, report):
    assert bench.p99_bound([0.1] * (report.P99_STEPS - 1)) is None
    assert bench.p99_bound([0.1] * report.P99_STEPS) == 0.1


def test_p99_bound_holds_the_percentile_as_often_as_it_says(bench):
    random, above = np.random.default_rng(0), 0
    for _ in range(1000):
        above += bench.p99_bound(random.exponential(size=400)) >= -math.log(0.01)
    assert above / 1000 > 0.94


def test_record_says_what_its_rounds_know(bench):
    numbers = bench.round_statistics([[0.1] * 60] * 5, 4)
    speeds = {"fps_typical", "fps_undisturbed"}
    ends = {f"{name}_{end}" for name in speeds for end in ("low", "high")}
    assert set(numbers) == {"rounds", *speeds, *ends, "fps_low", "fps_high", "latency_99th_high"}
    assert numbers["rounds"] == 5 and numbers["fps_undisturbed_low"] == pytest.approx(40)
    assert "latency_99th_high" not in bench.round_statistics([[0.1] * 20] * 5, 4)


def test_the_interval_beside_the_median_is_the_typical_speeds(bench):
    """Rounds of unlike length: the median of all steps is the long round's, and lies in the
    interval all the same.
    """
    rounds = [[0.1] * 4, [0.1] * 4, [0.2] * 99, [0.1] * 4, [0.1] * 4, [0.1] * 4]
    numbers = {**bench.summarise(sum(rounds, []), 8), **bench.round_statistics(rounds, 8)}
    assert (numbers["fps_median"], numbers["fps_typical"]) == pytest.approx((40, 80))
    assert (numbers["fps_low"], numbers["fps_high"]) == pytest.approx((40, 80))


def test_what_else_the_machine_did_by_hand(bench, monkeypatch):
    """In 2 s all cores worked 3 s, 1.6 of them for this process; 0.1 s were stolen, 0.5 s
    waited.
    """
    before = {"seconds": 10.0, "busy": 50.0, "stolen": 1.0, "own": 4.0, "waited": 7.0}
    after = {"seconds": 12.0, "busy": 53.0, "stolen": 1.1, "own": 5.6, "waited": 7.5}
    monkeypatch.setattr(bench, "gpus", list)
    monkeypatch.setattr(bench.os, "cpu_count", lambda: 14)
    expected = {"other_cores": 0.7, "other_share": 0.05, "stolen_cores": 0.05, "waited_share": 0.25}
    assert bench.surroundings(before, after) == pytest.approx(expected)
    # In 1 ms a tick of 10 ms may end that was another program's: no ten cores worked.
    shortly = {**before, "seconds": 10.001, "busy": 50.01}
    assert bench.surroundings(before, shortly) == {"waited_share": 0}


@needs_proc
def test_the_kernels_counts(bench):
    """What this process computes is its own, and some of what all do."""
    first = bench.counters()
    while bench.counters()["own"] < first["own"] + 0.1:
        pass
    last = bench.counters()
    assert last["busy"] > first["busy"] > 0 and last["seconds"] > first["seconds"]


def test_a_counter_that_is_not_there_is_left_out(bench, monkeypatch):
    monkeypatch.setattr(bench.Path, "read_text", lambda self: (_ for _ in ()).throw(OSError()))
    monkeypatch.setattr(bench, "gpus", list)
    assert bench.surroundings(bench.counters(), bench.counters()) == {}


OTHERS = {"other_cores": 1.5, "other_share": 0.1}


@pytest.mark.parametrize(
    ("clocks", "cause"),
    [
        ({"throttled": ["power cap"], "surroundings": OTHERS}, "itself: power cap"),
        ({"surroundings": {"gpu_programs": 2, **OTHERS}}, "other programs on the GPU: 2"),
        ({"surroundings": {"stolen_cores": 0.3, **OTHERS}}, "hypervisor took 0.30 cores"),
        ({"surroundings": {"stolen_cores": 0.01, **OTHERS}}, "other programs used 1.5"),
        ({"surroundings": {"waited_share": 0.4}}, "cores were waited for 40% of the time"),
        ({"surroundings": {"other_cores": 1.5, "other_share": 0.03}}, "nothing else was seen"),
        ({}, "nothing else was seen"),
    ],
)
def test_the_likeliest_cause_of_a_noisy_case(bench, clocks, cause):
    assert cause in bench.likeliest_cause([{}, clocks, {"surroundings": {"other_cores": 0.01}}])


def test_nothing_is_waited_for_longer_than_the_time(bench):
    """Where the kernel's count is a little ahead of the clock."""
    facts = bench.surroundings({"seconds": 1.0, "waited": 1.0}, {"seconds": 2.0, "waited": 2.04})
    assert "for 100% of" in bench.likeliest_cause([{"surroundings": facts}])


def test_the_median_round_tells_how_many_cores_the_hypervisor_took(bench):
    rounds = [{"surroundings": {"stolen_cores": cores}} for cores in (0.0, 0.9, 0.05)]
    assert bench.stolen_cores(rounds) == {"stolen_cores": 0.05}
    assert bench.stolen_cores([{}, *rounds[:1]]) == {"stolen_cores": 0.0}
    assert bench.stolen_cores([{}, {"surroundings": {"waited_share": 0.1}}]) == {}


def test_a_noisy_record_says_what_was_seen(bench):
    """Rounds at two speeds, while others used a core in one of them."""
    seconds, busy = (
        [[0.1] * 4, [0.2] * 4] * 3,
        {"surroundings": {"other_cores": 1.0, "other_share": 0.5}},
    )
    timings = [
        bench.Timing(each, 1.0, 1.0, clocks) for each, clocks in zip(seconds, [{}, busy] * 3)
    ]
    rounds = [{"device": timing} for timing in timings]
    text = (ROOT / "tests" / "data" / "records_2.jsonl").read_text().splitlines()[0]
    record = msgspec.structs.replace(msgspec.json.decode(text, type=bench.Record), batch_size=8)
    moved = "the speed moved between 40.0 and 80.0 images/s (other programs used 1.0 cores)"
    assert moved in " ".join(bench.with_rounds(record, rounds).notes)


def test_a_round_keeps_what_else_the_machine_did(main, forms):
    flags = ["--preprocessing=none", "--native", "--batch_size=2", "--rounds=2"]
    ran = main(f"--frozen_graph={forms['frozen_graph']}", *flags)
    for of_round in ran.records[0]["rounds"]:
        around = of_round["device"]["clocks"]["surroundings"]
        assert around.get("other_cores", 0) >= 0 and around.get("waited_share", 0) >= 0


some_rounds = st.lists(
    st.lists(st.floats(1e-5, 10), min_size=2, max_size=9), min_size=1, max_size=30
)


@settings(deadline=None, derandomize=True, database=None)  # the same tries, however long they take
@given(some_rounds, some_rounds)
def test_every_estimate_lies_in_its_interval(bench, rounds, native):
    for found in (
        bench.typical(rounds, 4),
        bench.undisturbed(rounds, 4),
        bench.times_native(rounds, native),
    ):
        assert 0 < found.low <= found.value * (1 + 1e-9) and found.value <= found.high * (1 + 1e-9)
        assert math.isfinite(found.high)


@pytest.mark.parametrize("estimate", ["typical", "undisturbed"])
def test_recorded_runs_hold_what_the_others_say(bench, estimate):
    """Five runs of five rounds on a machine that switches between speeds; what one loop knew of
    itself held none.
    """
    runs = {}
    for line in (ROOT / "tests/data/rounds.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["series"] == "five rounds":
            runs.setdefault(row["case"], []).append(row["rounds"])
    held = by_steps = 0
    for rounds in runs.values():
        found = [getattr(bench, estimate)(each, 4) for each in rounds]
        for index, each in enumerate(found):
            truth = np.median([other.value for other in found if other is not each])
            low, high = bench.median_interval(4 / np.concatenate(rounds[index]))
            held += each.low <= truth <= each.high
            by_steps += low <= truth <= high
    assert held / 15 >= 0.9 and by_steps / 15 < 0.5


def test_runs_on_shared_cores_are_apart_by_more_than_their_rounds_tell(report):
    """As the root of the sum of squares, in logarithms."""
    ratio = report.Estimate(0.97, 0.97 / 1.02, 0.97 * 1.02)
    value, low, high = report.widened(ratio, report.RUNS_APART)
    reach = np.exp(np.hypot(np.log(1.02), report.RUNS_APART))
    assert (value, low, high) == pytest.approx((0.97, 0.97 / reach, 0.97 * reach))
    assert report.verdict(*ratio) == "slower"
    assert report.verdict(value, low, high) == "same"
    assert report.widened(ratio, 0.0) == pytest.approx(ratio)


def test_ratio_of_two_runs_by_hand(report):
    """Both ends 10 % off: together the root of two times that, in logarithms."""
    ratio, low, high = report.ratio_of_estimates((200, 200 / 1.1, 220), (100, 100 / 1.1, 110))
    reach = math.exp(math.sqrt(2) * math.log(1.1))
    assert (ratio, low, high) == pytest.approx((2, 2 / reach, 2 * reach))


def test_ratio_has_the_ends_of_its_parts(report):
    """What only the new one's low end and the old one's high end leave open opens the low end
    alone.
    """
    assert report.ratio_of_estimates((100, 90, 100), (100, 100, 100)) == pytest.approx((1, 0.9, 1))
    assert report.ratio_of_estimates((100, 100, 100), (100, 80, 100)) == pytest.approx((1, 1, 1.25))
