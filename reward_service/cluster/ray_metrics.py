"""Hand the metrics of a replica to Ray, whose agent on each machine exports those of all its processes. Imports Ray."""

import threading
import time

from ray.util.metrics import Gauge

from reward_service.metrics import Metrics

PERIOD_S = 5.0
APPLICATION = "application"
"""The label that tells the applications apart."""


class RayExporter:
    """Copies every sample of a service's metrics to a gauge of Ray's, whose name gets the prefix `ray_`.

    The samples of counters and histograms are copied under their own names, such as `reward_texts_total`, so that
    queries are the same. Labels are kept, and the application is one more.
    """

    def __init__(self, metrics: Metrics, application: str) -> None:
        self._metrics, self._application = metrics, application
        self._gauges: dict[str, Gauge] = {}

    def export(self) -> None:
        """Copy all samples."""
        for sample in self._metrics.samples():
            if sample.name not in self._gauges:
                gauge = Gauge(sample.name, tag_keys=(APPLICATION, *sample.labels))
                gauge.set_default_tags({APPLICATION: self._application})
                self._gauges[sample.name] = gauge
            self._gauges[sample.name].set(sample.value, tags=dict(sample.labels))

    def start(self) -> None:
        """Copy all samples every `PERIOD_S` seconds, on a thread that ends with the process."""
        threading.Thread(target=self._export_repeatedly, name="ray-metrics", daemon=True).start()

    def _export_repeatedly(self) -> None:
        while True:
            self.export()
            time.sleep(PERIOD_S)
