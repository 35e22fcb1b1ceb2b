"""`python -m reward_service` is `reward-service`."""

import sys

from reward_service.cli import main

sys.exit(main())
