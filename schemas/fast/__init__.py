"""Readers and writers of Avro for stages that handle every event: the values and bytes of `schemas.codec`, in less time.

Each shortcut names the figure that justifies it; docs/decisions/2026-11-30-fast-avro.md says how they were measured.
"""
