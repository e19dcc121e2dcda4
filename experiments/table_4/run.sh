#!/usr/bin/env bash
# Table 4: the models of Table 3 on what was never trained on.
exec bash experiments/table_3/run.sh "$@"
