"""The sweeps that the package ships, one YAML file each; `scalearn run NAME` finds them here."""
