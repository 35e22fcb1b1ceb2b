"""`python -m trainer` is `reward-trainer`."""

import sys

from trainer.cli import main

sys.exit(main())
