"""Static SVG charts as strings, for the report and the console.

matplotlib would add some 70 MB to a serving install of 300 MB, and its pictures carry inline styles that
our content policy forbids. Style sheets set ``color`` on ``plot-accent``, ``plot-muted``, ``plot-grid``,
``plot-good``, ``plot-bad``, ``plot-series-1`` to ``plot-series-5``, and the width of ``plot`` (480 px reads
well) and ``plot-wide`` (640 px, in a box that scrolls). Without a style sheet the fallbacks read on white
and on black.
"""

from __future__ import annotations

from tremplin.optimize.report.plots.curves import CurvePoint, learning_chart
from tremplin.optimize.report.plots.interval import IntervalRow, interval_chart
from tremplin.optimize.report.plots.matrix import confusion_chart
from tremplin.optimize.report.plots.pareto import ParetoPoint, dominated, pareto_chart
from tremplin.optimize.report.plots.reliability import ReliabilityBin, reliability_chart
from tremplin.optimize.report.plots.throughput import Series, throughput_chart

__all__ = [
    "CurvePoint",
    "IntervalRow",
    "ParetoPoint",
    "ReliabilityBin",
    "Series",
    "confusion_chart",
    "dominated",
    "interval_chart",
    "learning_chart",
    "pareto_chart",
    "reliability_chart",
    "throughput_chart",
]
