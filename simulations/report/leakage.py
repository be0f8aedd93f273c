"""Results of attacks on the runs against the cut, beside those without information."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

from simulations.report.aggregate import Section
from simulations.report.load_runs import Run
from simulations.report.metrics import Measure
from simulations.report.tables import Table, TableCell, tabulate


@dataclass(frozen=True)
class Leak:
    """A figure of the leakage card; `chance` is where its value without information is, if it has one."""

    measure: Measure
    label: str
    chance: str

    def guess(self, run: Run) -> float | None:
        """The value without information, as the mean of the clients to which the attack applied."""
        rows = [row for row in run.attacks if row.get(self.measure.key) is not None]
        known = [row[self.chance] for row in rows if row.get(self.chance) is not None]
        return statistics.fmean(known) if known else None


def _leak(key: str, title: str, label: str, digits: int, chance: str = "") -> Leak:
    return Leak(Measure(key, title, _largest(key), "", digits=digits), label, chance or f"{key}_chance")


def _largest(key: str) -> Callable[[Run], float | None]:
    """Of the client about which the attack learns the most."""
    return lambda run: max((row[key] for row in run.attacks if row.get(key) is not None), default=None)


RATE, AUC, PSNR = "rate of re-identified images", "AUC", "PSNR in dB"
LEAKS = (
    _leak("snr_db", "SNR of a release", "dB", 1),
    _leak("bits", "bits, Gaussian", "bits per image", 1),
    _leak("bits_denoised", "bits, I-MMSE", "bits per image", 1, "bits_chance"),
    _leak("dp_epsilon", "epsilon", "epsilon", 1),
    _leak("reid", "re-id, all releases", RATE, 3),
    _leak("reid_one", "re-id, one release", RATE, 3, "reid_chance"),
    *(
        _leak(f"psnr_{key}", f"PSNR, {title}", PSNR, 1, "psnr_chance")
        for key, title in (
            ("wiener", "Wiener"),
            ("backbone", "backbone, chain"),
            ("one_step", "backbone, 1 step"),
            ("shadow", "shadow"),
            ("gradient", "gradient"),
            ("split", "activations"),
        )
    ),
    _leak("labels_split", "labels, activations", "share of labels", 3),
    _leak("labels_codes", "labels, G's activations", "share of labels", 3, "labels_split_chance"),
    _leak("probe_auc", "probe AUC", AUC, 2),
    *(
        _leak(f"membership_{network}_{key}_auc", f"members, {title} {attack}", AUC, 2)
        for title, network in (("server", "backbone"), ("client", "denoiser"))
        for attack, key in (("loss", "loss"), ("SimA", "sima"))
    ),
)


def leaks(section: Section) -> list[Leak]:
    """The figures that any run of a section has."""
    return [leak for leak in LEAKS if any(leak.measure.read(run) is not None for run in section.runs)]


def leakage(section: Section) -> Table | None:
    """Rows by variant and cut of the runs that were attacked, and a last one without information; None if none was."""
    attacked = tuple(row for row in section.rows if any(run.attacks for run in row.runs))
    if not attacked:
        return None
    shown = leaks(section)
    table = tabulate(replace(section, rows=attacked), [leak.measure for leak in shown])
    last = [TableCell("no information"), TableCell("")]
    for leak in shown:
        known = [value for run in section.runs if (value := leak.guess(run)) is not None]
        last.append(TableCell(leak.measure.text(statistics.fmean(known)) if known else "-"))
    return Table(table.header, [*table.rows, last])
