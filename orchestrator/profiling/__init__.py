"""Measuring a device's speed."""
