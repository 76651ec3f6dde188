"""A schedule says which model is in use at every moment, also where the clocks change."""

from __future__ import annotations

import time as clock
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.models.schedule import Schedule, ScheduleError, read_schedule, read_zone

BERLIN = ZoneInfo("Europe/Berlin")
UTC_ZONE = ZoneInfo("UTC")
DAY_AND_NIGHT = "day=yolo_day@06:30,night=yolo_night@20:00"


def berlin(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_model_holds_from_its_time_over_midnight_to_the_next() -> None:
    schedule = read_schedule(DAY_AND_NIGHT, BERLIN)
    expected = {
        "2026-11-22T06:29:59": "yolo_night",
        "2026-11-22T06:30:00": "yolo_day",
        "2026-11-22T19:59:59.999999": "yolo_day",
        "2026-11-22T20:00:00": "yolo_night",
        "2026-11-23T00:00:00": "yolo_night",
    }
    assert {text: schedule.at(berlin(text)) for text in expected} == expected


def test_entry_without_a_time_begins_at_midnight() -> None:
    schedule = read_schedule("day=yolo_day,night=yolo_night@20:00", UTC_ZONE)
    assert [schedule.at(utc(f"2026-11-22T{time}")) for time in ("00:00", "19:59", "20:00", "23:59")] == [
        "yolo_day",
        "yolo_day",
        "yolo_night",
        "yolo_night",
    ]


def test_order_of_the_entries_does_not_matter() -> None:
    turned = "night=yolo_night@20:00, day=yolo_day@6:30"
    assert read_schedule(turned, BERLIN) == read_schedule(DAY_AND_NIGHT, BERLIN)


def test_schedule_says_what_it_will_do() -> None:
    assert str(read_schedule("day=a,night=b@20:00", BERLIN)) == "00:00 day (a), 20:00 night (b), Europe/Berlin"
    assert str(read_schedule("day=a")) == "00:00 day (a), the time of this machine"


def test_next_switch_is_the_next_change_of_the_model() -> None:
    schedule = read_schedule("rush=big@07:00,noon=big@12:00,evening=small@18:00", BERLIN)
    first = schedule.next_switch(berlin("2026-11-22T07:00"))
    assert first is not None
    assert (first.at, first.entry.label) == (utc("2026-11-22T17:00"), "evening")
    second = schedule.next_switch(first.at)
    assert second is not None
    assert (second.at, second.entry.label) == (utc("2026-11-23T06:00"), "rush")


def test_one_model_all_day_never_switches() -> None:
    assert read_schedule("all=yolo").next_switch(berlin("2026-11-22T07:00")) is None
    assert read_schedule("a=yolo@01:00,b=yolo@02:00").next_switch(berlin("2026-11-22T07:00")) is None


class TestClockChange:
    """Berlin: 2026-03-29 02:00 becomes 03:00 at 01:00 UTC; 2026-10-25 03:00 becomes 02:00 at 01:00 UTC."""

    schedule = read_schedule("early=a@02:30,late=b@20:00", BERLIN)

    def test_skipped_time_comes_when_the_clocks_skip_it(self) -> None:
        switch = self.schedule.next_switch(utc("2026-03-29T00:00"))
        assert switch is not None
        assert switch.at == utc("2026-03-29T01:00")
        assert self.schedule.at(utc("2026-03-29T00:59:59")) == "b"
        assert self.schedule.at(utc("2026-03-29T01:00:00")) == "a"

    def test_of_two_skipped_times_the_later_one_holds(self) -> None:
        schedule = read_schedule("x=first@02:10,y=second@02:50,z=third@20:00", BERLIN)
        assert schedule.at(utc("2026-03-29T01:00:00")) == "second"
        switch = schedule.next_switch(utc("2026-03-29T00:00"))
        assert switch is not None
        assert (switch.at, switch.entry.model) == (utc("2026-03-29T01:00"), "second")

    def test_skipped_entries_that_end_with_the_same_model_are_no_switch(self) -> None:
        schedule = read_schedule("x=night@02:10,y=day@02:50,z=day@20:00", BERLIN)
        switch = schedule.next_switch(utc("2026-03-29T00:00"))
        assert switch is not None
        assert switch.at == utc("2026-03-30T00:10")

    def test_time_that_comes_twice_counts_the_first_time(self) -> None:
        switch = self.schedule.next_switch(utc("2026-10-25T00:00"))
        assert switch is not None
        assert switch.at == utc("2026-10-25T00:30") == berlin("2026-10-25T02:30", fold=0).astimezone(UTC)

    def test_clocks_that_are_set_back_begin_nothing_again(self) -> None:
        # 02:15 for the second time, when 02:30 has been already.
        assert self.schedule.at(berlin("2026-10-25T02:15", fold=1)) == "a"
        switch = self.schedule.next_switch(berlin("2026-10-25T02:15", fold=1))
        assert switch is not None
        assert switch.at == utc("2026-10-25T19:00")

    def test_days_of_the_change_are_shorter_and_longer(self) -> None:
        for day, hours in (("2026-03-28", 24), ("2026-03-29", 23), ("2026-10-25", 25), ("2026-10-26", 24)):
            schedule = read_schedule("a=one,b=two@12:00", BERLIN)
            night = schedule.entry_at(berlin(f"{day}T00:00"))
            assert night.model == "one"
            noon = schedule.next_switch(berlin(f"{day}T00:00"))
            assert noon is not None
            midnight = schedule.next_switch(noon.at)
            assert midnight is not None
            assert midnight.at - berlin(f"{day}T00:00").astimezone(UTC) == timedelta(hours=hours)

    def test_day_that_a_zone_skips_begins_with_the_next_one(self) -> None:
        # Samoa went from the end of 2011-12-29 to the beginning of 2011-12-31.
        schedule = read_schedule("day=a@06:00,night=b@18:00", ZoneInfo("Pacific/Apia"))
        switch = schedule.next_switch(utc("2011-12-30T09:59"))
        assert schedule.at(utc("2011-12-30T09:59")) == "b"
        assert switch is not None
        assert (switch.at, switch.entry.model) == (utc("2011-12-30T16:00"), "a")


@pytest.fixture
def machine_in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    clock.tzset()
    yield
    monkeypatch.undo()
    clock.tzset()


@pytest.mark.usefixtures("machine_in_berlin")
def test_clock_of_the_machine_is_followed_as_that_of_its_zone() -> None:
    local, named = read_schedule("a=x@02:30,b=y@20:00"), read_schedule("a=x@02:30,b=y@20:00", BERLIN)
    moments = [
        utc(start) + timedelta(minutes=7 * step) for start in ("2026-03-28", "2026-10-24") for step in range(500)
    ]
    for moment in moments:
        assert local.at(moment) == named.at(moment)
        assert local.next_switch(moment) == named.next_switch(moment)


def test_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="moment with its time zone"):
        read_schedule(DAY_AND_NIGHT).at(datetime(2026, 11, 22))


