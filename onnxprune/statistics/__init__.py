"""First and second moments of layer inputs, gathered from calibration data."""
