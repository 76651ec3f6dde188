"""Which model is in use when: ``day=yolo_day@06:30,night=yolo_night@20:00``.

    schedule = entry *("," entry)
    entry    = label "=" model ["@" HH ":" MM]

An entry holds from its time, on the clock of the schedule's time zone, until the next entry's time; the last one of a
day holds over midnight until the first one's. One entry may leave its time out, and begins at 00:00 then. Labels and
times are each used once; a model may be named by several entries.

Where the clocks change: a time that they skip comes when they skip it, and a time that they show twice comes the first
time; an entry that has begun is not begun again when the clocks are set back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from clients.errors import ClientError

_ENTRY = re.compile(r"(?P<label>[^=@,\s]+)=(?P<model>[^=@,\s]+)(?:@(?P<time>[^=@,\s]*))?")
_TIME = re.compile(r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})", re.ASCII)
_GRAMMAR = "expected LABEL=MODEL@HH:MM,LABEL=MODEL@HH:MM,..., as in day=yolo_day@06:30,night=yolo_night@20:00"
# A zone may skip a whole day, as Samoa's did on 2011-12-30.
_DAYS = 3


class ScheduleError(ClientError, ValueError):
    """A schedule or a time zone that cannot be read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model and when it begins."""

    label: str
    model: str
    begins: time
    """On the clock of the schedule's time zone."""


@dataclass(frozen=True, slots=True)
class Switch:
    """The moment at which another model is to be used."""

    at: datetime
    """In UTC."""
    entry: Entry


@dataclass(frozen=True, slots=True)
class Schedule:
    """Entries in the order of their times, and the zone whose clock they follow; None is this machine's own.

    Raises ScheduleError where no entry is given, or a label or a time is used twice.
    """

    entries: tuple[Entry, ...]
    zone: ZoneInfo | None = None

    def __post_init__(self) -> None:
        if not self.entries:
            raise ScheduleError(f"{_GRAMMAR}, got nothing")
        seen: dict[str | time, str] = {}
        for entry in self.entries:
            for key, what in ((entry.label, f"label {entry.label!r}"), (entry.begins, f"time {entry.begins:%H:%M}")):
                if key in seen:
                    raise ScheduleError(
                        f"{what} is given twice, for {seen[key]!r} and {entry.model!r}: give each entry its own "
                        "(an entry without a time begins at 00:00)"
                    )
                seen[key] = entry.model
        object.__setattr__(self, "entries", tuple(sorted(self.entries, key=lambda entry: entry.begins)))

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models, each once."""
        return tuple(dict.fromkeys(entry.model for entry in self.entries))

    def at(self, moment: datetime) -> str:
        """The model that is in use at a moment, an aware datetime."""
        return self.entry_at(moment).model

    def entry_at(self, moment: datetime) -> Entry:
        """The entry that holds at a moment, an aware datetime."""
        begun = [switch for switch in self._beginnings(moment) if switch.at <= moment]
        return begun[-1].entry

    def next_switch(self, moment: datetime) -> Switch | None:
        """The first moment after this one, an aware datetime, at which the model is another; None: it never is.

        Entries that go on with the same model are no switch.
        """
        model = self.at(moment)
        later = (switch for switch in self._beginnings(moment) if switch.at > moment)
        last: Switch | None = None
        for switch in later:
            # Two entries may begin at once, where the clocks skip both: the later one holds.
            if last is not None and switch.at > last.at:
                break
            last = switch if switch.entry.model != model else None
        return last

    def __str__(self) -> str:
        times = ", ".join(f"{entry.begins:%H:%M} {entry.label} ({entry.model})" for entry in self.entries)
        return f"{times}, {self.zone or 'the time of this machine'}"

    def _beginnings(self, moment: datetime) -> list[Switch]:
        """When entries begin on the days around a moment, in order."""
        if moment.tzinfo is None:
            raise ValueError(f"expected a moment with its time zone, got {moment}")
        today = moment.astimezone(self.zone).date()
        days = (today + timedelta(days=offset) for offset in range(-_DAYS, _DAYS + 1))
        switches = [Switch(self._instant(day, entry.begins), entry) for day in days for entry in self.entries]
        # Stable: of several that the clocks skip at once, the later one stays behind the earlier.
        return sorted(switches, key=lambda switch: switch.at)

    def _instant(self, day: date, wall: time) -> datetime:
        """The moment at which the clock first shows this time or a later one, in UTC."""
        local = datetime.combine(day, wall)
        first, second = (self._utc(local.replace(fold=fold)) for fold in (0, 1))
        if first <= second:
            return first
        # The clocks skip it (PEP 495): fold 1 counts with the offset after the change, and so lies before it.
        before, after = second, first
        while after - before > timedelta(seconds=1):
            middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
            if self._wall(middle) < local:
                before = middle
            else:
                after = middle
        return after

    def _utc(self, local: datetime) -> datetime:
        if self.zone is not None:
            return local.replace(tzinfo=self.zone).astimezone(UTC)
        # A datetime without a zone is one of this machine's clock. Not astimezone(): of a time that the clocks skip, it
        # takes the offset from the other side of the change (Python 3.11).
        return datetime.fromtimestamp(local.timestamp(), UTC)

    def _wall(self, moment: datetime) -> datetime:
        return moment.astimezone(self.zone).replace(tzinfo=None, fold=0)


def read_schedule(text: str, zone: ZoneInfo | None = None) -> Schedule:
    """Read a schedule as the command line takes it; raises ScheduleError, which says what is wrong with which entry."""
    return Schedule(tuple(_read_entry(part.strip()) for part in text.split(",")), zone)


def read_zone(name: str) -> ZoneInfo:
    """A time zone by its name in the IANA database, as Europe/Berlin; raises ScheduleError for an unknown one."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError) as error:
        raise ScheduleError(
            f"expected a time zone of the IANA database, as Europe/Berlin or UTC, got {name!r}: where a machine has "
            "no such database, install the package tzdata"
        ) from error


def _read_entry(text: str) -> Entry:
    entry = _ENTRY.fullmatch(text)
    if entry is None:
        raise ScheduleError(f"{_GRAMMAR}, got {text!r}")
    return Entry(entry["label"], entry["model"], _read_time(entry["time"], text))


def _read_time(text: str | None, entry: str) -> time:
    if text is None:
        return time(0, 0)
    found = _TIME.fullmatch(text)
    if found is None or int(found["hour"]) > 23 or int(found["minute"]) > 59:
        raise ScheduleError(f"expected a time from 00:00 to 23:59 in {entry!r}, got {text!r}")
    return time(int(found["hour"]), int(found["minute"]))
