"""Measure, plot and write the report of test.py, and check genders against LFW's lists."""
