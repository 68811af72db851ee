"""ScaLearn: two-stage transfer learning with scaled source adapters, as a PyTorch library."""
