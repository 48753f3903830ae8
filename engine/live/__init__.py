"""Cameras and streams: sessions, the latency budget, outputs."""
