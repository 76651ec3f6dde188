"""What is searched, and how long a queue may be."""

from benchmarks.tune.space import LADDER, Goal, Space, Trial, powers_of_two, queue_bound
from builder.serving import ServingSettings

BASE = ServingSettings(max_batch=8, max_queue_size=128, queue_timeout_ms=1000, priority_levels=3)
SPACE = Space(base=BASE, batches=(1, 2, 4, 8), instances=(1, 2), delays_us=(0, 1000))


def trial(batch, instances, clients, delay_us=0):
    return Trial(settings=SPACE.settings(batch, instances, delay_us), clients=clients)


def test_batches_are_powers_of_two_and_the_largest():
    assert powers_of_two(1) == (1,)
    assert powers_of_two(16) == (1, 2, 4, 8, 16)
    assert powers_of_two(12) == (1, 2, 4, 8, 12)


def test_every_combination_is_a_configuration_that_keeps_the_rest():
    settings = list(SPACE.configurations())
    assert len(settings) == SPACE.size == 16
    assert {(each.max_batch, each.instances, each.max_queue_delay_us) for each in settings} == {
        (batch, instances, delay) for batch in (1, 2, 4, 8) for instances in (1, 2) for delay in (0, 1000)
    }
    assert {(each.queue_timeout_ms, each.priority_levels) for each in settings} == {(1000, 3)}


def test_a_bounded_queue_has_room_for_every_load_while_it_is_measured():
    assert SPACE.settings(8, 1, 0).max_queue_size >= LADDER[-1]
    base = ServingSettings(max_queue_size=0, queue_timeout_ms=0)
    unbounded = Space(base=base, batches=(2, 16), instances=(1,))
    assert unbounded.settings(16, 1, 0).max_queue_size == 0
    assert unbounded.is_served(unbounded.without_policy(unbounded.settings(16, 1, 0)))
    assert not SPACE.is_served(SPACE.without_policy(SPACE.settings(8, 1, 0)))


def test_trials_that_tell_nothing_new_are_left_out():
    trials = set(SPACE.trials())
    assert {trial(1, 1, 1), trial(8, 1, 8), trial(8, 2, 24), trial(8, 1, 8, 1000)} <= trials
    assert trial(8, 1, 4) not in trials, "a batch of 4 holds these clients"
    assert trial(1, 2, 1) not in trials, "one instance serves one client"
    assert trial(8, 1, 16, 1000) not in trials, "a full batch always waits"
    assert trial(1, 1, 1, 1000) not in trials, "nothing waits for company"
    assert trial(4, 1, 64) not in trials, "only the queue grows"
    # Every configuration that is not the double of another is there.
    assert {(each.settings.max_batch, each.settings.instances) for each in trials} == {
        (batch, instances) for batch in (1, 2, 4, 8) for instances in (1, 2)
    }


def test_queue_holds_what_can_be_served_within_the_limit():
    # 200/s for the 60 ms that a 40 ms execution leaves of 100.
    assert queue_bound(200, 40, Goal(sla_ms=100), trial(4, 1, 8), BASE) == 12
    assert queue_bound(200, 150, Goal(sla_ms=100), trial(8, 1, 4), BASE) == 8, "never less than a batch"
    assert queue_bound(200, 95, Goal(sla_ms=100), trial(4, 2, 24), BASE) == 24, (
        "nor than the clients that were measured"
    )


def test_without_a_limit_the_queue_keeps_its_bound_and_room_for_all_clients():
    assert queue_bound(200, 40, Goal(), trial(4, 1, 8), BASE) == 128
    assert queue_bound(200, 40, Goal(), trial(4, 1, 200), BASE) == 200
    assert queue_bound(200, 40, Goal(), trial(4, 1, 8), ServingSettings(max_queue_size=0)) == 0
