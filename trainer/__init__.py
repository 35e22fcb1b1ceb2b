"""Train language models with TRL against rewards served over HTTP: runs, recipes, evaluation, reports."""
