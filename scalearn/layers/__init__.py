"""The parts that methods add to a backbone layer."""
