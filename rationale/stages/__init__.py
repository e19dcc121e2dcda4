"""Stages: plain functions from artifacts to an artifact. Each fills a folder and returns counts."""
