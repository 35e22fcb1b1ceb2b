"""`python -m reward_service`: the same as `reward-service`."""

import sys

from reward_service.cli import main

sys.exit(main())
