"""How much is fuzzed: 2,000 examples a property, or AGENTMILL_FUZZ of them in all, shared by the properties.

The long profile is `make fuzz`, with 100,000.
"""

import os

from hypothesis import HealthCheck, settings

PROPERTIES = 9  # with FUZZ above them, in test_fuzz_plans.py and test_fuzz_frames.py
_IN_ALL = os.environ.get("AGENTMILL_FUZZ")
EXAMPLES = -(-int(_IN_ALL) // PROPERTIES) if _IN_ALL else 2_000
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
