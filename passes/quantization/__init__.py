"""From a float graph to an int8 one: calibration, ranges, placement, rounding, and the integer ops behind it all."""
