"""Runs that are killed, starved and damaged at random, and what they leave behind."""
