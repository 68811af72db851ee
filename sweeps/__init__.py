"""The sweeps that the package ships: YAML files, one per experiment, named on the command line without their ending."""
