"""Kernel reports: what a compiler made of a graph, from the list of a plan's layers."""
