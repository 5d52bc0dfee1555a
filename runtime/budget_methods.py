"""What a runtime does about budgets: profile, choose, follow what is seen while running, explain."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

from anycost.runtime.budget import Budget
from anycost.runtime.bundle import Bundle
from anycost.runtime.choose import Choice, choose
from anycost.runtime.controller import Controller
from anycost.runtime.estimates import Estimates
from anycost.runtime.profile import Profile, runnable_engines

_KEPT_CONTROLLERS = 32
_log = logging.getLogger("anycost")


class BudgetMethods:
    """Of ``Runtime``. Its controllers share one ``Estimates``, so that what one budget's requests show helps the others."""

    bundle: Bundle
    threads: int
    _profile: Profile | None
    _estimates: Estimates | None = None
    _controllers: OrderedDict[Budget, Controller]

    @property
    def stored_profile(self) -> Profile | None:
        """What was measured on this device, None before the first profile."""
        return self._profile

    @property
    def estimates(self) -> Estimates:
        """What the generator's engines take now, by the profile and by what this runtime ran. A new profile starts it anew."""
        if self._estimates is None or self._estimates.profile is not self._profile:
            self._estimates = Estimates(self.bundle, self._profile, threads=self.threads)
            self._controllers = OrderedDict()
        return self._estimates

    def profile(
        self,
        *,
        refresh: bool = False,
        parts: bool = True,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Profile:
        """Measure the engines on this device that were not measured yet, or all of them; kept in the user's cache.

        parts: those of the networks beside the generator too.
        """
        from anycost.runtime.measure import profile

        self._profile = profile(self.bundle, self.threads, refresh=refresh, parts=parts, progress=progress)
        return self._profile

    def unmeasured(self, budget: Budget) -> list[str]:
        """The generator's engines that a budget has to know and that were not measured on this device."""
        if not budget.needs_profile or not self.bundle.generator.subnets:
            return []
        known = set(self._profile.engines) | set(self._profile.failed) if self._profile else set()
        return [name for name in runnable_engines(self.bundle) if name not in known]

    def choose(
        self,
        budget: Budget | None = None,
        *,
        subnet: str | None = None,
        backend: str | None = None,
        measure: bool = True,
    ) -> Choice:
        """The engine for a budget by the profile alone. A budget of time or memory measures the device first, once, if
        nothing is known of it; with ``measure=False`` what was not measured is predicted, and marked as predicted.

        Raises BudgetError that names the nearest engine when nothing fits.
        """
        budget = budget or Budget()
        self._measured(budget, measure)
        known = self.estimates.predictions
        return choose(self.bundle, budget, self._profile, subnet=subnet, backend=backend, predictions=known)

    def controller(self, budget: Budget, *, measure: bool = True) -> Controller:
        """What ``generate`` asks for the engine of a budget of time; the same object for the same budget while it is among the
        last 32. measure: as of ``choose``."""
        self._measured(budget, measure)
        estimates = self.estimates
        if budget not in self._controllers:
            while len(self._controllers) >= _KEPT_CONTROLLERS:
                self._controllers.popitem(last=False)
            self._controllers[budget] = Controller(
                self.bundle, self._profile, budget, estimates.clock, estimates=estimates
            )
        self._controllers.move_to_end(budget)
        return self._controllers[budget]

    def followed(self, budget: Budget) -> Controller | None:
        """The controller of a budget that images were made for, None where there were none."""
        _ = self.estimates
        return self._controllers.get(budget)

    def _for_images(self, budget: Budget | None, subnet: str | None, backend: str | None) -> Choice:
        """The engine to make images with now: a budget of time is followed, any other choice stays."""
        if budget is None or budget.latency_ms is None:
            return self.choose(budget, subnet=subnet, backend=backend)
        return self.controller(budget).choose(subnet=subnet, backend=backend)

    def _measured(self, budget: Budget, measure: bool) -> None:
        if measure and self.unmeasured(budget):
            _log.warning("no profile of %s on this device yet: measuring its engines once", self.bundle.folder)
            self.profile(parts=False)
