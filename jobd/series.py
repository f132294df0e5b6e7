"""The kept scalars of a run as series: what its worker's `progress` says, sampled over the run's life.

A run may last seconds or days, so the number of rows is bounded and the time between them is not: when the rows are
full, every second one goes and the distance doubles. A value that was not said is None in its row.
"""

from collections.abc import Mapping

from schemas.records import SeriesRecord

ROWS_MAX = 500
NAMES_MAX = 64
KEEP_S = 30.0  # so much of a run's series is lost at most when jobd is killed


class Series:
    """The series of one run while it goes on."""

    def __init__(self, kept: SeriesRecord | None = None) -> None:
        self.names: list[str] = list(kept.names) if kept else []
        self.rows: list[tuple[float | None, ...]] = list(kept.rows) if kept else []
        self._times = [row[0] or 0.0 for row in self.rows]
        self._distance_s = 0.0
        self._kept_s = self._times[-1] if self._times else 0.0

    def add(self, at_s: float, metrics: Mapping[str, float | None]) -> bool:
        """A sample, at_s seconds after the start; too close to the last one, it takes that one's place. Returns
        whether it is time to store the series."""
        if not metrics:
            return False
        self.names += [name for name in metrics if name not in self.names][: NAMES_MAX - len(self.names)]
        if len(self.rows) > 1 and at_s - self._times[-2] < self._distance_s:
            del self.rows[-1], self._times[-1]
        self.rows.append((round(at_s, 3), *(metrics.get(name) for name in self.names)))
        self._times.append(at_s)
        if len(self.rows) > ROWS_MAX:
            self.rows, self._times = self.rows[::2], self._times[::2]
            self._distance_s = (self._times[-1] - self._times[0]) / len(self.rows)
        is_due = at_s - self._kept_s >= KEEP_S
        if is_due:
            self._kept_s = at_s
        return is_due

    def record(self, job: str, serial: int) -> SeriesRecord:
        """As it is stored: every row as long as the names."""
        width = 1 + len(self.names)
        rows = tuple((*row, *(None,) * (width - len(row))) for row in self.rows)
        return SeriesRecord(job, serial, tuple(self.names), rows)
