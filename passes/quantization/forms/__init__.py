"""Quantized models as other tools write them, brought to the one form the other passes know."""