times = st.times().map(lambda time: time.strftime("%H:%M"))
moments = st.datetimes(datetime(1990, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kathmandu"])


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(times, st.sampled_from("abc")), min_size=1, max_size=5, unique_by=lambda e: e[0]), moments, zones
)
def test_model_never_changes_between_now_and_the_next_switch(
    entries: list[tuple[str, str]], moment: datetime, zone: str
) -> None:
    text = ",".join(f"{number}={model}@{time}" for number, (time, model) in enumerate(entries))
    schedule = read_schedule(text, ZoneInfo(zone))
    model, switch = schedule.at(moment), schedule.next_switch(moment)
    if switch is None:
        assert len({model for _, model in entries}) == 1
        return
    assert switch.at > moment
    assert schedule.at(switch.at) == switch.entry.model != model
    for fraction in (0.1, 0.5, 0.9):
        assert schedule.at(moment + (switch.at - moment) * fraction) == model
    assert schedule.at(switch.at - timedelta(microseconds=1)) == model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected LABEL=MODEL@HH:MM"),
        ("yolo", "got 'yolo'"),
        ("day=", "got 'day='"),
        ("=yolo@10:00", "got '=yolo@10:00'"),
        ("day=a@10:00,", "got ''"),
        ("day=a@10:00@11:00", "got 'day=a@10:00@11:00'"),
        ("day=a b@10:00", "got 'day=a b@10:00'"),
        ("day=a@24:00", "a time from 00:00 to 23:59 in 'day=a@24:00', got '24:00'"),
        ("day=a@10:60", "got '10:60'"),
        ("day=a@10", "got '10'"),
        ("day=a@", "got ''"),
        ("day=a@١٠:٠٠", "expected a time from 00:00"),
        ("day=a,day=b@10:00", "label 'day' is given twice, for 'a' and 'b'"),
        ("day=a,night=b", "time 00:00 is given twice, for 'a' and 'b'"),
        ("day=a@10:00,night=b@10:00", "time 10:00 is given twice"),
    ],
)
def test_schedule_that_cannot_be_read_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        read_schedule(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "Europe", "Europe/Atlantis", "../UTC", "/etc/passwd", "\0"])
def test_unknown_time_zone_is_one_line(name: str) -> None:
    with pytest.raises(ScheduleError, match="expected a time zone of the IANA database"):
        read_zone(name)


def test_empty_schedule_is_refused() -> None:
    with pytest.raises(ScheduleError, match="got nothing"):
        Schedule(())
