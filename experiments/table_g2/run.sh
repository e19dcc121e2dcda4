#!/usr/bin/env bash
# Table G.2: what scenes and forms add to each other.
exec bash experiments/table_g1/run.sh "$@"
